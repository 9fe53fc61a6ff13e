"""Produce: what a request asks of each partition, and the answer out of what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from struct import Struct
from struct import error as StructError
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
from kbroker.kafka.reader import ELEMENTS_MAX, Refused, read_varint
from kbroker.kafka.schema import NO_UUID
from kbroker.records.batch import HEADER_BYTES, LENGTH_END, LENGTH_POSITION, read_header
from kbroker.records.compression import ZSTD

TOPIC_IDS = 13
"""From this version on topics are named by their ids."""
FLEXIBLE: Final = 9
"""From this version on lengths are varints, and tagged fields follow."""
REQUIRED_ACKS = (-1, 0, 1)
_RECORD_ERRORS: Final = 8
_LOG_START: Final = 5
_ZSTD: Final = 7

_NO_RECORDS: Final[Mapping[int, str]] = {}

_SHORT_VARINT: Final = 127
"""A compact length of one byte is at most this."""
_COUNT_MAX: Final = 1000
_NOTHING: Final = memoryview(b"")

_new = tuple.__new__  # makes a NamedTuple in half the time

_FLEXIBLE_HEAD = Struct(">BhiB").unpack_from  # length of the transactional id, acks, timeout, number of topics
_FLEXIBLE_HEAD_BYTES: Final = 8
_FLEXIBLE_PARTITION = Struct(">iB").unpack_from  # index, first byte of the records' size
_FLEXIBLE_ONE = Struct(">Bi").unpack_from  # number of partitions, index of the first
_FLEXIBLE_ONE_BYTES: Final = 5
_ONE: Final = 2  # as a compact count
_NO_TAGS: Final = b"\0\0\0"  # of the partition, the topic, the request
_INDEX = Struct(">i").unpack_from
_OLD_HEAD = Struct(">hhii").unpack_from  # length of the transactional id, acks, timeout, number of topics
_OLD_HEAD_BYTES: Final = 12
_NAME_BYTES = Struct(">h").unpack_from
_OLD_PARTITION = Struct(">ii").unpack_from  # index, size of the records

_SIZE_BYTES: Final = 4
_ONE_ENDS: Final = b"\1\0\0" + b"\0" + b"\0\0\0\0\0"  # record errors, message, tags; tags; throttle time, tags
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


class WantedTopic(NamedTuple):
    """A topic of the request and how many partitions it has there. Its answer repeats `wire_name`, name or id."""

    wire_name: bytes
    name: str
    topic_id: bytes
    partition_count: int


class ProduceRequest(NamedTuple):
    """What a request asks: `wanted` has every partition in its order, `topics` how they are grouped."""

    transactional_id: str | None
    acks: int
    timeout_ms: int
    topics: list[WantedTopic]
    wanted: list[Wanted]

    def check(self) -> None:
        """Raises InvalidRequest (acks, a transaction)."""
        if self.acks not in REQUIRED_ACKS:
            raise InvalidRequest(f"acks={self.acks}: -1 (all), 0 or 1 are possible")
        if self.transactional_id is not None:
            raise InvalidRequest("transactions are not supported yet")

    def keep(self) -> None:
        """Have the records last for longer than the frame, by a copy of them."""
        self.wanted[:] = [item._replace(batches=memoryview(bytearray(item.batches))) for item in self.wanted]

    def strip(self) -> None:
        """Keep no record: they lie in a frame that is used again."""
        self.wanted[:] = [item._replace(batches=_NOTHING) for item in self.wanted]


class Outcome(NamedTuple):
    """What became of one partition's batches."""

    error_code: int
    message: str | None
    base_offset: int
    log_append_time_ms: int
    log_start_offset: int
    records: Mapping[int, str] = _NO_RECORDS
    """The records at fault by their number in the batch, with what is wrong."""


def read(version: int, body: memoryview, elements_max: int = ELEMENTS_MAX) -> ProduceRequest:
    """The request in a frame's body, read by hand. Raises MalformedRequest.

    Whatever is not as clients usually send it goes to the compiled reader, which knows all and says what is wrong.
    """
    try:
        return _read_old(body) if version < FLEXIBLE else _read_flexible(version, body)
    except (IndexError, StructError, UnicodeDecodeError, Refused, _Unusual):
        return read_plainly(version, body, elements_max)


def read_plainly(version: int, body: memoryview, elements_max: int = ELEMENTS_MAX) -> ProduceRequest:
    """As `read`, by the compiled reader."""
    request = codec.read_request(ApiKey.PRODUCE, version, body, elements_max)
    return ProduceRequest(
        request.transactional_id,
        request.acks,
        request.timeout_ms,
        [
            WantedTopic(_wire_name(version, topic), topic.name, topic.topic_id, len(topic.partition_data))
            for topic in request.topic_data
        ],
        [
            Wanted(topic.name, topic.topic_id, partition.index, partition.records or _NOTHING)
            for topic in request.topic_data
            for partition in topic.partition_data
        ],
    )


