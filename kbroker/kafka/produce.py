"""Produce: what a request asks of each partition, and the answer out of what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Any, Final, NamedTuple

from kbroker.errors import (
    InvalidRecord,
    InvalidRequest,
    KbrokerError,
    NotLeaderOrFollower,
    RecordsRefused,
    UnsupportedCompressionType,
    code_of,
)
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import Cluster, Leader
from kbroker.kafka.fetch import unsigned_varint
from kbroker.records.batch import HEADER_BYTES, read_header
from kbroker.records.compression import ZSTD

TOPIC_IDS = 13
"""From this version on topics are named by their ids."""
REQUIRED_ACKS = (-1, 0, 1)
_FLEXIBLE: Final = 9
_RECORD_ERRORS: Final = 8
_LOG_START: Final = 5
_ZSTD: Final = 7

_NO_RECORDS: Final[Mapping[int, str]] = {}

_HEAD = Struct(">ii").pack  # size, correlation id
_INT = Struct(">i").pack
_SHORT = Struct(">h").pack
_LONG = Struct(">q").pack
_PARTITION = Struct(">ihqq").pack  # index, error, base offset, log append time


class Wanted(NamedTuple):
    """Batches for one partition. `topic` is empty where only the id is known; `batches` lie in the frame."""

    topic: str
    topic_id: bytes
    partition: int
    batches: memoryview


class Outcome(NamedTuple):
    """What became of one partition's batches."""

    error_code: int
    message: str | None
    base_offset: int
    log_append_time_ms: int
    log_start_offset: int
    records: Mapping[int, str] = _NO_RECORDS
    """The records at fault by their number in the batch, with what is wrong."""


def wanted(request: Any) -> list[Wanted]:
    """Every partition of the request, in its order. Raises InvalidRequest (acks, a transaction)."""
    if request.acks not in REQUIRED_ACKS:
        raise InvalidRequest(f"acks={request.acks}: -1 (all), 0 or 1 are possible")
    if request.transactional_id is not None:
        raise InvalidRequest("transactions are not supported yet")
    return [
        Wanted(topic.name, topic.topic_id, partition.index, partition.records or memoryview(b""))
        for topic in request.topic_data
        for partition in topic.partition_data
    ]


def failed(error_code: int, message: str) -> Outcome:
    """Nothing was appended."""
    return Outcome(error_code, message, -1, -1, -1)


def refused(error: KbrokerError) -> Outcome:
    """Nothing was appended, for this reason."""
    records = error.records if isinstance(error, RecordsRefused) else _NO_RECORDS
    return Outcome(code_of(error), str(error), -1, -1, -1, records)


def check_payload(batches: memoryview, version: int) -> None:
    """Raises InvalidRecord when there is no batch at all, UnsupportedCompressionType for zstd in an old request."""
    if not batches:
        raise InvalidRecord("a Produce request without records")
    if version < _ZSTD and len(batches) >= HEADER_BYTES and read_header(batches).codec == ZSTD:
        raise UnsupportedCompressionType(f"zstd in Produce version {version}: it may be used from version {_ZSTD} on")


def encode_success(version: int, correlation_id: int, request: Any, outcomes: list[Outcome]) -> bytes:
    """The whole answer when every partition went well, its size and header first; as `answer`, by hand."""
    flexible = version >= _FLEXIBLE
    out = bytearray(_HEAD(0, correlation_id))
    if flexible:
        out += b"\0"
    out += unsigned_varint(len(request.topic_data) + 1) if flexible else _INT(len(request.topic_data))
    number = 0
    for topic in request.topic_data:
        if version >= TOPIC_IDS:
            out += topic.topic_id
        else:
            name = topic.name.encode()
            out += (unsigned_varint(len(name) + 1) if flexible else _SHORT(len(name))) + name
        count = len(topic.partition_data)
        out += unsigned_varint(count + 1) if flexible else _INT(count)
        for partition in topic.partition_data:
            outcome = outcomes[number]
            number += 1
            out += _PARTITION(partition.index, 0, outcome.base_offset, outcome.log_append_time_ms)
            if version >= _LOG_START:
                out += _LONG(outcome.log_start_offset)
            if flexible:
                out += b"\1\0\0"  # no record errors, no message, no tags
            elif version >= _RECORD_ERRORS:
                out += b"\0\0\0\0\xff\xff"
        if flexible:
            out += b"\0"
    out += b"\0\0\0\0\0" if flexible else b"\0\0\0\0"  # throttle time
    out[:4] = _INT(len(out) - 4)
    return bytes(out)


def answer(request: Any, outcomes: list[Outcome], cluster: Callable[[], Cluster]) -> Any:
    """The answer, `outcomes` in the order of `wanted`. Who came to the wrong node is told who leads (KIP-951)."""
    types = codec.response_types(ApiKey.PRODUCE)
    known: Cluster | None = None
    leaders: list[Leader | None] = []
    topics = []
    number = 0
    for topic in request.topic_data:
        partitions = []
        for partition in topic.partition_data:
            outcome = outcomes[number]
            found = types.PartitionProduceResponse(
                index=partition.index,
                error_code=outcome.error_code,
                base_offset=outcome.base_offset,
                log_append_time_ms=outcome.log_append_time_ms,
                log_start_offset=outcome.log_start_offset,
                error_message=outcome.message,
                record_errors=[
                    types.BatchIndexAndErrorMessage(batch_index=at, batch_index_error_message=why)
                    for at, why in outcome.records.items()
                ],
            )
            if outcome.error_code == NotLeaderOrFollower.code:
                known = known or cluster()
                leader = known.leader_of(topic.name or known.name_of(topic.topic_id) or "", partition.index)
                if leader is not None:
                    found.current_leader = types.LeaderIdAndEpoch(leader_id=leader[0], leader_epoch=leader[1])
                    leaders.append(leader)
            partitions.append(found)
            number += 1
        topics.append(
            types.TopicProduceResponse(name=topic.name, topic_id=topic.topic_id, partition_responses=partitions)
        )
    nodes = known.nodes_of(leaders) if known is not None else ()
    return types.ProduceResponse(
        responses=topics,
        node_endpoints=[types.NodeEndpoint(node_id=node.node_id, host=node.host, port=node.port) for node in nodes],
    )
