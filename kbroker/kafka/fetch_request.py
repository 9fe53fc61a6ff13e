"""Fetch: what a request asks, read by hand when it is as clients usually send it."""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Any, Final, NamedTuple

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.fetch import FLEXIBLE, SESSIONS, TOPIC_IDS
from kbroker.kafka.reader import ELEMENTS_MAX
from kbroker.kafka.schema import NO_UUID

_LOG_START: Final = 5
_LEADER_EPOCH: Final = 9
_RACK: Final = 11
_REPLICA_STATE: Final = 15
"""From this version on only replicas say who they are, in a tagged field."""

_SHORT_VARINT: Final = 127
"""A compact length of one byte is at most this."""
_COUNT_MAX: Final = 1000
_CONSUMER: Final = -1
"""The replica id of who is none."""
_NO_EPOCH: Final = -1
_FULL_EPOCH: Final = -1
"""The session epoch of a request that belongs to no session."""

_HEAD = Struct(">iiiib").unpack_from  # replica id, max wait, min bytes, max bytes, isolation level
_HEAD_BYTES: Final = 17
_SESSION = Struct(">ii").unpack_from  # session id, session epoch
_SESSION_BYTES: Final = 8
_COUNT = Struct(">i").unpack_from
_NAME_BYTES = Struct(">h").unpack_from
_FIRST_PARTITION = Struct(">iqi").unpack_from  # index, fetch offset, max bytes
_FIRST_PARTITION_BYTES: Final = 16
_STARTED_PARTITION = Struct(">iqqi").unpack_from  # the same with the log start offset after the fetch offset
_STARTED_PARTITION_BYTES: Final = 24
_EPOCH_PARTITION = Struct(">iiqqi").unpack_from  # the same with the leader epoch after the index
_EPOCH_PARTITION_BYTES: Final = 28

_NAMED_HEAD = Struct(">iiiibiiB").unpack_from  # replica id …, session …, number of topics
_NAMED_HEAD_BYTES: Final = 26
_FLEXIBLE_HEAD = Struct(">iiibiiB").unpack_from  # the same without the replica id
_FLEXIBLE_HEAD_BYTES: Final = 22
# Index, leader epoch, fetch offset, last fetched epoch, log start offset, max bytes, tags.
_FLEXIBLE_PARTITION = Struct(">iiqiqiB").unpack_from
_FLEXIBLE_PARTITION_BYTES: Final = 33
_NOTHING_MORE: Final = b"\1\1\0"  # no forgotten topics, no rack, no tags

_new = tuple.__new__  # makes a NamedTuple in half the time


class AskedPartition(NamedTuple):
    """From where one partition is to be read, and how much. `topic` is empty where only the id is known."""

    topic: str
    topic_id: bytes
    partition: int
    fetch_offset: int
    max_bytes: int
    current_leader_epoch: int
    last_fetched_epoch: int


class Forgotten(NamedTuple):
    """A partition that a session is to forget."""

    topic: str
    topic_id: bytes
    partition: int


class FetchRequest(NamedTuple):
    """What a request asks. `is_replica`: another broker says that it is one of ours."""

    is_replica: bool
    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    isolation_level: int
    session_id: int
    session_epoch: int
    asked: list[AskedPartition]
    forgotten: list[Forgotten]


def read(version: int, body: memoryview, elements_max: int = ELEMENTS_MAX) -> FetchRequest:
    """The request in a frame's body, read by hand. Raises MalformedRequest.

    Whatever is not as clients usually send it goes to the compiled reader, which knows all and says what is wrong.
    """
    try:
        return _read_flexible(version, body) if version >= FLEXIBLE else _read_old(version, body)
    except (IndexError, StructError, UnicodeDecodeError, _Unusual):
        return read_plainly(version, body, elements_max)


def read_plainly(version: int, body: memoryview, elements_max: int = ELEMENTS_MAX) -> FetchRequest:
    """As `read`, by the compiled reader."""
    return of_message(codec.read_request(ApiKey.FETCH, version, body, elements_max))


def of_message(message: Any) -> FetchRequest:
    """What a decoded message asks."""
    replica = message.replica_state
    return FetchRequest(
        message.replica_id >= 0 or (replica is not None and replica.replica_id >= 0),
        message.max_wait_ms,
        message.min_bytes,
        message.max_bytes,
        message.isolation_level,
        message.session_id,
        message.session_epoch,
        [
            AskedPartition(
                topic.topic,
                topic.topic_id,
                item.partition,
                item.fetch_offset,
                item.partition_max_bytes,
                item.current_leader_epoch,
                item.last_fetched_epoch,
            )
            for topic in message.topics
            for item in topic.partitions
        ],
        [
            Forgotten(topic.topic, topic.topic_id, index)
            for topic in message.forgotten_topics_data
            for index in topic.partitions
        ],
    )


