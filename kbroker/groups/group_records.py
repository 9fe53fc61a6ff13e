"""The record of `__consumer_offsets` that holds a classic group, in Kafka's own format (GroupMetadata).

    key     int16 2 · group string
    value   int16 3 · protocol type string · generation int32 · protocol nullable string · leader nullable string
            · since int64 (ms since 1970) · array of members
    member  id string · instance id nullable string · client id string · client host string
            · rebalance timeout int32 (ms) · session timeout int32 (ms) · subscription bytes · assignment bytes

It is written when a generation's assignment is known, when a group becomes empty, and when a static member comes back
under a new member id. A record without a value forgets the group.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kbroker.groups.effects import Record
from kbroker.groups.fields import INT16, INT32, INT64, FieldReader, MalformedFields, blob, nullable_text, text

KEY_VERSION: Final = 2
VALUE_VERSION: Final = 3


class MemberFacts(NamedTuple):
    """A member as it is stored."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    subscription: bytes
    """Its metadata for the group's protocol."""
    assignment: bytes


class GroupFacts(NamedTuple):
    """A group as it is stored: with members it is Stable, without it is Empty."""

    protocol_type: str
    generation_id: int
    protocol_name: str | None
    leader: str | None
    since_ms: int
    """Since when it has been in that state; -1: not known."""
    members: tuple[MemberFacts, ...]


def encode_key(group_id: str) -> bytes:
    """The key of a group's record."""
    return INT16.pack(KEY_VERSION) + text(group_id)


def encode(group_id: str, facts: GroupFacts) -> Record:
    """A group's record."""
    pieces = [
        INT16.pack(VALUE_VERSION),
        text(facts.protocol_type),
        INT32.pack(facts.generation_id),
        nullable_text(facts.protocol_name),
        nullable_text(facts.leader),
        INT64.pack(facts.since_ms),
        INT32.pack(len(facts.members)),
    ]
    for member in facts.members:
        pieces += [
            text(member.member_id),
            nullable_text(member.instance_id),
            text(member.client_id),
            text(member.client_host),
            INT32.pack(member.rebalance_timeout_ms),
            INT32.pack(member.session_timeout_ms),
            blob(member.subscription),
            blob(member.assignment),
        ]
    return Record(encode_key(group_id), b"".join(pieces))


def tombstone(group_id: str) -> Record:
    """The record that forgets a group."""
    return Record(encode_key(group_id), None)


def decode(record: Record) -> tuple[str, GroupFacts | None] | None:
    """The group in a record, and what is known of it (None: forgotten). None for another kind, or damage."""
    try:
        key = FieldReader(record.key)
        if key.int16() != KEY_VERSION:
            return None
        group_id = key.text()
        return group_id, None if record.value is None else _decode_value(record.value)
    except MalformedFields:
        return None


def _decode_value(value: bytes) -> GroupFacts:
    reader = FieldReader(value)
    version = reader.int16()
    if not 0 <= version <= VALUE_VERSION:
        raise MalformedFields(f"version {version} of a group's record is not known")
    protocol_type, generation_id = reader.text(), reader.int32()
    protocol_name, leader = reader.nullable_text(), reader.nullable_text()
    since_ms = reader.int64() if version >= 2 else -1
    members = tuple(_decode_member(reader, version) for _ in range(reader.count(18)))
    if members and protocol_name is None:
        raise MalformedFields("a group's record has members and no protocol")
    return GroupFacts(protocol_type, generation_id, protocol_name, leader, since_ms, members)


def _decode_member(reader: FieldReader, version: int) -> MemberFacts:
    member_id = reader.text()
    instance_id = reader.nullable_text() if version >= 3 else None
    client_id, client_host = reader.text(), reader.text()
    rebalance_timeout_ms = reader.int32() if version >= 1 else -1
    session_timeout_ms = reader.int32()
    if rebalance_timeout_ms < 0:
        rebalance_timeout_ms = session_timeout_ms
    return MemberFacts(
        member_id,
        instance_id,
        client_id,
        client_host,
        rebalance_timeout_ms,
        session_timeout_ms,
        reader.blob(),
        reader.blob(),
    )