def _wire_name(version: int, topic: Any) -> bytes:
    if version >= TOPIC_IDS:
        return bytes(topic.topic_id)
    name: bytes = topic.name.encode()
    return (unsigned_varint(len(name) + 1) if version >= FLEXIBLE else _SHORT(len(name))) + name


class _Unusual(Exception):
    """Something that `read` leaves to the compiled reader."""


class Target(NamedTuple):
    """Where the batches of a request for one partition go: what stands before the records in it, which a producer
    repeats in each of its requests for that partition, and what its answers have in common."""

    acks: int
    timeout_ms: int
    topics: list[WantedTopic]
    topic: str
    topic_id: bytes
    partition: int
    answer_bytes: int
    answer_begin: bytes
    pack_answer: Callable[..., bytes]

    def request(self, batches: memoryview) -> ProduceRequest:
        """The request with these batches."""
        wanted = [Wanted(self.topic, self.topic_id, self.partition, batches)]
        return ProduceRequest(None, self.acks, self.timeout_ms, self.topics, wanted)

    def answer(self, correlation_id: int, base_offset: int, append_time_ms: int, log_start_offset: int) -> bytes:
        """The whole answer to a request that went well, as `encode_success` makes it."""
        return self.pack_answer(
            self.answer_bytes,
            correlation_id,
            self.answer_begin,
            base_offset,
            append_time_ms,
            log_start_offset,
            _ONE_ENDS,
        )


@lru_cache(maxsize=1024)
def _target(has_id: bool, begin: bytes) -> Target | None:
    """Read what stands before the records' size; None when that is no request for one partition. All requests of a
    producer for a partition begin alike: only the first one is read, the others are found."""
    transactional_bytes, acks, timeout_ms, topic_count = _FLEXIBLE_HEAD(begin, 0)
    wire_name = begin[_FLEXIBLE_HEAD_BYTES:-_FLEXIBLE_ONE_BYTES]
    partition_count, index = _FLEXIBLE_ONE(begin, len(begin) - _FLEXIBLE_ONE_BYTES)
    if transactional_bytes or topic_count != _ONE or partition_count != _ONE or acks not in REQUIRED_ACKS:
        return None
    if not 0 < len(wire_name) <= _SHORT_VARINT:
        return None
    topic, topic_id = ("", wire_name) if has_id else (wire_name[1:].decode(), NO_UUID)
    topics = [WantedTopic(wire_name, topic, topic_id, 1)]
    answer_begin = b"".join((b"\0", b"\2", wire_name, b"\2", _INT(index), _SHORT(0)))  # no tags; one, one; no error
    pack = Struct(f">ii{len(answer_begin)}sqqq{len(_ONE_ENDS)}s")
    return Target(acks, timeout_ms, topics, topic, topic_id, index, pack.size - _SIZE_BYTES, answer_begin, pack.pack)


def read_one(version: int, body: memoryview) -> tuple[Target, memoryview] | None:
    """The fast twin of `read`, for a request for one partition: its target and its batches. None: it is another one,
    or an unusual one."""
    try:
        has_id = version >= TOPIC_IDS
        begin_bytes = _FLEXIBLE_HEAD_BYTES + (16 if has_id else body[_FLEXIBLE_HEAD_BYTES]) + _FLEXIBLE_ONE_BYTES
        target = _target(has_id, bytes(body[:begin_bytes])) if version >= FLEXIBLE else None
        if target is None:
            return None
        size = body[begin_bytes]
        start = begin_bytes + 1
        if size > _SHORT_VARINT:
            size, start = read_varint(body, start, size)
    except (IndexError, StructError, UnicodeDecodeError, Refused):
        return None
    end = start + size - 1
    if end <= start or bytes(body[end : end + 3]) != _NO_TAGS:
        return None
    return target, body[start:end]


def _read_flexible(version: int, body: memoryview) -> ProduceRequest:
    """Every position is reached by steps forward, and the last one is looked at: so none lay past the end."""
    end = len(body)
    transactional_bytes, acks, timeout_ms, topic_count = _FLEXIBLE_HEAD(body, 0)  # lengths and counts are one more
    if transactional_bytes or not 0 < topic_count <= _SHORT_VARINT:
        raise _Unusual
    position = _FLEXIBLE_HEAD_BYTES
    topics = []
    wanted = []
    for _ in range(topic_count - 1):
        if version >= TOPIC_IDS:
            size = 16
            wire_name = topic_id = bytes(body[position : position + size])
            topic = ""
        else:
            size = body[position]  # with this byte
            if not 0 < size <= _SHORT_VARINT:
                raise _Unusual
            wire_name = bytes(body[position : position + size])
            topic, topic_id = wire_name[1:].decode(), NO_UUID
        position += size
        count = body[position]
        if not 0 < count <= _SHORT_VARINT:
            raise _Unusual
        topics.append(_new(WantedTopic, (wire_name, topic, topic_id, count - 1)))
        position += 1
        for _ in range(count - 1):
            index, size = _FLEXIBLE_PARTITION(body, position)
            start = position + 5
            if size > _SHORT_VARINT:
                size, start = read_varint(body, start, size)
            position = start + size - 1
            if not start <= position < end or body[position]:  # null, too long, or with tagged fields
                raise _Unusual
            wanted.append(_new(Wanted, (topic, topic_id, index, body[start:position])))
            position += 1
        if body[position]:
            raise _Unusual
        position += 1
    if body[position]:
        raise _Unusual
    return _new(ProduceRequest, (None, acks, timeout_ms, topics, wanted))


