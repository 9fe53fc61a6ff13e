"""Committed offsets, and the records of `__consumer_offsets` that carry them, in Kafka's own format.

    key    int16 1 · group string · topic string · partition int32
    value  int16 3 · offset int64 · leader epoch int32 · metadata string · commit time int64 (ms since 1970)

A string is an int16 length and UTF-8. A record without a value forgets its key.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, error
from typing import Final, NamedTuple

_SHORT: Final = Struct(">h")
_INT: Final = Struct(">i")
_VALUE: Final = Struct(">qi")
_LONG: Final = Struct(">q")
KEY_VERSION: Final = 1
VALUE_VERSION: Final = 3


class Place(NamedTuple):
    """Whose offset in which partition."""

    group: str
    topic: str
    partition: int


class Committed(NamedTuple):
    """Where that group reads on there. `leader_epoch` -1: not known."""

    offset: int
    leader_epoch: int
    metadata: str
    commit_ms: int


class CommittedOffsets:
    """All that is committed, by group."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[tuple[str, int], Committed]] = {}

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
        if committed is not None:
            self._groups.setdefault(place.group, {})[place.topic, place.partition] = committed
            return
        offsets = self._groups.get(place.group, {})
        offsets.pop((place.topic, place.partition), None)
        if not offsets:
            self._groups.pop(place.group, None)

    def places(self) -> Iterator[tuple[Place, Committed]]:
        """Everything."""
        for group, offsets in self._groups.items():
            for (topic, partition), committed in offsets.items():
                yield Place(group, topic, partition), committed


def encode_key(place: Place) -> bytes:
    """The key of a commit's record."""
    return _SHORT.pack(KEY_VERSION) + _text(place.group) + _text(place.topic) + _INT.pack(place.partition)


def encode_value(committed: Committed) -> bytes:
    """The value of a commit's record."""
    head = _SHORT.pack(VALUE_VERSION) + _VALUE.pack(committed.offset, committed.leader_epoch)
    return head + _text(committed.metadata) + _LONG.pack(committed.commit_ms)


def decode(key: bytes | None, value: bytes | None) -> tuple[Place, Committed | None] | None:
    """The commit in a record; None for a record of another kind, or one that is damaged."""
    if key is None:
        return None
    try:
        if _SHORT.unpack_from(key)[0] not in (0, KEY_VERSION):
            return None  # a group's members, which nobody here writes yet
        group, position = _text_at(key, 2)
        topic, position = _text_at(key, position)
        place = Place(group, topic, _INT.unpack_from(key, position)[0])
        if value is None:
            return place, None
        if _SHORT.unpack_from(value)[0] != VALUE_VERSION:
            return None
        offset, leader_epoch = _VALUE.unpack_from(value, 2)
        metadata, position = _text_at(value, 2 + _VALUE.size)
        return place, Committed(offset, leader_epoch, metadata, _LONG.unpack_from(value, position)[0])
    except (error, UnicodeDecodeError):
        return None


def _text(text: str) -> bytes:
    data = text.encode()
    return _SHORT.pack(len(data)) + data


def _text_at(data: bytes, position: int) -> tuple[str, int]:
    start = position + 2
    end = start + int(_SHORT.unpack_from(data, position)[0])
    return data[start:end].decode(), end
