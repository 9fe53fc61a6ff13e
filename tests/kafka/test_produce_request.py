"""Produce requests are read by hand: whatever the bytes, as the compiled reader reads them."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbroker.errors import MalformedRequest
from kbroker.kafka import codec, produce
from kbroker.kafka.apis import BY_KEY, ApiKey

from .making import make, write

PRODUCE = BY_KEY[ApiKey.PRODUCE]
VERSIONS = range(PRODUCE.min_version, PRODUCE.max_version + 1)
TYPES = codec.request_types(ApiKey.PRODUCE)


def usual(version: int, topics: list[list[int]], records: bytes | None) -> bytes:
    """What a client sends: so many bytes for each of these partitions."""
    message = TYPES.ProduceRequest(
        transactional_id=None,
        acks=-1,
        timeout_ms=30_000,
        topic_data=[
            TYPES.TopicProduceData(
                name="" if version >= produce.TOPIC_IDS else f"topic {number}",
                topic_id=bytes([number]) * 16 if version >= produce.TOPIC_IDS else bytes(16),
                partition_data=[TYPES.PartitionProduceData(index=index, records=records) for index in indexes],
            )
            for number, indexes in enumerate(topics)
        ],
    )
    return write(PRODUCE, version, "request", message)


def facts(request: produce.ProduceRequest) -> Any:
    wanted = [(*item[:3], bytes(item.batches)) for item in request.wanted]
    return request.transactional_id, request.acks, request.timeout_ms, request.topics, wanted


def attempt(read: Any, version: int, body: bytes) -> Any:
    """What was read, or what was wrong."""
    try:
        return facts(read(version, memoryview(body)))
    except MalformedRequest as error:
        return str(error)


def same(version: int, body: bytes) -> None:
    assert attempt(produce.read, version, body) == attempt(produce.read_plainly, version, body)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("topics", [[], [[0]], [[3, 1, 200], [7]]], ids=str)
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 16_383, 16_384, 100_000])
def test_usual_requests_need_no_other_reader(
    version: int, topics: list[list[int]], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = usual(version, topics, b"r" * size)
    expected = attempt(produce.read_plainly, version, body)
    monkeypatch.delattr(produce, "read_plainly")
    assert attempt(produce.read, version, body) == expected
    assert attempt(produce.read, version, body + b"trailing") == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_unusual_requests(version: int) -> None:
    same(version, usual(version, [[0]], None))
    same(version, usual(version, [[0]] * 130, b"r"))
    same(version, usual(version, [list(range(1100))], b"r"))
    for seed in range(30):
        same(version, write(PRODUCE, version, "request", make(PRODUCE, version, "request", Random(seed))))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("topics", [[[0, 1], [2]], [[300]]], ids=["several", "one"])
def test_every_truncation(version: int, topics: list[list[int]]) -> None:
    body = usual(version, topics, b"records")
    for size in range(len(body)):
        same(version, body[:size])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("topics", [[[0, 1], [2]], [[300]]], ids=["several", "one"])
def test_every_byte_changed(version: int, topics: list[list[int]]) -> None:
    body = bytearray(usual(version, topics, b"records"))
    same(version, bytes(body))
    for position, before in enumerate(bytes(body)):
        for value in (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, before ^ 1):
            body[position] = value
            same(version, bytes(body))
        body[position] = before


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(VERSIONS),
    st.sampled_from([[[0, 1], [2]], [[300]]]),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 4), st.binary(max_size=5))),
)
def test_any_edits(version: int, topics: list[list[int]], edits: list[tuple[int, int, bytes]]) -> None:
    body = usual(version, topics, b"records")
    for at, cut, put in edits:
        position = at % (len(body) + 1)
        body = body[:position] + put + body[position + cut :]
    same(version, body)


def test_what_waits_keeps_no_record() -> None:
    buffer = bytearray(usual(9, [[0, 1]], b"records"))
    request = produce.read(9, memoryview(buffer))
    request.strip()
    assert [item.partition for item in request.wanted] == [0, 1]
    buffer.clear()  # BufferError if someone still looks into it