def _read_old(body: memoryview) -> ProduceRequest:
    end = len(body)
    transactional_bytes, acks, timeout_ms, topic_count = _OLD_HEAD(body, 0)
    if transactional_bytes != -1 or not 0 <= topic_count <= _COUNT_MAX:
        raise _Unusual
    position = _OLD_HEAD_BYTES
    topics = []
    wanted = []
    for _ in range(topic_count):
        size = 2 + _NAME_BYTES(body, position)[0]
        wire_name = bytes(body[position : position + size])
        position += size
        (count,) = _INDEX(body, position)
        if size < 2 or not 0 <= count <= _COUNT_MAX:
            raise _Unusual
        topic = wire_name[2:].decode()
        topics.append(WantedTopic(wire_name, topic, NO_UUID, count))
        position += 4
        for _ in range(count):
            index, size = _OLD_PARTITION(body, position)
            start = position + 8
            position = start + size
            if not start <= position <= end:
                raise _Unusual
            wanted.append(Wanted(topic, NO_UUID, index, body[start:position]))
    return _new(ProduceRequest, (None, acks, timeout_ms, topics, wanted))


def failed(error_code: int, message: str) -> Outcome:
    """Nothing was appended."""
    return Outcome(error_code, message, -1, -1, -1)


def refused(error: KbrokerError) -> Outcome:
    """Nothing was appended, for this reason."""
    records = error.records if isinstance(error, RecordsRefused) else _NO_RECORDS
    return Outcome(code_of(error), str(error), -1, -1, -1, records)


def check_payload(batches: memoryview, version: int) -> None:
    """Raises InvalidRecord unless there is exactly one batch, UnsupportedCompressionType for zstd in an old request."""
    if not batches:
        raise InvalidRecord("a Produce request without records")
    check_one_batch(batches)
    if version < _ZSTD and len(batches) >= HEADER_BYTES and read_header(batches).codec == ZSTD:
        raise UnsupportedCompressionType(f"zstd in Produce version {version}: it may be used from version {_ZSTD} on")


def check_one_batch(batches: memoryview) -> None:
    """Raises InvalidRecord, as Kafka does, when another batch stands behind the first one."""
    if len(batches) > HEADER_BYTES:
        size_bytes = LENGTH_END + _INDEX(batches, LENGTH_POSITION)[0]
        if HEADER_BYTES <= size_bytes <= len(batches) - HEADER_BYTES:
            raise InvalidRecord(
                "a Produce request may have exactly one record batch for each partition, and behind the first one, of "
                f"{size_bytes} bytes, stand {len(batches) - size_bytes} more"
            )


def encode_success(version: int, correlation_id: int, request: ProduceRequest, outcomes: list[Outcome]) -> bytes:
    """The whole answer when every partition went well, its size and header first; as `answer`, by hand."""
    flexible = version >= FLEXIBLE
    out = bytearray(_HEAD(0, correlation_id))
    if flexible:
        out += b"\0"
    out += unsigned_varint(len(request.topics) + 1) if flexible else _INT(len(request.topics))
    number = 0
    for wire_name, _, _, count in request.topics:
        out += wire_name
        out += unsigned_varint(count + 1) if flexible else _INT(count)
        for outcome in outcomes[number : number + count]:
            index = request.wanted[number].partition
            number += 1
            out += _PARTITION(index, 0, outcome.base_offset, outcome.log_append_time_ms)
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


def answer(request: ProduceRequest, outcomes: list[Outcome], cluster: Callable[[], Cluster]) -> Any:
    """The answer, `outcomes` in the order of `wanted`. Who came to the wrong node is told who leads (KIP-951)."""
    types = codec.response_types(ApiKey.PRODUCE)
    known: Cluster | None = None
    leaders: list[Leader | None] = []
    topics = []
    number = 0
    for _, name, topic_id, count in request.topics:
        partitions = []
        for item, outcome in zip(
            request.wanted[number : number + count], outcomes[number : number + count], strict=True
        ):
            found = types.PartitionProduceResponse(
                index=item.partition,
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
                leader = known.leader_of(name or known.name_of(topic_id) or "", item.partition)
                if leader is not None:
                    found.current_leader = types.LeaderIdAndEpoch(leader_id=leader[0], leader_epoch=leader[1])
                    leaders.append(leader)
            partitions.append(found)
        number += count
        topics.append(types.TopicProduceResponse(name=name, topic_id=topic_id, partition_responses=partitions))
    nodes = known.nodes_of(leaders) if known is not None else ()
    return types.ProduceResponse(
        responses=topics,
        node_endpoints=[types.NodeEndpoint(node_id=node.node_id, host=node.host, port=node.port) for node in nodes],
    )
