"""The records of `__consumer_offsets` that hold a consumer group, in Kafka's own format.

Keys are an int16 version, the group and what the record is about; values are flexible, version 0, and end with tagged
fields. A record without a value forgets the key.

    3   group                  ConsumerGroupMetadata: epoch int32 · tag 0: hash of the topics' metadata int64
    4   group                  ConsumerGroupPartitionMetadata: of Kafka before 4.1; only recognised
    5   group, member          ConsumerGroupMemberMetadata: what a member has told about itself
    6   group                  ConsumerGroupTargetAssignmentMetadata: assignment epoch int32
    7   group, member          ConsumerGroupTargetAssignmentMember: what it is to have
    8   group, member          ConsumerGroupCurrentMemberAssignment: what it has, and its epoch
    16  group, pattern         ConsumerGroupRegularExpression: topics that match · version int64 · time int64 (ms)
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from kbroker.groups.assignment import Assignment
from kbroker.groups.effects import Record
from kbroker.groups.fields import INT16, INT32, INT64, FieldReader, MalformedFields, text
from kbroker.groups.flexible_fields import (
    NO_TAGS,
    FlexibleReader,
    compact_array,
    compact_blob,
    compact_text,
    tags,
)
from kbroker.groups.limits import metadata_bytes, names_bytes

VALUE_VERSION: Final = 0
_METADATA_HASH_TAG: Final = 0
_CLASSIC_TAG: Final = 0


class Kind(IntEnum):
    """What a record is about: its key's version."""

    GROUP = 3
    PARTITION_METADATA = 4
    MEMBER = 5
    TARGET_EPOCH = 6
    TARGET = 7
    CURRENT = 8
    PATTERN = 16


_WITH_SUBJECT: Final = {Kind.MEMBER, Kind.TARGET, Kind.CURRENT, Kind.PATTERN}


class RecordKey(NamedTuple):
    """`subject` is a member's id or a pattern, "" where the record is about the whole group."""

    kind: Kind
    group_id: str
    subject: str = ""


class MemberState(IntEnum):
    """Where a member stands on the way to its target; the numbers are Kafka's."""

    STABLE = 0
    UNREVOKED_PARTITIONS = 1
    """It has to give up partitions first, and to say that it did."""
    UNRELEASED_PARTITIONS = 2
    """It waits for partitions that others still have."""


class ClassicFacts(NamedTuple):
    """What a member has that speaks the classic protocol: its session's timeout and the protocols it offers."""

    session_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]


class MemberFacts(NamedTuple):
    """What a member has told about itself."""

    instance_id: str | None
    rack_id: str | None
    client_id: str
    client_host: str
    topics: tuple[str, ...]
    """Subscribed by name, sorted."""
    pattern: str | None
    rebalance_timeout_ms: int
    assignor: str | None
    classic: ClassicFacts | None = None

    @property
    def size_bytes(self) -> int:
        """About the size of its record."""
        names = (self.instance_id, self.rack_id, self.client_id, self.client_host, self.pattern, *self.topics)
        return names_bytes(names) + (metadata_bytes(self.classic.protocols) if self.classic else 0)


NOBODY: Final = MemberFacts(None, None, "", "", (), None, -1, None)
"""What is known of a member that has told nothing yet."""


class CurrentFacts(NamedTuple):
    """What a member has now."""

    epoch: int
    previous_epoch: int
    state: MemberState
    assigned: Assignment
    revoking: Assignment


class PatternFacts(NamedTuple):
    """What a pattern was found to match."""

    topics: tuple[str, ...]
    """Sorted."""
    version: int
    resolved_ms: int


class GroupFacts(NamedTuple):
    """The group itself. `metadata_hash` 0: not known."""

    epoch: int
    metadata_hash: int


def key_of(kind: Kind, group_id: str, subject: str = "") -> bytes:
    """A record's key."""
    return INT16.pack(kind) + text(group_id) + (text(subject) if kind in _WITH_SUBJECT else b"")


def decode_key(key: bytes) -> RecordKey | None:
    """The other way; None for a record of another kind, or one that is damaged."""
    reader = FieldReader(key)
    try:
        version = reader.int16()
        if version not in _KINDS:
            return None
        kind = Kind(version)
        return RecordKey(kind, reader.text(), reader.text() if kind in _WITH_SUBJECT else "")
    except MalformedFields:
        return None


def tombstone(kind: Kind, group_id: str, subject: str = "") -> Record:
    """The record that forgets that key."""
    return Record(key_of(kind, group_id, subject), None)


def group_record(group_id: str, facts: GroupFacts) -> Record:
    tagged = tags({_METADATA_HASH_TAG: INT64.pack(facts.metadata_hash)} if facts.metadata_hash else {})
    return Record(key_of(Kind.GROUP, group_id), _VERSION + INT32.pack(facts.epoch) + tagged)


def decode_group(value: bytes) -> GroupFacts:
    reader = _reader(value)
    epoch = reader.int32()
    tagged = reader.tags().get(_METADATA_HASH_TAG)
    return GroupFacts(epoch, FieldReader(tagged).int64() if tagged else 0)


