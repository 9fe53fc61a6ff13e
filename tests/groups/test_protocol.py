"""The "consumer" protocol's bytes: there and back, and against kio's schemas."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.serial import entity_writer

from kbroker.groups import protocol
from kbroker.groups.fields import MalformedFields
from kbroker.groups.protocol import Assignment, Subscription

VERSIONS = st.integers(0, protocol.VERSION_NEWEST)
NAMES = st.text(max_size=12)
INT32 = st.integers(-(2**31), 2**31 - 1)
DATA = st.none() | st.binary(max_size=20)
PARTITIONS = st.dictionaries(NAMES, st.lists(INT32, max_size=4).map(tuple), max_size=4)
SUBSCRIPTIONS = st.builds(
    Subscription, st.lists(NAMES, max_size=4).map(tuple), DATA, PARTITIONS, INT32, st.none() | NAMES
)
ASSIGNMENTS = st.builds(Assignment, PARTITIONS, DATA)


WRITER = functools.cache(entity_writer)


def written_by_kio(module: str, name: str, version: int, **values: Any) -> bytes:
    """kio's bytes of this entity, after the version; fields that the version does not have are left out."""
    entity = getattr(importlib.import_module(f"kio.schema.{module}.v{version}.data"), name)
    known = {key: value for key, value in values.items() if key in entity.__dataclass_fields__}
    buffer = io.BytesIO()
    WRITER(entity)(buffer, entity(**known))
    return version.to_bytes(2, "big") + buffer.getvalue()


def as_kio(module: str, version: int, partitions: protocol.Partitions) -> tuple[Any, ...]:
    data = importlib.import_module(f"kio.schema.{module}.v{version}.data")
    item = getattr(data, "TopicPartition", None)
    return tuple(item(topic=topic, partitions=numbers) for topic, numbers in partitions.items()) if item else ()


@given(SUBSCRIPTIONS, VERSIONS)
def test_subscriptions_agree_with_kio(subscription: Subscription, version: int) -> None:
    module = "consumer_protocol_subscription"
    data = protocol.encode_subscription(subscription, version)
    assert data == written_by_kio(
        module,
        "ConsumerProtocolSubscription",
        version,
        topics=subscription.topics,
        user_data=subscription.user_data,
        owned_partitions=as_kio(module, version, subscription.owned),
        generation_id=subscription.generation_id,
        rack_id=subscription.rack_id,
    )
    fields = ("topics", "user_data", "owned", "generation_id", "rack_id")
    read = protocol.decode_subscription(data)
    known = 2 + version
    assert read[:known] == subscription[:known]
    assert read[known:] == Subscription(())[known:], fields[known:]
    assert protocol.subscribed_topics(data) == frozenset(subscription.topics)
    assert protocol.version_of(data) == version


@given(ASSIGNMENTS, VERSIONS)
def test_assignments_agree_with_kio(assignment: Assignment, version: int) -> None:
    module = "consumer_protocol_assignment"
    data = protocol.encode_assignment(assignment, version)
    assert data == written_by_kio(
        module,
        "ConsumerProtocolAssignment",
        version,
        assigned_partitions=as_kio(module, version, assignment.partitions),
        user_data=assignment.user_data,
    )
    assert protocol.decode_assignment(data) == assignment


def test_no_bytes_assign_nothing() -> None:
    assert protocol.decode_assignment(b"") == Assignment({})


def test_a_newer_version_begins_like_the_newest_known() -> None:
    data = protocol.encode_subscription(Subscription(("a",), b"u", {}, 5, "r"))
    newer = (9).to_bytes(2, "big") + data[2:] + b"more"
    assert protocol.decode_subscription(newer) == Subscription(("a",), b"u", {}, 5, "r")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0\0",
        b"\0\0\xff\xff\xff\xff",  # a count of -1
        b"\0\0\x7f\xff\xff\xff",  # a count beyond the bytes
        b"\0\0\0\0\0\1\0\5abc",  # a text beyond the bytes
        b"\0\0\0\0\0\1\xff\xff",  # null for a topic
        b"\0\0\0\0\0\1\0\2\xff\xfe",  # no UTF-8
        b"\0\0\0\0\0\1\xff\xfe",  # a length of -2
    ],
)
def test_what_is_no_subscription_says_so(data: bytes) -> None:
    with pytest.raises(MalformedFields):
        protocol.decode_subscription(data)
    with pytest.raises(MalformedFields):
        protocol.subscribed_topics(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for decode in (protocol.decode_subscription, protocol.decode_assignment, protocol.subscribed_topics):
        with contextlib.suppress(MalformedFields):
            decode(data)
