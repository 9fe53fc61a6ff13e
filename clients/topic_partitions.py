"""Which partition a record goes to."""

from __future__ import annotations

import random
from functools import lru_cache

from kbroker.clients.producer_options import Partitioner
from kbroker.errors import ConfigError
from kbroker.records.partitioner import murmur2
from kbroker.types import TopicPartition

_hash = lru_cache(maxsize=16_384)(murmur2)
"""Keys repeat, and murmur2 in Python costs microseconds."""


class TopicPartitions:
    """The partitions of one topic. Records without a key stick to one until its batch is full, then to another.

    `batch_bytes_max`: the largest batch that the broker takes for it; 0: it has not told.
    """

    __slots__ = ("all", "batch_bytes_max", "owned", "sticky", "topic")

    def __init__(self, topic: str, count: int) -> None:
        self.topic = topic
        self.all = [TopicPartition(topic, partition) for partition in range(count)]
        self.owned = list(range(count))
        self.batch_bytes_max = 0
        self.sticky = self.all[random.randrange(count)]

    def update(self, leaders: list[int]) -> None:
        """Fresh metadata: the node that owns each partition, -1 for none."""
        if len(leaders) != len(self.all):  # more, or the topic was deleted and made again
            self.all = [TopicPartition(self.topic, partition) for partition in range(len(leaders))]
            self.sticky = self.all[min(self.sticky.partition, len(leaders) - 1)]
        self.owned = [partition for partition, leader in enumerate(leaders) if leader >= 0]

    def for_key(self, key: bytes) -> TopicPartition:
        """Where a Java client would put the key."""
        return self.all[(_hash(key) & 0x7FFFFFFF) % len(self.all)]

    def number(self, partition: int) -> TopicPartition:
        """The partition that the caller named. Raises ConfigError when there is none of that number."""
        if not isinstance(partition, int) or not 0 <= partition < len(self.all):
            raise ConfigError(
                f"partition={partition!r} is not valid: topic {self.topic!r} has partitions 0 … {len(self.all) - 1}"
            )
        return self.all[partition]

    def chosen(self, partitioner: Partitioner, key: bytes | None) -> TopicPartition:
        """What the caller's own partitioner says."""
        return self.number(partitioner(key, list(range(len(self.all))), list(self.owned)))

    def next_sticky(self) -> TopicPartition:
        """Another partition for records without a key, one that has an owner if there is one."""
        choices = self.owned if len(self.owned) > 1 else range(len(self.all))
        if len(choices) > 1:
            choice = self.sticky.partition
            while choice == self.sticky.partition:
                choice = choices[random.randrange(len(choices))]
            self.sticky = self.all[choice]
        return self.sticky
