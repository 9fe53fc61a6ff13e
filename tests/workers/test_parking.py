"""Fetches that wait: woken, timed out, and ended alone when something goes wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbroker.types import TopicPartition
from kbroker.workers.loop import Loop
from kbroker.workers.parking import ParkedFetch, count_bytes, least_bytes
from kbroker.workers.partition import HighWatermarkWaiter

NAME = TopicPartition("t", 0)


class Place:
    def __init__(self) -> None:
        self.parked: set[HighWatermarkWaiter] = set()


class Waiting(ParkedFetch):
    """Wants `enough`; `fault` is raised in the middle of things."""

    def __init__(self, loop: Loop, place: Place, wait_ms: int = 60_000) -> None:
        super().__init__(loop)
        self.enough = False
        self.fault: Exception | None = None
        self.answers: list[object] = []
        self._park([NAME], {NAME: place}, wait_ms)

    def _gather(self) -> bool:
        if self.fault is not None:
            raise self.fault
        return self.enough

    def _respond(self) -> None:
        self._is_over = True
        self.answers.append("answer")

    def _fail(self, error: Exception) -> None:
        self.answers.append(error)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_it_is_answered_once_when_there_is_enough(loop: Loop) -> None:
    place = Place()
    waiting = Waiting(loop, place)
    waiting.look_again()
    assert (waiting.answers, place.parked) == ([], {waiting})
    waiting.enough = True
    waiting.look_again()
    waiting.look_again()
    assert (waiting.answers, place.parked) == (["answer"], set())


def test_it_is_answered_when_its_time_is_up(loop: Loop) -> None:
    place = Place()
    waiting = Waiting(loop, place, wait_ms=0)
    loop.turn(0)
    assert (waiting.answers, place.parked) == (["answer"], set())


@pytest.mark.parametrize("wait_ms", [0, 60_000])
def test_a_fault_ends_it_alone(loop: Loop, wait_ms: int) -> None:
    place = Place()
    waiting, other = Waiting(loop, place, wait_ms), Waiting(loop, place)
    waiting.fault = fault = ZeroDivisionError()
    if wait_ms:
        waiting.look_again()
    else:
        loop.turn(0)
    waiting.look_again()
    assert (waiting.answers, place.parked) == ([fault], {other})


def test_enough_is_never_more_than_an_answer_may_hold() -> None:
    assert least_bytes(1, 1_000, 1_000) == 1
    assert least_bytes(2_000, 1_000, 5_000) == 1_000
    assert least_bytes(2_000, 5_000, 1_000) == 1_000
    assert least_bytes(-5, 5_000, 1_000) == 1
    assert least_bytes(10, -1, -2) == 1


def test_a_partition_that_has_more_than_the_answer_may_hold_counts_as_full() -> None:
    assert count_bytes(900, 1_000, is_all=True) == 900
    assert count_bytes(900, 1_000, is_all=False) == 1_000
    assert count_bytes(5_000, 1_000, is_all=False) == 5_000  # one batch at least, whatever its size
