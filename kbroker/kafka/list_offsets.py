"""ListOffsets: the earliest and latest offset, or the first at a timestamp, of each partition asked about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey


class Found(NamedTuple):
    """Where that is; offset and timestamp -1: there is no such record."""

    error_code: int = 0
    offset: int = -1
    timestamp_ms: int = -1
    leader_epoch: int = -1


Find = Callable[[str, int, int, int], Found]
"""topic, partition, the leader epoch the client knows (-1: none), timestamp"""


def answer(request: Any, find: Find) -> Any:
    """The answer, each partition looked up by `find`."""
    types = codec.response_types(ApiKey.LIST_OFFSETS)
    topics = []
    for topic in request.topics:
        partitions = []
        for item in topic.partitions:
            found = find(topic.name, item.partition_index, item.current_leader_epoch, item.timestamp)
            partition = types.ListOffsetsPartitionResponse(
                partition_index=item.partition_index,
                error_code=found.error_code,
                timestamp=found.timestamp_ms,
                offset=found.offset,
                leader_epoch=found.leader_epoch,
            )
            partitions.append(partition)
        topics.append(types.ListOffsetsTopicResponse(name=topic.name, partitions=partitions))
    return types.ListOffsetsResponse(topics=topics)
