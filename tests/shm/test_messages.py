"""Messages round trip, and no bytes whatever do more than raise RequestError."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.errors import RequestError
from kbroker.shm.messages import (
    ARM_MAX,
    MESSAGE_BYTES_MAX,
    Arm,
    Close,
    Error,
    Hello,
    NextSegment,
    Open,
    Opened,
    Segment,
    Taken,
    Wake,
    Welcome,
    decode_from_reader,
    decode_from_worker,
    encode,
)

int64 = st.integers(-(2**63), 2**63 - 1)
FROM_READER = st.one_of(
    st.builds(Hello, st.text()),
    st.builds(Open, st.text(), int64, int64, int64, st.binary()),
    st.builds(Segment, int64, int64, int64, int64),
    st.builds(Taken),
    st.builds(Arm, st.lists(int64), st.lists(int64), st.booleans()),
    st.builds(Close, int64),
)
FROM_WORKER = st.one_of(
    st.builds(Welcome, int64, int64),
    st.builds(Opened, int64, st.binary(), int64, int64, int64, int64, int64, int64),
    st.builds(NextSegment, int64, int64, int64, int64, int64),
    st.builds(Wake, st.lists(int64)),
    st.builds(Error, int64, st.text(), int64, int64),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["op", "v", "topic", "partition", "offset", "handle", "handles", "offsets", "committed", "code", "message"]
)
OPS = st.sampled_from(["hello", "open", "segment", "arm", "close", "wake", "opened", "error"])


@given(FROM_READER)
def test_a_readers_messages_round_trip(message: Any) -> None:
    assert decode_from_reader(encode(message)) == message


@given(FROM_WORKER)
def test_a_workers_messages_round_trip(message: Any) -> None:
    assert decode_from_worker(encode(message)) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_understood(data: bytes) -> None:
    for decode in (decode_from_reader, decode_from_worker):
        with contextlib.suppress(RequestError):
            decode(data)


@given(st.dictionaries(FIELDS, VALUES), OPS)
def test_any_fields_are_refused_or_have_their_types(values: dict[str, Any], op: str) -> None:
    data = msgpack.packb({**values, "op": op, "v": 1})
    for decode in (decode_from_reader, decode_from_worker):
        try:
            message = decode(data)
        except RequestError:
            continue
        assert decode(encode(message)) == message


def test_unknown_fields_are_skipped() -> None:
    data = msgpack.packb({"op": "close", "v": 1, "handle": 3, "why": ["because"]})
    assert decode_from_reader(data) == Close(3)


def test_the_largest_arm_and_wake_fit() -> None:
    largest = [2**63 - 1] * ARM_MAX
    assert len(encode(Arm(largest, largest))) <= MESSAGE_BYTES_MAX
    assert len(encode(Wake(largest))) <= MESSAGE_BYTES_MAX
    assert len(encode(Open("t" * 249, 2**31, 2**63 - 1, 2**31, b"x" * 16))) <= MESSAGE_BYTES_MAX


def test_a_field_at_fault_is_named() -> None:
    with pytest.raises(RequestError, match=r"arm\.offsets must be a list, not int"):
        decode_from_reader(msgpack.packb({"op": "arm", "v": 1, "handles": [], "offsets": 3}))
