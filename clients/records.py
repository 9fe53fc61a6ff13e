"""What goes into and comes out of the clients: records, where they were put, new topics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kbroker.types import TopicPartition

CREATE_TIME = 0
"""`timestamp_type`: the producer's clock stamped the record."""
LOG_APPEND_TIME = 1
"""`timestamp_type`: the broker's clock stamped the record."""


class ConsumerRecord(NamedTuple):
    """A record as it was read. `key` and `value` are bytes, or what the deserializers made of them.

    `timestamp` is in ms since 1970 UTC, `timestamp_type` 0 (producer's clock) or 1 (broker's). `leader_epoch` is that
    of the broker process that appended the record; commit it with the offset. `headers` are pairs of name and bytes.
    """

    topic: str
    partition: int
    leader_epoch: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: Any
    value: Any
    headers: list[tuple[str, bytes | None]]

    @property
    def topic_partition(self) -> TopicPartition:
        """Where the record was read."""
        return TopicPartition(self.topic, self.partition)


class RecordMetadata(NamedTuple):
    """Where a record was put. `offset` is -1 with acks=0, and for a repeat that the broker no longer remembers.

    `timestamp` is in ms since 1970: the record's own, or the broker's where the topic says LogAppendTime.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition that took the record."""
        return TopicPartition(self.topic, self.partition)


class OffsetAndTimestamp(NamedTuple):
    """A look-up by timestamp: the first record that is not older. `timestamp` in ms since 1970."""

    offset: int
    timestamp: int
    leader_epoch: int


class OffsetAndMetadata(NamedTuple):
    """A committed offset: of the next record to be read, with a text of the caller's.

    `leader_epoch` of the record before it (-1: not known): with it a consumer notices when that record was lost.
    `committed_at_ms`: when it was committed, in ms since 1970, as `Admin.list_consumer_group_offsets` tells; else -1.
    """

    offset: int
    metadata: str = ""
    leader_epoch: int = -1
    committed_at_ms: int = -1


@dataclass(slots=True)
class NewTopic:
    """A topic to create. `num_partitions` -1: the broker's `num.partitions`.

    `replication_factor` may be 1 or -1 only: there is one host. `topic_configs`: topic settings by Kafka's names.
    """

    name: str
    num_partitions: int = -1
    replication_factor: int = -1
    topic_configs: dict[str, Any] = field(default_factory=dict)


class PartitionDescription(NamedTuple):
    """One partition: the node that owns it (-1: none at the moment) and how often its ownership has started."""

    partition: int
    leader: int
    leader_epoch: int


@dataclass(slots=True)
class TopicDescription:
    """A topic: its id, partitions in order, and the settings of its own."""

    name: str
    topic_id: bytes
    partitions: list[PartitionDescription]
    settings: dict[str, str]


@dataclass(slots=True)
class ConfigEntry:
    """A setting in force. `source`: `topic`, `broker` or `default`; `allowed` says what it may be."""

    name: str
    value: str
    source: str
    doc: str
    allowed: str
