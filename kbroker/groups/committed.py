"""Committed offsets, and the records of `__consumer_offsets` that carry them, in Kafka's own format.

    key    int16 1 · group string · topic string · partition int32
    value  int16 3 · offset int64 · leader epoch int32 · metadata string · commit time int64 (ms since 1970)
           int16 1 · offset int64 · metadata string · commit time int64 · expiry int64, where a client gave a retention

A string is an int16 length and UTF-8. A record without a value forgets its key.
"""

from __future__ import annotations

from struct import Struct, error
from sys import getsizeof, intern
from typing import Final, NamedTuple

from kbroker.groups.fields import INT16, INT32, INT64, text
from kbroker.groups.room import OFFSET_BYTES

_VALUE: Final = Struct(">qi")
KEY_VERSION: Final = 1
VALUE_VERSION: Final = 3
EXPIRING_VALUE_VERSION: Final = 1


class Place(NamedTuple):
    """Whose offset in which partition."""

    group: str
    topic: str
    partition: int


class Committed(NamedTuple):
    """Where that group reads on there. `leader_epoch` -1: not known. `expire_ms` -1: as long as the broker keeps it."""

    offset: int
    leader_epoch: int
    metadata: str
    commit_ms: int
    expire_ms: int = -1


class CommittedOffsets:
    """All that is committed, by group."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[tuple[str, int], Committed]] = {}
        self._bytes: dict[str, int] = {}
        self._by_topic: dict[str, dict[str, int]] = {}
        """How many offsets each group has in a topic."""

    def groups_in(self, topic: str) -> list[str]:
        """The groups that have committed something in that topic."""
        return list(self._by_topic.get(topic, ()))

    def size_bytes(self, group: str) -> int:
        """About the memory that a group's offsets take."""
        return self._bytes.get(group, 0)

    def get(self, place: Place) -> Committed | None:
        """What was committed there last."""
        return self._groups.get(place.group, {}).get((place.topic, place.partition))

    def groups(self) -> list[str]:
        """The groups that have committed something."""
        return sorted(self._groups)

    def of_group(self, group: str) -> dict[tuple[str, int], Committed]:
        """All of a group, by topic and partition."""
        return self._groups.get(group, {})

    def put(self, place: Place, committed: Committed | None) -> None:
        """Take over a commit; None forgets it."""
        group, topic, partition = place
        if committed is not None:
            offsets = self._groups.setdefault(group, {})
            before = offsets.get((topic, partition))
            offsets[intern(topic), partition] = committed
            if before is None:
                groups = self._by_topic.setdefault(topic, {})
                groups[group] = groups.get(group, 0) + 1
            self._bytes[group] = self._bytes.get(group, 0) + memory_of(committed) - memory_of(before)
            return
        offsets = self._groups.get(group, {})
        gone = offsets.pop((topic, partition), None)
        if gone is not None:
            self._bytes[group] -= memory_of(gone)
            self._leave(topic, group)
        if not offsets:
            self.drop(group)

    def drop(self, group: str) -> None:
        """Forget all of a group."""
        for topic, _ in self._groups.pop(group, ()):
            self._leave(topic, group)
        self._bytes.pop(group, None)

    def _leave(self, topic: str, group: str) -> None:
        groups = self._by_topic[topic]
        groups[group] -= 1
        if not groups[group]:
            del groups[group]
        if not groups:
            del self._by_topic[topic]


def memory_of(committed: Committed | None) -> int:
    """About the memory that a commit takes, in bytes: a text with one rare character takes four for each."""
    return 0 if committed is None else OFFSET_BYTES + getsizeof(committed.metadata)


def encode_key(place: Place) -> bytes:
    """The key of a commit's record."""
    return INT16.pack(KEY_VERSION) + text(place.group) + text(place.topic) + INT32.pack(place.partition)


def encode_value(committed: Committed) -> bytes:
    """The value of a commit's record."""
    tail = text(committed.metadata) + INT64.pack(committed.commit_ms)
    if committed.expire_ms >= 0:  # As in Kafka: only this version has the field, and it has no leader epoch.
        head = INT16.pack(EXPIRING_VALUE_VERSION) + INT64.pack(committed.offset)
        return head + tail + INT64.pack(committed.expire_ms)
    return INT16.pack(VALUE_VERSION) + _VALUE.pack(committed.offset, committed.leader_epoch) + tail


def decode(key: bytes | None, value: bytes | None) -> tuple[Place, Committed | None] | None:
    """The commit in a record; None for a record of another kind, or one that is damaged."""
    if key is None:
        return None
    try:
        if INT16.unpack_from(key)[0] not in (0, KEY_VERSION):
            return None
        group, position = _text_at(key, 2)
        topic, position = _text_at(key, position)
        place = Place(group, topic, INT32.unpack_from(key, position)[0])
        if value is None:
            return place, None
        committed = _decode_value(value)
    except (error, UnicodeDecodeError):
        return None
    return None if committed is None else (place, committed)


def _decode_value(value: bytes) -> Committed | None:
    version = INT16.unpack_from(value)[0]
    if version == VALUE_VERSION:
        offset, leader_epoch = _VALUE.unpack_from(value, 2)
        metadata, position = _text_at(value, 2 + _VALUE.size)
        return Committed(offset, leader_epoch, metadata, INT64.unpack_from(value, position)[0])
    if version == EXPIRING_VALUE_VERSION:
        metadata, position = _text_at(value, 2 + INT64.size)
        commit_ms, expire_ms = INT64.unpack_from(value, position)[0], INT64.unpack_from(value, position + 8)[0]
        return Committed(INT64.unpack_from(value, 2)[0], -1, metadata, commit_ms, expire_ms)
    return None


def _text_at(data: bytes, position: int) -> tuple[str, int]:
    start = position + 2
    end = start + int(INT16.unpack_from(data, position)[0])
    return data[start:end].decode(), end
