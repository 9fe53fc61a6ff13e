"""The records of classic groups: bytes by hand, kio's writer for the same schema, and there and back."""

import io
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.serial import entity_writer
from kio.static.constants import EntityType
from kio.static.primitive import i16, i32, i64

from kbroker.groups import group_records
from kbroker.groups.effects import Record
from kbroker.groups.group_records import GroupFacts, MemberFacts

TEXT = st.text(max_size=20)
MAYBE = st.none() | TEXT
INT32 = st.integers(0, 2**31 - 1)
DATA = st.binary(max_size=30)
MEMBERS = st.builds(MemberFacts, TEXT, MAYBE, TEXT, TEXT, INT32, INT32, DATA, DATA)
EMPTY = st.builds(GroupFacts, TEXT, INT32, MAYBE, MAYBE, st.integers(-1, 2**63 - 1), st.just(()))
STABLE = st.builds(
    GroupFacts,
    TEXT,
    INT32,
    TEXT,
    MAYBE,
    st.integers(-1, 2**63 - 1),
    st.lists(MEMBERS, min_size=1, max_size=3).map(tuple),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberMetadata:
    """As Kafka's GroupMetadataValue.json describes it for version 3; kio has no schemas of records."""

    __type__: ClassVar = EntityType.nested
    __version__: ClassVar[i16] = i16(3)
    __flexible__: ClassVar[bool] = False
    member_id: str = field(metadata={"kafka_type": "string"})
    group_instance_id: str | None = field(metadata={"kafka_type": "string"})
    client_id: str = field(metadata={"kafka_type": "string"})
    client_host: str = field(metadata={"kafka_type": "string"})
    rebalance_timeout: i32 = field(metadata={"kafka_type": "int32"})
    session_timeout: i32 = field(metadata={"kafka_type": "int32"})
    subscription: bytes = field(metadata={"kafka_type": "bytes"})
    assignment: bytes = field(metadata={"kafka_type": "bytes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMetadataValue:
    __type__: ClassVar = EntityType.data
    __version__: ClassVar[i16] = i16(3)
    __flexible__: ClassVar[bool] = False
    protocol_type: str = field(metadata={"kafka_type": "string"})
    generation: i32 = field(metadata={"kafka_type": "int32"})
    protocol: str | None = field(metadata={"kafka_type": "string"})
    leader: str | None = field(metadata={"kafka_type": "string"})
    current_state_timestamp: i64 = field(metadata={"kafka_type": "int64"})
    members: tuple[MemberMetadata, ...]


MEMBER_FIELDS = (
    "member_id",
    "group_instance_id",
    "client_id",
    "client_host",
    "rebalance_timeout",
    "session_timeout",
    "subscription",
    "assignment",
)
WRITE = entity_writer(GroupMetadataValue)


def written_by_kio(facts: GroupFacts) -> bytes:
    members: Any = [dict(zip(MEMBER_FIELDS, member, strict=True)) for member in facts.members]
    value = GroupMetadataValue(
        protocol_type=facts.protocol_type,
        generation=i32(facts.generation_id),
        protocol=facts.protocol_name,
        leader=facts.leader,
        current_state_timestamp=i64(facts.since_ms),
        members=tuple(MemberMetadata(**member) for member in members),
    )
    buffer = io.BytesIO()
    WRITE(buffer, value)
    return b"\0\3" + buffer.getvalue()


@given(TEXT, EMPTY | STABLE)
def test_records_agree_with_kio_and_read_back(group_id: str, facts: GroupFacts) -> None:
    record = group_records.encode(group_id, facts)
    assert record.value == written_by_kio(facts)
    assert group_records.decode(record) == (group_id, facts)
    assert group_records.decode(group_records.tombstone(group_id)) == (group_id, None)


def test_a_record_by_hand() -> None:
    member = MemberFacts("m", "i", "c", "/h", 30_000, 10_000, b"sub", b"as")
    record = group_records.encode("grp", GroupFacts("consumer", 5, "range", "m", 1_700_000_000_000, (member,)))
    assert record.key == b"\0\2" + b"\0\3grp"
    assert record.value == bytes.fromhex(
        "0003"  # version
        "0008636f6e73756d6572"  # protocol type
        "00000005"  # generation
        "000572616e6765"  # protocol
        "00016d"  # leader
        "0000018bcfe56800"  # since
        "00000001"  # members
        "00016d000169000163"  # id, instance, client
        "00022f68"  # host
        "00007530"  # rebalance timeout
        "00002710"  # session timeout
        "00000003737562"  # subscription
        "000000026173"  # assignment
    )


@pytest.mark.parametrize(
    ("version", "value", "timeout_ms", "since_ms", "instance_id"),
    [
        # protocol type "t", generation 1, protocol "p", leader "m"
        (0, "000174 00000001 000170 00016d 00000001 00016d 000163 000168 00002710 00000001 73 00000001 61",
         10_000, -1, None),
        (1, "000174 00000001 000170 00016d 00000001 00016d 000163 000168 00007530 00002710 00000001 73 00000001 61",
         30_000, -1, None),
        (2, "000174 00000001 000170 00016d 0000000000000007 00000001 00016d 000163 000168 00007530 00002710"
         "00000001 73 00000001 61", 30_000, 7, None),
    ],
)  # fmt: skip
def test_older_versions_are_read(
    version: int, value: str, timeout_ms: int, since_ms: int, instance_id: str | None
) -> None:
    record = Record(group_records.encode_key("g"), version.to_bytes(2, "big") + bytes.fromhex(value))
    member = MemberFacts("m", instance_id, "c", "h", timeout_ms, 10_000, b"s", b"a")
    assert group_records.decode(record) == ("g", GroupFacts("t", 1, "p", "m", since_ms, (member,)))


@given(DATA, st.none() | st.binary(max_size=80))
def test_any_bytes_are_read_or_passed_over(key: bytes, value: bytes | None) -> None:
    group_records.decode(Record(key, value))
    group_records.decode(Record(group_records.encode_key("g"), value))


def test_members_without_a_protocol_are_damage() -> None:
    member = MemberFacts("m", None, "c", "h", 1, 1, b"", b"")
    assert group_records.decode(group_records.encode("g", GroupFacts("t", 1, None, "m", 0, (member,)))) is None
