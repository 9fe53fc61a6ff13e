"""The native protocol's codec: every message there and back, and every way to get one wrong."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.errors import InvalidRequest, KbrokerError, OffsetOutOfRange, UnknownServerError, UnsupportedVersion
from kbroker.wire import codec, control
from kbroker.wire import messages as m

REQUESTS: list[Any] = [
    m.Hello("me", "test 1"),
    m.Metadata(["a", "b"], True),
    m.Metadata(None),
    m.CreateTopics([m.NewTopic("t", 3, 1, {"retention.ms": "5"})]),
    m.DeleteTopics(["t"]),
    m.CreatePartitions("t", 9),
    m.DescribeSettings(),
    m.AlterSettings("t", {"a": "b"}, ["c"]),
    m.InitProducerId(),
    m.BrokerStatus(),
    m.Produce("t", 0, 1, 10, b"\x01" * 16),
    m.Fetch([m.FetchPartition("t", 0, 7)], credit=m.Credit(5, 6)),
    m.ListOffsets([m.OffsetQuery("t", 0, -2)]),
    m.DeleteRecords("t", 0, 7),
    m.RepairLog("t", 0, True),
    m.ReportCorrupt("t", 0, 9),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_request_comes_back_as_it_was(request_: Any) -> None:
    assert codec.decode_request(codec.unpack_request(codec.encode_request(request_))) == request_


def test_every_request_is_covered_here() -> None:
    assert {type(request) for request in REQUESTS} == set(m.REQUESTS)


def test_an_answer_comes_back_as_it_was() -> None:
    answer = m.FetchAnswer(3, [m.FetchedPartition("t", 1, frames=1, high_watermark=9)])
    assert codec.decode_answer(m.FetchAnswer, codec.encode_answer(answer)) == answer


def test_the_short_way_to_a_produce_answer_gives_the_same_bytes() -> None:
    assert codec.encode_produced(5, 7, 1, -1) == codec.encode_answer(m.ProduceAnswer(5, 7, 1, -1))


def test_an_error_is_raised_with_its_class_and_words() -> None:
    header = codec.encode_error(OffsetOutOfRange("offset 9 is not in 0 … 4"))
    with pytest.raises(OffsetOutOfRange, match="offset 9"):
        codec.decode_answer(m.FetchAnswer, header)


def test_an_error_code_that_is_not_known_is_named() -> None:
    with pytest.raises(UnknownServerError, match="error code 1234"):
        codec.raise_error(1234, "odd")


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (b"\xc1", "not msgpack"),
        (b"", "not msgpack"),
        (b"\xdd\x7f\xff\xff\xff", "not msgpack"),
        (msgpack.packb([1]), "must be a map"),
        (msgpack.packb({"op": "produce", "v": 1}), "produce.topic is missing"),
        (msgpack.packb({"op": "produce", "v": 1, "topic": 7, "partition": 0}), "produce.topic must be str, not int"),
        (
            msgpack.packb({"op": "produce", "v": 1, "topic": "t", "partition": "0"}),
            "partition must be a 64-bit",
        ),
        (
            msgpack.packb({"op": "produce", "v": 1, "topic": "t", "partition": 2**63}),
            "partition must be a 64-bit",
        ),
        (
            msgpack.packb({"op": "produce", "v": 1, "topic": "t", "partition": True}),
            "partition must be a 64-bit",
        ),
        (msgpack.packb({"op": "fly", "v": 1}), "unknown operation 'fly'"),
        (msgpack.packb({"op": ["x"], "v": 1}), "unknown operation"),
        (msgpack.packb({"op": "fetch", "v": 1, "partitions": [3]}), "fetch.partitions must be a map"),
        (msgpack.packb({"op": "fetch", "v": 1, "partitions": {"a": 1}}), "fetch.partitions must be a list"),
        (msgpack.packb({"op": "metadata", "v": 1, "topics": [1]}), "metadata.topics must be str"),
    ],
)
def test_a_wrong_header_is_named(header: bytes, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        codec.decode_request(codec.unpack_request(header))


def test_another_version_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedVersion, match="protocol version 99"):
        codec.unpack_request(msgpack.packb({"op": "hello", "v": 99}))


def test_fields_of_a_newer_peer_are_skipped() -> None:
    header = msgpack.packb({"op": "hello", "v": 1, "client_id": "x", "mood": {"good": True}})
    assert codec.decode_request(codec.unpack_request(header)) == m.Hello("x")


@given(st.binary(max_size=200))
def test_no_bytes_make_the_codec_fail_otherwise(header: bytes) -> None:
    try:
        fields = codec.unpack_request(header)
        codec.route_of(fields)
        codec.decode_request(fields)
    except KbrokerError:
        pass


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(REQUESTS), st.data())
def test_any_field_of_any_type_is_taken_or_named(request: Any, data: st.DataObject) -> None:
    fields = msgpack.unpackb(codec.encode_request(request))
    names = [item.name for item in dataclasses.fields(request)]
    if names:
        fields[data.draw(st.sampled_from(names))] = data.draw(_VALUES)
    with contextlib.suppress(KbrokerError):
        unpacked = codec.unpack_request(msgpack.packb(fields))
        codec.route_of(unpacked)
        codec.decode_request(unpacked)


@pytest.mark.parametrize(
    ("request_", "route"),
    [
        (m.Produce("t", 3), ("t", 3)),
        (m.Fetch([m.FetchPartition("a", 1, 0), m.FetchPartition("b", 2, 0)]), ("a", 1)),
        (m.ListOffsets([m.OffsetQuery("a", 1, -1)]), ("a", 1)),
        (m.DeleteRecords("a", 1, -1), ("a", 1)),
        (m.RepairLog("a", 1), ("a", 1)),
        (m.Metadata(), None),
        (m.InitProducerId(), None),
    ],
)
def test_requests_are_routed_by_their_first_partition(request_: Any, route: tuple[str, int] | None) -> None:
    assert codec.route_of(codec.unpack_request(codec.encode_request(request_))) == route


def test_control_messages_come_back_as_they_were() -> None:
    update = control.CatalogUpdate(
        7, 3, True, [m.TopicInfo("t", topic_id=b"x" * 16)], [control.RemovedInfo("old", b"y" * 16, [0, 2])], []
    )
    assert control.decode_control(control.encode_control(update)) == update
    with pytest.raises(InvalidRequest):
        control.decode_control(b"\x93\x01")
