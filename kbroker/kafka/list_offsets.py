"""ListOffsets: the earliest and latest offset, or the first at a timestamp, of each partition asked about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from kbroker.errors import InvalidRequest, UnsupportedVersion
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.types import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP

LATEST: Final = int(LATEST_TIMESTAMP)
EARLIEST: Final = int(EARLIEST_TIMESTAMP)
MAX_TIMESTAMP: Final = -3
"""The record with the largest timestamp."""
EARLIEST_LOCAL: Final = -4
"""The first record on this host; nothing lies elsewhere."""
LATEST_TIERED: Final = -5
"""The last record that lies elsewhere: there is none."""
EARLIEST_PENDING_UPLOAD: Final = -6
"""The first record that is still to be copied elsewhere: there is none."""
_SINCE_VERSION: Final = {
    LATEST: 0,
    EARLIEST: 0,
    MAX_TIMESTAMP: 7,
    EARLIEST_LOCAL: 8,
    LATEST_TIERED: 9,
    EARLIEST_PENDING_UPLOAD: 11,
}
_READ_COMMITTED: Final = 1


class Query(NamedTuple):
    """What is asked about one partition. `timestamp_ms` may be one of the names above."""

    topic: str
    partition: int
    current_leader_epoch: int
    timestamp_ms: int
    read_committed: bool


class Found(NamedTuple):
    """Where that is; offset and timestamp -1: there is no such record."""

    error_code: int = 0
    offset: int = -1
    timestamp_ms: int = -1
    leader_epoch: int = -1


def questions(request: Any, version: int) -> list[Query | Found]:
    """What is asked of each partition, in the request's order; what cannot be asked so is answered already."""
    often = Counter((topic.name, item.partition_index) for topic in request.topics for item in topic.partitions)
    committed = request.isolation_level == _READ_COMMITTED
    found: list[Query | Found] = []
    for topic in request.topics:
        for item in topic.partitions:
            query = Query(topic.name, item.partition_index, item.current_leader_epoch, item.timestamp, committed)
            code = _fault(request, version, query, often[query.topic, query.partition])
            found.append(Found(code) if code else query)
    return found


def answer(request: Any, results: Iterable[Found]) -> Any:
    """The answer, with a result for each question."""
    types = codec.response_types(ApiKey.LIST_OFFSETS)
    following = iter(results)
    topics = []
    for topic in request.topics:
        partitions = []
        for item in topic.partitions:
            found = next(following)
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


def refusals(request: Any, version: int, answer: Any) -> list[tuple[str, str]]:
    """What was asked in a way that cannot be, by the answer's codes: which partition, and why not."""
    return [
        (
            f"ListOffsets of {topic.name:.249}-{item.partition_index}",
            f"version {version} has no timestamp {asked.timestamp} (a newer one has), replicas do not ask here, and a "
            "partition is named once",
        )
        for topic, asked_topic in zip(answer.topics, request.topics, strict=True)
        for item, asked in zip(topic.partitions, asked_topic.partitions, strict=True)
        if item.error_code in (InvalidRequest.code, UnsupportedVersion.code)
    ]


def _fault(request: Any, version: int, query: Query, often: int) -> int:
    """The error code of what cannot be asked so; 0: it can."""
    if request.replica_id >= 0 or often > 1:
        return InvalidRequest.code
    if query.timestamp_ms < 0 and _SINCE_VERSION.get(query.timestamp_ms, version + 1) > version:
        return UnsupportedVersion.code
    return 0
