"""The protocol of type "consumer", which classic members speak to each other through the coordinator.

    subscription  version int16 · topics array of string · user data nullable bytes
                  · v1: owned partitions · v2: generation int32 · v3: rack nullable string
    assignment    version int16 · partitions · user data nullable bytes
    partitions    array of (topic string · array of partition int32)

A version that is not known yet begins like the newest one that is.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kbroker.groups.fields import INT16, INT32, FieldReader, nullable_blob, nullable_text, text

PROTOCOL_TYPE: Final = "consumer"
VERSION_NEWEST: Final = 3

Partitions = dict[str, tuple[int, ...]]
"""Partitions by topic."""


class Subscription(NamedTuple):
    """What a member tells the leader. `generation_id` -1: none; it says to which generation the owned ones belong."""

    topics: tuple[str, ...]
    user_data: bytes | None = None
    owned: Partitions = {}  # noqa: RUF012  (a default nobody changes)
    generation_id: int = -1
    rack_id: str | None = None


class Assignment(NamedTuple):
    """What the leader gives a member."""

    partitions: Partitions
    user_data: bytes | None = None


def version_of(data: bytes) -> int:
    """The version of a subscription or assignment."""
    return FieldReader(data).int16()


def encode_subscription(subscription: Subscription, version: int = VERSION_NEWEST) -> bytes:
    """What goes into JoinGroup as a protocol's metadata."""
    pieces = [INT16.pack(version), INT32.pack(len(subscription.topics))]
    pieces += [text(topic) for topic in subscription.topics]
    pieces.append(nullable_blob(subscription.user_data))
    if version >= 1:
        pieces.append(_encode_partitions(subscription.owned))
    if version >= 2:
        pieces.append(INT32.pack(subscription.generation_id))
    if version >= 3:
        pieces.append(nullable_text(subscription.rack_id))
    return b"".join(pieces)


def decode_subscription(data: bytes) -> Subscription:
    """The other way; MalformedFields when it is none."""
    reader = FieldReader(data)
    version = reader.int16()
    topics = tuple(reader.text() for _ in range(reader.count(2)))
    user_data = reader.nullable_blob()
    owned = _decode_partitions(reader) if version >= 1 else {}
    generation_id = reader.int32() if version >= 2 else -1
    rack_id = reader.nullable_text() if version >= 3 else None
    return Subscription(topics, user_data, owned, generation_id, rack_id)


def subscribed_topics(data: bytes) -> frozenset[str]:
    """The topics of a subscription, whatever follows them; MalformedFields when it is none."""
    reader = FieldReader(data)
    reader.int16()
    return frozenset(reader.text() for _ in range(reader.count(2)))


def encode_assignment(assignment: Assignment, version: int = VERSION_NEWEST) -> bytes:
    """What comes out of SyncGroup."""
    return INT16.pack(version) + _encode_partitions(assignment.partitions) + nullable_blob(assignment.user_data)


def decode_assignment(data: bytes) -> Assignment:
    """The other way; no bytes at all assign nothing. MalformedFields when it is none."""
    if not data:
        return Assignment({})
    reader = FieldReader(data)
    reader.int16()
    return Assignment(_decode_partitions(reader), reader.nullable_blob())


def _encode_partitions(partitions: Partitions) -> bytes:
    pieces = [INT32.pack(len(partitions))]
    for topic, numbers in partitions.items():
        pieces += [text(topic), INT32.pack(len(numbers)), *map(INT32.pack, numbers)]
    return b"".join(pieces)


def _decode_partitions(reader: FieldReader) -> Partitions:
    return {reader.text(): tuple(reader.int32() for _ in range(reader.count(4))) for _ in range(reader.count(6))}