class _Unusual(Exception):
    """Something that `read` leaves to the compiled reader."""


def _read_flexible(version: int, body: memoryview) -> FetchRequest:
    """Every position is reached by steps forward, and the last one is looked at: so none lay past the end."""
    if version >= _REPLICA_STATE:
        wait_ms, min_bytes, max_bytes, isolation, session_id, epoch, topic_count = _FLEXIBLE_HEAD(body, 0)
        replica_id, position = _CONSUMER, _FLEXIBLE_HEAD_BYTES
    else:
        replica_id, wait_ms, min_bytes, max_bytes, isolation, session_id, epoch, topic_count = _NAMED_HEAD(body, 0)
        position = _NAMED_HEAD_BYTES
    if not 0 < topic_count <= _SHORT_VARINT:  # lengths and counts are one more
        raise _Unusual
    asked = []
    topic, topic_id = "", NO_UUID
    for _ in range(topic_count - 1):
        if version >= TOPIC_IDS:
            start, position = position, position + 16
            topic_id = bytes(body[start:position])
        else:
            start = position + 1
            position += body[position]
            if not start <= position <= start + _SHORT_VARINT - 1:
                raise _Unusual
            topic = str(body[start:position], "utf-8")
        count = body[position]
        position += 1
        if not 0 < count <= _SHORT_VARINT:
            raise _Unusual
        for _ in range(count - 1):
            index, leader_epoch, offset, last_epoch, _, most, tags = _FLEXIBLE_PARTITION(body, position)
            if tags:
                raise _Unusual
            position += _FLEXIBLE_PARTITION_BYTES
            asked.append(_new(AskedPartition, (topic, topic_id, index, offset, most, leader_epoch, last_epoch)))
        if body[position]:  # tagged fields of the topic
            raise _Unusual
        position += 1
    if bytes(body[position : position + 3]) != _NOTHING_MORE:
        rack = body[position + 1]
        if body[position] != 1 or not 0 < rack <= _SHORT_VARINT or body[position + 1 + rack]:  # forgotten topics; tags
            raise _Unusual
        str(body[position + 2 : position + 1 + rack], "utf-8")
    return _new(FetchRequest, (replica_id >= 0, wait_ms, min_bytes, max_bytes, isolation, session_id, epoch, asked, []))


def _read_old(version: int, body: memoryview) -> FetchRequest:
    replica_id, wait_ms, min_bytes, max_bytes, isolation = _HEAD(body, 0)
    position = _HEAD_BYTES
    session_id, epoch = 0, _FULL_EPOCH
    if version >= SESSIONS:
        session_id, epoch = _SESSION(body, position)
        position += _SESSION_BYTES
    (topic_count,) = _COUNT(body, position)
    position += 4
    if not 0 <= topic_count <= _COUNT_MAX:
        raise _Unusual
    asked = []
    leader_epoch = _NO_EPOCH
    for _ in range(topic_count):
        start = position + 2
        position = start + _NAME_BYTES(body, position)[0]
        if position < start:
            raise _Unusual
        topic = str(body[start:position], "utf-8")
        (count,) = _COUNT(body, position)
        position += 4
        if not 0 <= count <= _COUNT_MAX:
            raise _Unusual
        for _ in range(count):
            if version >= _LEADER_EPOCH:
                index, leader_epoch, offset, _, most = _EPOCH_PARTITION(body, position)
                position += _EPOCH_PARTITION_BYTES
            elif version >= _LOG_START:
                index, offset, _, most = _STARTED_PARTITION(body, position)
                position += _STARTED_PARTITION_BYTES
            else:
                index, offset, most = _FIRST_PARTITION(body, position)
                position += _FIRST_PARTITION_BYTES
            asked.append(_new(AskedPartition, (topic, NO_UUID, index, offset, most, leader_epoch, _NO_EPOCH)))
    if version >= SESSIONS and _COUNT(body, position)[0]:  # forgotten topics
        raise _Unusual
    if version >= _RACK:
        start = position + 6
        position = start + _NAME_BYTES(body, position + 4)[0]
        if not start <= position <= len(body):
            raise _Unusual
        str(body[start:position], "utf-8")
    return _new(FetchRequest, (replica_id >= 0, wait_ms, min_bytes, max_bytes, isolation, session_id, epoch, asked, []))
