"""Producer ids cost nothing, so what is remembered of them is bounded: in a partition, in all, and after a start."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kbroker.config import LogConfig
from kbroker.log import recovery
from kbroker.log.log import PartitionLog
from kbroker.log.producer_room import ProducerRoom
from kbroker.log.producers import ProducerStates
from kbroker.records.batch import BatchFacts
from kbroker.types import TopicPartition
from tests.log.batches import batch

NOW_MS = 1_700_000_000_000
T = TopicPartition("t", 0)


def facts(producer_id: int, sequence: int = 0) -> BatchFacts:
    return BatchFacts(0, 70, 0, 0, 1, NOW_MS, NOW_MS, producer_id, 0, sequence, 0, 0)


def ids(states: ProducerStates) -> set[int]:
    return {producer_id for producer_id, _ in states}


def test_those_that_wrote_longest_ago_are_forgotten() -> None:
    states = ProducerStates(100)
    for number in range(1_000):
        states.add(facts(number), 2 * number, NOW_MS)
        states.add(facts(7, number + 1), 2 * number + 1, NOW_MS)
    assert 85 <= len(states) <= 100
    assert {7, *range(950, 1_000)} <= ids(states)
    assert states.forgotten == 1_000 - len(states)


def test_a_larger_snapshot_is_read_within_the_bound() -> None:
    states = ProducerStates()
    order = random.Random(1).sample(range(1_000), 1_000)
    for offset, number in enumerate(order):
        states.add(facts(number), 2 * offset, NOW_MS)
        states.add(facts(number, 1), 2 * offset + 1, NOW_MS)
    found = ProducerStates.parse(states.snapshot(), 100)
    assert found is not None
    assert ids(found) == set(order[-100:])
    assert found.forgotten == 900
    assert all(len(producer.batches) == 2 and producer.complete for _, producer in found)


def test_all_partitions_together_forget_where_there_are_most() -> None:
    told: list[int] = []
    room = ProducerRoom(1_000, told.append)
    parts = [ProducerStates() for _ in range(10)]
    for number, states in enumerate(parts):
        for producer in range(10 * number):
            states.add(facts(producer), producer, NOW_MS)
        room.adopt(states)
    for producer in range(5_000):
        parts[3].add(facts(10_000 + producer), 10_000 + producer, NOW_MS)
        assert room.held == sum(map(len, parts)) <= 1_000
    assert [len(states) for states in parts[:3]] == [0, 10, 20], "whoever has few keeps them"
    assert 14_999 in ids(parts[3])
    assert sum(told) == sum(states.forgotten for states in parts)
    for states in parts:
        room.release(states)
    assert room.held == 0


def test_expiry_makes_room() -> None:
    room = ProducerRoom(100)
    states = ProducerStates()
    room.adopt(states)
    for producer in range(90):
        states.add(facts(producer), producer, NOW_MS)
    assert states.expire(NOW_MS + 10, 5) == 90
    assert room.held == 0


@pytest.mark.parametrize("how", ["snapshot", "batches", "large snapshot"])
def test_a_folder_that_an_older_broker_filled(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "t-0"
    log = PartitionLog.open(folder, T, bytes(16), LogConfig(), 0, NOW_MS)
    for producer in range(500):
        log.append(batch(producer_id=producer, sequence=0), NOW_MS, sync=False)
    if how == "batches":
        log.abandon()
    else:
        log.close(NOW_MS)
    if how == "large snapshot":
        monkeypatch.setattr(recovery, "_SNAPSHOT_BYTES_MAX", 1_000)
    again = PartitionLog.open(folder, T, bytes(16), LogConfig(producer_ids_max=50), 0, NOW_MS)
    assert 40 <= len(again.producers) <= 50
    assert 499 in ids(again.producers)
    assert again.producers.forgotten
    repeated = again.append(batch(producer_id=499, sequence=0), NOW_MS, sync=False)
    assert repeated.base_offset == 499, "a repeat of one that is remembered"
    assert again.append(batch(producer_id=3, sequence=9), NOW_MS, sync=False).base_offset == 500
    again.close(NOW_MS)
