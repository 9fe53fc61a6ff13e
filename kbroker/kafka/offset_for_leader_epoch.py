"""OffsetForLeaderEpoch: where the records of a leader epoch end, so that a client notices that a log was cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey


class Found(NamedTuple):
    """The largest epoch at or below the one asked about, and its end; -1: not known."""

    error_code: int = 0
    leader_epoch: int = -1
    end_offset: int = -1


Find = Callable[[str, int, int, int], Found]
"""topic, partition, the leader epoch the client knows (-1: none), the epoch it asks about"""


def answer(request: Any, find: Find) -> Any:
    """The answer, each partition looked up by `find`."""
    types = codec.response_types(ApiKey.OFFSET_FOR_LEADER_EPOCH)
    topics = []
    for topic in request.topics:
        partitions = []
        for item in topic.partitions:
            found = find(topic.topic, item.partition, item.current_leader_epoch, item.leader_epoch)
            partitions.append(
                types.EpochEndOffset(
                    error_code=found.error_code,
                    partition=item.partition,
                    leader_epoch=found.leader_epoch,
                    end_offset=found.end_offset,
                )
            )
        topics.append(types.OffsetForLeaderTopicResult(topic=topic.topic, partitions=partitions))
    return types.OffsetForLeaderEpochResponse(topics=topics)
