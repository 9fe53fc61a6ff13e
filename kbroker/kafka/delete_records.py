"""DeleteRecords: which partitions are to begin at which offset, and where they begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey


class Deletion(NamedTuple):
    """A partition that is to begin at that offset; -1: at the high watermark."""

    topic: str
    partition: int
    before_offset: int


class Result(NamedTuple):
    """Where a partition begins now; -1: nothing was done."""

    error_code: int
    log_start_offset: int = -1


def wanted(request: Any) -> list[Deletion]:
    """Every partition of the request, in its order."""
    return [
        Deletion(topic.name, item.partition_index, item.offset) for topic in request.topics for item in topic.partitions
    ]


def answer(request: Any, results: Sequence[Result]) -> Any:
    """The answer, `results` in the order of `wanted`."""
    types = codec.response_types(ApiKey.DELETE_RECORDS)
    found = iter(results)
    topics = []
    for topic in request.topics:
        partitions = []
        for item in topic.partitions:
            result = next(found)
            partitions.append(
                types.DeleteRecordsPartitionResult(
                    partition_index=item.partition_index,
                    low_watermark=result.log_start_offset,
                    error_code=result.error_code,
                )
            )
        topics.append(types.DeleteRecordsTopicResult(name=topic.name, partitions=partitions))
    return types.DeleteRecordsResponse(topics=topics)
