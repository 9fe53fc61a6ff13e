"""Fetch requests are read by hand: whatever the bytes, as the compiled reader reads them."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbroker.errors import MalformedRequest
from kbroker.kafka import codec, fetch, fetch_request
from kbroker.kafka.apis import BY_KEY, ApiKey

from .making import make, write

FETCH = BY_KEY[ApiKey.FETCH]
VERSIONS = range(FETCH.min_version, FETCH.max_version + 1)
TYPES = codec.request_types(ApiKey.FETCH)
REPLICA_STATE = 15


def usual(version: int, topics: list[list[int]], **fields: Any) -> bytes:
    """What a client sends that reads these partitions."""
    if version < REPLICA_STATE:
        fields.setdefault("replica_id", -1)
    message = TYPES.FetchRequest(
        max_wait_ms=500,
        min_bytes=1,
        max_bytes=50 << 20,
        isolation_level=1,
        session_id=7 if version >= fetch.SESSIONS else 0,
        session_epoch=3 if version >= fetch.SESSIONS else -1,
        topics=[
            TYPES.FetchTopic(
                topic="" if version >= fetch.TOPIC_IDS else f"topic {number}",
                topic_id=bytes([number]) * 16 if version >= fetch.TOPIC_IDS else bytes(16),
                partitions=[_partition(version, index) for index in indexes],
            )
            for number, indexes in enumerate(topics)
        ],
        **fields,
    )
    return write(FETCH, version, "request", message)


def _partition(version: int, index: int) -> Any:
    return TYPES.FetchPartition(
        partition=index,
        current_leader_epoch=4 if version >= 9 else -1,
        fetch_offset=1 << 40,
        last_fetched_epoch=2 if version >= fetch.FLEXIBLE else -1,
        log_start_offset=-1,
        partition_max_bytes=1 << 20,
    )


def attempt(read: Any, version: int, body: bytes) -> Any:
    """What was read, or what was wrong."""
    try:
        return read(version, memoryview(body))
    except MalformedRequest as error:
        return str(error)


def same(version: int, body: bytes) -> None:
    assert attempt(fetch_request.read, version, body) == attempt(fetch_request.read_plainly, version, body)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("topics", [[], [[]], [[0]], [[3, 1, 200], [7]]], ids=str)
def test_usual_requests_need_no_other_reader(
    version: int, topics: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = usual(version, topics)
    expected = attempt(fetch_request.read_plainly, version, body)
    assert [item.partition for item in expected.asked] == [index for indexes in topics for index in indexes]
    monkeypatch.delattr(fetch_request, "read_plainly")
    assert attempt(fetch_request.read, version, body) == expected
    assert attempt(fetch_request.read, version, body + b"trailing") == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_unusual_requests(version: int) -> None:
    same(version, usual(version, [[0]] * 130))
    same(version, usual(version, [list(range(1100))]))
    if version < REPLICA_STATE:
        same(version, usual(version, [[0]], replica_id=2))
    if version >= fetch.SESSIONS:
        named = {"topic_id": b"t" * 16} if version >= fetch.TOPIC_IDS else {"topic": "t"}
        gone = [TYPES.ForgottenTopic(partitions=[1, 2], **named)]
        same(version, usual(version, [[0]], forgotten_topics_data=gone))
    if version >= 11:
        for rack in ("r", "r" * 126, "r" * 127, "r" * 200):
            same(version, usual(version, [[0]], rack_id=rack))
    for seed in range(30):
        same(version, write(FETCH, version, "request", make(FETCH, version, "request", Random(seed))))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_truncation(version: int) -> None:
    body = usual(version, [[0, 1], [2]])
    for size in range(len(body)):
        same(version, body[:size])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_byte_changed(version: int) -> None:
    body = bytearray(usual(version, [[0, 1], [2]]))
    for position, before in enumerate(bytes(body)):
        for value in (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, before ^ 1):
            body[position] = value
            same(version, bytes(body))
        body[position] = before


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(VERSIONS), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 4), st.binary(max_size=5))))
def test_any_edits(version: int, edits: list[tuple[int, int, bytes]]) -> None:
    body = usual(version, [[0, 1], [2]])
    for at, cut, put in edits:
        position = at % (len(body) + 1)
        body = body[:position] + put + body[position + cut :]
    same(version, body)
