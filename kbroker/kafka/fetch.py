"""Fetch: the answer's bytes, written by hand: the records themselves stay in their files.

The answer is a list of pieces in the order of the wire: bytes, and for each partition with records whatever stands for
them (a stretch of a segment), of which only the size is known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final, Generic, Protocol, TypeVar

from kbroker.kafka.cluster import Node

TOPIC_IDS: Final = 13
"""From this version on topics are named by their ids."""
FLEXIBLE: Final = 12
SESSIONS: Final = 7
LOG_START: Final = 5
PREFERRED_REPLICA: Final = 11
NEW_LEADERS: Final = 16
"""From this version on an answer says who leads a partition that is asked for at the wrong place (KIP-951)."""

_INT = Struct(">i").pack
_SHORT = Struct(">h").pack
_PARTITION = Struct(">ihqq").pack  # index, error, high watermark, last stable offset
_LONG = Struct(">q").pack
# Size, correlation id, no tags, throttle time, no error, session id, one topic.
_ONE_BEGINS = Struct(">iiBihiB").pack
# One partition: index, no error, high watermark, last stable offset, log start offset, aborted transactions, no
# preferred replica.
_ONE_PARTITION = Struct(">BihqqqBi").pack
_ONE_ENDS: Final = b"\0\0\0"  # no tags of the partition, of its topic, of all
_ONE_BYTES: Final = Struct(">iBihiB").size + Struct(">BihqqqBi").size + len(_ONE_ENDS)


class Records(Protocol):
    """Whole batches that are sent as they lie in a file."""

    @property
    def size_bytes(self) -> int: ...


R = TypeVar("R", bound=Records)


class FetchedPartition(Generic[R]):
    """What is answered for one partition. `diverging`: epoch and end offset where the client's log goes another way.
    `current_leader`: node and epoch, where the client asked the wrong node or with another epoch."""

    __slots__ = (
        "current_leader",
        "diverging",
        "error_code",
        "high_watermark",
        "index",
        "last_stable_offset",
        "log_start_offset",
        "records",
        "topic",
        "topic_id",
    )

    def __init__(self, topic: str, topic_id: bytes, index: int) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.index = index
        self.error_code = 0
        self.high_watermark = -1
        self.last_stable_offset = -1
        self.log_start_offset = -1
        self.diverging: tuple[int, int] | None = None
        self.current_leader: tuple[int, int] | None = None
        self.records: R | None = None

    def fail(self, error_code: int) -> None:
        """Nothing is known but that."""
        self.error_code = error_code
        self.high_watermark = self.last_stable_offset = self.log_start_offset = -1
        self.diverging = self.records = None


def unsigned_varint(value: int) -> bytes:
    """A number as compact lengths and tags are written."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(
    version: int,
    correlation_id: int,
    topics: list[list[FetchedPartition[R]]],
    *,
    error_code: int = 0,
    session_id: int = 0,
    read_committed: bool = False,
    nodes: Sequence[Node] = (),
) -> list[bytes | R]:
    """The whole answer, its size and header first. `topics` holds the partitions of each topic together, `nodes` are
    those that `current_leader` names."""
    flexible = version >= FLEXIBLE
    out = bytearray(4) + _INT(correlation_id)
    pieces: list[bytes | R] = []
    size = 0
    if flexible:
        out += b"\0"
    out += b"\0\0\0\0"  # throttle time
    if version >= SESSIONS:
        out += _SHORT(error_code) + _INT(session_id)
    out += unsigned_varint(len(topics) + 1) if flexible else _INT(len(topics))
    # Without transactions there are none that were aborted; a client that reads uncommitted is told null.
    if flexible:
        aborted = b"\1" if read_committed else b"\0"
    else:
        aborted = b"\0\0\0\0" if read_committed else b"\xff\xff\xff\xff"
    for partitions in topics:
        out += _topic_head(version, partitions[0].topic, partitions[0].topic_id)
        out += unsigned_varint(len(partitions) + 1) if flexible else _INT(len(partitions))
        for partition in partitions:
            out += _PARTITION(
                partition.index, partition.error_code, partition.high_watermark, partition.last_stable_offset
            )
            if version >= LOG_START:
                out += _LONG(partition.log_start_offset)
            out += aborted
            if version >= PREFERRED_REPLICA:
                out += b"\xff\xff\xff\xff"
            records = partition.records
            count = 0 if records is None else records.size_bytes
            out += unsigned_varint(count + 1) if flexible else _INT(count)
            if records is not None:
                pieces += (bytes(out), records)
                size += len(out) + count
                out = bytearray()
            if flexible:
                out += _tags(version, partition)
        if flexible:
            out += b"\0"
    if flexible:
        out += _endpoints(nodes) if nodes and version >= NEW_LEADERS else b"\0"
    if out:
        pieces.append(bytes(out))
        size += len(out)
    first = pieces[0]
    assert isinstance(first, bytes)
    pieces[0] = _INT(size - 4) + first[4:]
    return pieces


def encode_one(
    version: int, correlation_id: int, partition: FetchedPartition[R], session_id: int, read_committed: bool
) -> list[bytes | R] | None:
    """As `encode`, for one partition that has records and nothing unusual to say. None: it is not such a one."""
    records = partition.records
    if (
        version < FLEXIBLE
        or records is None
        or partition.error_code
        or partition.diverging is not None
        or partition.current_leader is not None
    ):
        return None
    topic = partition.topic_id if version >= TOPIC_IDS else _topic_head(version, partition.topic, partition.topic_id)
    count = records.size_bytes
    length = unsigned_varint(count + 1)
    size = _ONE_BYTES + len(topic) + len(length) + count
    begin = _ONE_BEGINS(size, correlation_id, 0, 0, 0, session_id, 2)
    bounds = _ONE_PARTITION(
        2,
        partition.index,
        0,
        partition.high_watermark,
        partition.last_stable_offset,
        partition.log_start_offset,
        1 if read_committed else 0,
        -1,
    )
    return [begin + topic + bounds + length, records, _ONE_ENDS]


def _topic_head(version: int, topic: str, topic_id: bytes) -> bytes:
    if version >= TOPIC_IDS:
        return topic_id
    name = topic.encode()
    return (unsigned_varint(len(name) + 1) if version >= FLEXIBLE else _SHORT(len(name))) + name


def _tags(version: int, partition: FetchedPartition[R]) -> bytes:
    tags = []
    if partition.diverging is not None:
        epoch, end_offset = partition.diverging
        tags.append(b"\0\x0d" + _INT(epoch) + _LONG(end_offset) + b"\0")
    if partition.current_leader is not None and version >= NEW_LEADERS:
        leader, epoch = partition.current_leader
        tags.append(b"\1\x09" + _INT(leader) + _INT(epoch) + b"\0")
    return bytes((len(tags),)) + b"".join(tags)


def _endpoints(nodes: Sequence[Node]) -> bytes:
    """The tagged field NodeEndpoints, as the only one."""
    out = bytearray(unsigned_varint(len(nodes) + 1))
    for node in nodes:
        host = node.host.encode()
        out += _INT(node.node_id) + unsigned_varint(len(host) + 1) + host + _INT(node.port)
        out += b"\0\0"  # no rack, no tags
    return b"\1\0" + unsigned_varint(len(out)) + out
