"""The records of a consumer group, byte by byte as Kafka's schemas have them, and damaged ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.groups.assignment import NOTHING
from kbroker.groups.consumer_records import (
    ClassicFacts,
    CurrentFacts,
    GroupFacts,
    Kind,
    MemberFacts,
    MemberState,
    PatternFacts,
    RecordKey,
    current_record,
    decode_current,
    decode_group,
    decode_key,
    decode_member,
    decode_pattern,
    decode_target,
    decode_target_epoch,
    group_record,
    key_of,
    member_record,
    pattern_record,
    target_epoch_record,
    target_record,
)
from kbroker.groups.consumer_state import ConsumerGroupState
from kbroker.groups.effects import Record
from kbroker.groups.fields import MalformedFields

TOPIC = bytes(range(16))
texts = st.text(max_size=20)
assignments = st.dictionaries(
    st.binary(min_size=16, max_size=16), st.frozensets(st.integers(0, 2**31 - 1), min_size=1), max_size=3
)
members = st.builds(
    MemberFacts,
    instance_id=st.none() | texts,
    rack_id=st.none() | texts,
    client_id=texts,
    client_host=texts,
    topics=st.lists(texts).map(tuple),
    pattern=st.none() | texts,
    rebalance_timeout_ms=st.integers(-1, 2**31 - 1),
    assignor=st.none() | texts,
    classic=st.none()
    | st.builds(ClassicFacts, st.integers(0, 9999), st.lists(st.tuples(texts, st.binary(max_size=200))).map(tuple)),
)

GOLDEN: list[tuple[str, Record, str, str]] = [
    (
        "group",
        group_record("g", GroupFacts(7, 5)),
        "0003 0001 67",
        "0000 00000007  01 00 08 0000000000000005",
    ),
    ("group without a hash", group_record("g", GroupFacts(7, 0)), "0003 0001 67", "0000 00000007 00"),
    (
        "member",
        member_record("g", "m", MemberFacts("i", None, "c", "h", ("a", "b"), None, 300000, "uniform")),
        "0005 0001 67 0001 6d",
        "0000 02 69 00 02 63 02 68  03 02 61 02 62  00 000493e0 08 756e69666f726d 00",
    ),
    (
        "classic member",
        member_record(
            "g", "m", MemberFacts(None, "r", "c", "h", (), "p", 1, None, ClassicFacts(10, (("range", b"\1\2"),)))
        ),
        "0005 0001 67 0001 6d",
        "0000 00 02 72 02 63 02 68 01 02 70 00000001 00  01 00 11  01 0000000a 02 06 72616e6765 03 0102 00 00",
    ),
    ("target epoch", target_epoch_record("g", 7), "0006 0001 67", "0000 00000007 00"),
    (
        "target",
        target_record("g", "m", {TOPIC: frozenset({1, 0})}),
        "0007 0001 67 0001 6d",
        f"0000 02 {TOPIC.hex()} 03 00000000 00000001 00 00",
    ),
    (
        "current",
        current_record(
            "g", "m", CurrentFacts(7, 6, MemberState.UNREVOKED_PARTITIONS, NOTHING, {TOPIC: frozenset({2})})
        ),
        "0008 0001 67 0001 6d",
        f"0000 00000007 00000006 01 01 02 {TOPIC.hex()} 02 00000002 00 00",
    ),
    (
        "pattern",
        pattern_record("g", "a.*", PatternFacts(("ab",), 3, 9)),
        "0010 0001 67 0003 612e2a",
        "0000 02 03 6162 0000000000000003 0000000000000009 00",
    ),
]


@pytest.mark.parametrize(("name", "record", "key", "value"), GOLDEN, ids=[each[0] for each in GOLDEN])
def test_bytes(name: str, record: Record, key: str, value: str) -> None:
    assert record.key.hex(" ") == bytes.fromhex(key).hex(" "), name
    assert record.value is not None
    assert record.value.hex(" ") == bytes.fromhex(value).hex(" ")


@given(facts=members)
def test_members_come_back(facts: MemberFacts) -> None:
    assert decode_member(member_record("g", "m", facts).value or b"") == facts


@given(assigned=assignments, revoking=assignments, state=st.sampled_from(MemberState), epoch=st.integers(-2, 2**31 - 1))
def test_assignments_come_back(
    assigned: dict[bytes, frozenset[int]], revoking: dict[bytes, frozenset[int]], state: MemberState, epoch: int
) -> None:
    facts = CurrentFacts(epoch, epoch, state, assigned, revoking)
    assert decode_current(current_record("g", "m", facts).value or b"") == facts
    assert decode_target(target_record("g", "m", assigned).value or b"") == assigned


@given(topics=st.lists(texts).map(tuple), version=st.integers(0, 2**63 - 1), hash_=st.integers(-(2**63), 2**63 - 1))
def test_the_others_come_back(topics: tuple[str, ...], version: int, hash_: int) -> None:
    pattern = PatternFacts(topics, version, version)
    assert decode_pattern(pattern_record("g", "p", pattern).value or b"") == pattern
    assert decode_group(group_record("g", GroupFacts(3, hash_)).value or b"") == GroupFacts(3, hash_)
    assert decode_target_epoch(target_epoch_record("g", 3).value or b"") == 3


@pytest.mark.parametrize("kind", Kind)
def test_keys_come_back(kind: Kind) -> None:
    found = decode_key(key_of(kind, "g", "m"))
    assert found is not None
    assert found == RecordKey(kind, "g", found.subject)
    assert (found.subject == "m") == (kind in (Kind.MEMBER, Kind.TARGET, Kind.CURRENT, Kind.PATTERN))


@given(value=st.binary(max_size=60) | st.binary(max_size=60).map(lambda data: b"\0\0" + data))
def test_damage_is_noticed_or_harmless(value: bytes) -> None:
    for decode in (decode_group, decode_member, decode_target, decode_target_epoch, decode_current, decode_pattern):
        try:
            decode(value)
        except MalformedFields:
            continue


@given(data=st.binary(max_size=40))
def test_a_damaged_record_is_passed_over(data: bytes) -> None:
    state = ConsumerGroupState("g")
    for kind in Kind:
        state.replay(Record(key_of(kind, "g", "m"), data))
    state.replay(Record(data, data))


def test_fields_of_newer_versions_are_passed_over() -> None:
    """Kafka 4.3 tells since when each partition was assigned, in a tagged field."""
    tagged = "01 00 05 02 00000007"
    value = bytes.fromhex(f"0000 00000007 00000006 00 02 {TOPIC.hex()} 02 00000002 {tagged} 01 00")
    assert decode_current(value) == CurrentFacts(7, 6, MemberState.STABLE, {TOPIC: frozenset({2})}, NOTHING)
