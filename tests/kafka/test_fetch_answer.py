"""Fetch answers are written by hand: the compiled reader must read every version back."""

from __future__ import annotations

from typing import Any

import pytest

from kbroker.kafka import codec, fetch
from kbroker.kafka.apis import BY_KEY, ApiKey
from kbroker.kafka.cluster import Node

FETCH = BY_KEY[ApiKey.FETCH]
VERSIONS = range(FETCH.min_version, FETCH.max_version + 1)


class Stretch:
    """Records by their size; the bytes are put in afterwards, as the loop does."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size_bytes = len(data)


def partition(index: int, data: bytes | None, **facts: Any) -> fetch.FetchedPartition[Stretch]:
    found: fetch.FetchedPartition[Stretch] = fetch.FetchedPartition("a topic", b"t" * 16, index)
    found.high_watermark, found.last_stable_offset, found.log_start_offset = 1 << 40, 1 << 39, 7
    found.records = None if data is None else Stretch(data)
    for name, value in facts.items():
        setattr(found, name, value)
    return found


def read_back(version: int, topics: list[list[fetch.FetchedPartition[Stretch]]], **options: Any) -> Any:
    pieces = fetch.encode(version, 77, topics, **options)
    data = b"".join(piece.data if isinstance(piece, Stretch) else piece for piece in pieces)
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert int.from_bytes(data[4:8], "big") == 77
    return codec.read_response(ApiKey.FETCH, version, memoryview(data)[9 if version >= fetch.FLEXIBLE else 8 :])


@pytest.mark.parametrize("version", VERSIONS)
def test_it_reads_back(version: int) -> None:
    topics = [
        [partition(0, b"x" * 300), partition(1, None, error_code=6), partition(2, b"")],
        [partition(5, b"y" * 20_000, diverging=(3, 99), current_leader=(2, 8))],
    ]
    answer = read_back(version, topics, session_id=5, nodes=[Node(2, "::1", 9094), Node(30, "h" * 200, 1)])
    assert [[bytes(p.records or b"") for p in topic.partitions] for topic in answer.responses] == [
        [b"x" * 300, b"", b""],
        [b"y" * 20_000],
    ]
    first, second = answer.responses
    assert [p.error_code for p in first.partitions] == [0, 6, 0]
    assert {(p.high_watermark, p.last_stable_offset) for p in first.partitions} == {(1 << 40, 1 << 39)}
    assert second.partitions[0].aborted_transactions is None
    if version >= fetch.LOG_START:
        assert second.partitions[0].log_start_offset == 7
    if version >= fetch.SESSIONS:
        assert answer.session_id == 5
    if version >= fetch.TOPIC_IDS:
        assert second.topic_id == b"t" * 16
    else:
        assert second.topic == "a topic"
    if version >= fetch.FLEXIBLE:
        assert (second.partitions[0].diverging_epoch.epoch, second.partitions[0].diverging_epoch.end_offset) == (3, 99)
    leader = second.partitions[0].current_leader
    assert (leader and (leader.leader_id, leader.leader_epoch)) == ((2, 8) if version >= fetch.NEW_LEADERS else None)
    endpoints = [(node.node_id, node.host, node.port, node.rack) for node in answer.node_endpoints]
    assert endpoints == ([(2, "::1", 9094, None), (30, "h" * 200, 1, None)] if version >= fetch.NEW_LEADERS else [])


@pytest.mark.parametrize("version", VERSIONS)
def test_without_topics_and_with_committed_reads(version: int) -> None:
    assert len(read_back(version, []).responses) == 0
    (topic,) = read_back(version, [[partition(0, None)]], read_committed=True).responses
    assert len(topic.partitions[0].aborted_transactions) == 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("read_committed", [False, True])
@pytest.mark.parametrize("size", [1, 126, 127, 128, 20_000])
def test_the_usual_answer_is_the_same(version: int, read_committed: bool, size: int) -> None:
    item = partition(3, b"x" * size)
    expected = fetch.encode(version, 77, [[item]], session_id=5, read_committed=read_committed)
    usual = fetch.encode_one(version, 77, item, 5, read_committed)
    assert usual == (expected if version >= fetch.FLEXIBLE else None)


@pytest.mark.parametrize(
    "facts", [{"records": None}, {"error_code": 6}, {"diverging": (3, 99)}, {"current_leader": (2, 8)}], ids=str
)
def test_what_is_unusual_has_no_usual_answer(facts: dict[str, Any]) -> None:
    assert fetch.encode_one(16, 77, partition(3, b"x", **facts), 0, False) is None