def member_record(group_id: str, member_id: str, facts: MemberFacts) -> Record:
    pieces = [
        _VERSION,
        compact_text(facts.instance_id),
        compact_text(facts.rack_id),
        compact_text(facts.client_id),
        compact_text(facts.client_host),
        compact_array(map(compact_text, facts.topics)),
        compact_text(facts.pattern),
        INT32.pack(facts.rebalance_timeout_ms),
        compact_text(facts.assignor),
        tags({} if facts.classic is None else {_CLASSIC_TAG: _classic(facts.classic)}),
    ]
    return Record(key_of(Kind.MEMBER, group_id, member_id), b"".join(pieces))


def decode_member(value: bytes) -> MemberFacts:
    reader = _reader(value)
    instance_id, rack_id = reader.compact_text(), reader.compact_text()
    client_id, client_host = reader.compact_text() or "", reader.compact_text() or ""
    topics = tuple(reader.compact_array(lambda: reader.compact_text() or ""))
    pattern = reader.compact_text()
    rebalance_timeout_ms = reader.int32()
    assignor = reader.compact_text()
    classic = reader.tags().get(_CLASSIC_TAG)
    return MemberFacts(
        instance_id,
        rack_id,
        client_id,
        client_host,
        topics,
        pattern,
        rebalance_timeout_ms,
        assignor,
        _decode_classic(FlexibleReader(classic)) if classic else None,
    )


def target_epoch_record(group_id: str, assignment_epoch: int) -> Record:
    return Record(key_of(Kind.TARGET_EPOCH, group_id), _VERSION + INT32.pack(assignment_epoch) + NO_TAGS)


def decode_target_epoch(value: bytes) -> int:
    return _reader(value).int32()


def target_record(group_id: str, member_id: str, target: Assignment) -> Record:
    return Record(key_of(Kind.TARGET, group_id, member_id), _VERSION + _assignment(target) + NO_TAGS)


def decode_target(value: bytes) -> Assignment:
    return _decode_assignment(_reader(value))


def current_record(group_id: str, member_id: str, facts: CurrentFacts) -> Record:
    pieces = [
        _VERSION,
        INT32.pack(facts.epoch),
        INT32.pack(facts.previous_epoch),
        bytes([facts.state]),
        _assignment(facts.assigned),
        _assignment(facts.revoking),
        NO_TAGS,
    ]
    return Record(key_of(Kind.CURRENT, group_id, member_id), b"".join(pieces))


def decode_current(value: bytes) -> CurrentFacts:
    reader = _reader(value)
    epoch, previous_epoch, state = reader.int32(), reader.int32(), reader.int8()
    if state not in _STATES:
        raise MalformedFields(f"a member's state is {state}")
    return CurrentFacts(
        epoch, previous_epoch, MemberState(state), _decode_assignment(reader), _decode_assignment(reader)
    )


def pattern_record(group_id: str, pattern: str, facts: PatternFacts) -> Record:
    value = (
        _VERSION
        + compact_array(map(compact_text, facts.topics))
        + INT64.pack(facts.version)
        + INT64.pack(facts.resolved_ms)
        + NO_TAGS
    )
    return Record(key_of(Kind.PATTERN, group_id, pattern), value)


def decode_pattern(value: bytes) -> PatternFacts:
    reader = _reader(value)
    topics = tuple(reader.compact_array(lambda: reader.compact_text() or ""))
    return PatternFacts(topics, reader.int64(), reader.int64())


_KINDS: Final = frozenset(map(int, Kind))
_STATES: Final = frozenset(map(int, MemberState))
_VERSION: Final = INT16.pack(VALUE_VERSION)


def _reader(value: bytes) -> FlexibleReader:
    reader = FlexibleReader(value)
    version = reader.int16()
    if version != VALUE_VERSION:
        raise MalformedFields(f"a consumer group's record has a value of version {version}")
    return reader


def _assignment(assignment: Assignment) -> bytes:
    return compact_array(
        topic_id + compact_array(map(INT32.pack, sorted(numbers))) + NO_TAGS
        for topic_id, numbers in sorted(assignment.items())
    )


def _decode_assignment(reader: FlexibleReader) -> Assignment:
    def topic() -> tuple[bytes, frozenset[int]]:
        topic_id, numbers = reader.uuid(), frozenset(reader.compact_array(reader.int32))
        reader.tags()
        return topic_id, numbers

    return dict(reader.compact_array(topic))


def _classic(facts: ClassicFacts) -> bytes:
    protocols = (compact_text(name) + compact_blob(metadata) + NO_TAGS for name, metadata in facts.protocols)
    return b"\x01" + INT32.pack(facts.session_timeout_ms) + compact_array(protocols) + NO_TAGS


def _decode_classic(reader: FlexibleReader) -> ClassicFacts | None:
    def protocol() -> tuple[str, bytes]:
        name, metadata = reader.compact_text() or "", reader.compact_blob() or b""
        reader.tags()
        return name, metadata

    if reader.int8() < 0:
        return None
    return ClassicFacts(reader.int32(), tuple(reader.compact_array(protocol)))
