"""Fetches that wait: woken, timed out, and ended alone when something goes wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbroker.types import TopicPartition
from kbroker.workers import parking as bounds
from kbroker.workers.loop import Loop
from kbroker.workers.parking import (
    CROWDED_LOOK_MS,
    LOOKS_A_TURN,
    WIDE_LOOKS_PER_MS,
    WIDE_PLACES,
    ParkedFetch,
    Parking,
    count_bytes,
    least_bytes,
)
from kbroker.workers.partition import HighWatermarkWaiter

NAME = TopicPartition("t", 0)


class Place:
    def __init__(self) -> None:
        self.parked: set[HighWatermarkWaiter] = set()


class Asked:
    """A request: what waits to answer it."""

    def __init__(self) -> None:
        self.waits: set[ParkedFetch] = set()

    def begin_waiting(self, waits: ParkedFetch) -> None:
        self.waits.add(waits)

    def end_waiting(self, waits: ParkedFetch) -> None:
        self.waits.remove(waits)


class FakeLoop(Loop):
    """Its clock goes on only when a test moves it."""

    time_ms = 1_000

    def now_ms(self) -> int:  # type: ignore[override]
        return self.time_ms


class Waiting(ParkedFetch):
    """Wants `enough`; `fault` is raised in the middle of things."""

    def __init__(self, loop: Loop | Parking, place: Place, wait_ms: int = 60_000, places: int = 1) -> None:
        self.asked = Asked()
        super().__init__(loop if isinstance(loop, Parking) else Parking(loop), self.asked)
        self.enough = False
        self.fault: Exception | None = None
        self.answers: list[object] = []
        self.looks = 0
        self.is_parked = self._park([TopicPartition("t", n) for n in range(places)], {NAME: place}, wait_ms)

    def _gather(self) -> bool:
        self.looks += 1
        if self.fault is not None:
            raise self.fault
        return self.enough

    def _respond(self) -> None:
        self._is_over = True
        self.answers.append("answer")

    def _fail(self, error: Exception) -> None:
        self.answers.append(error)


@pytest.fixture
def loop() -> Iterator[FakeLoop]:
    loop = FakeLoop()
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


def test_one_whose_client_hangs_up_waits_no_longer(loop: FakeLoop) -> None:
    parking, place = Parking(loop), Place()
    waiting = Waiting(parking, place)
    assert (parking.fetches, parking.places, waiting.asked.waits) == (1, 1, {waiting})
    waiting.cancel()
    assert (parking.fetches, parking.places, place.parked, waiting.asked.waits) == (0, 0, set(), set())
    waiting.enough = True
    waiting.look_again()
    loop.time_ms += 100_000
    loop.turn(timeout_ms=0)
    waiting.cancel()
    assert (waiting.answers, parking.fetches) == ([], 0)


def test_so_many_wait_in_a_process(loop: FakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    parking, place = Parking(loop), Place()
    monkeypatch.setattr(bounds, "FETCHES_MAX", 3)
    monkeypatch.setattr(bounds, "PLACES_MAX", 10)
    wide = Waiting(parking, place, places=9)
    assert not Waiting(parking, place, places=2).is_parked
    assert Waiting(parking, place).is_parked
    wide.cancel()
    assert all(Waiting(parking, place).is_parked for _ in range(2))
    assert not Waiting(parking, place).is_parked
    assert (parking.fetches, parking.places) == (3, 3)


def test_a_wide_one_makes_room_for_one_that_is_not(loop: FakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    parking, place = Parking(loop), Place()
    monkeypatch.setattr(bounds, "PLACES_MAX", 2 * (WIDE_PLACES + 1))
    first, second = (Waiting(parking, place, places=WIDE_PLACES + 1) for _ in range(2))
    assert not Waiting(parking, place, places=WIDE_PLACES + 1).is_parked
    assert all(Waiting(parking, place).is_parked for _ in range(WIDE_PLACES + 1))
    assert (first.answers, second.answers) == (["answer"], [])
    assert Waiting(parking, place).is_parked
    assert second.answers == ["answer"]
    assert (parking.places, parking.wide) == (WIDE_PLACES + 2, {})


def test_who_is_one_too_many_at_a_partition_looks_by_itself(loop: FakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    parking, place = Parking(loop), Place()
    monkeypatch.setattr(bounds, "OF_PARTITION_MAX", 2)
    first = [Waiting(parking, place) for _ in range(2)]
    crowded = Waiting(parking, place)
    parking.wake(place.parked)
    assert [one.looks for one in (*first, crowded)] == [1, 1, 0]
    for number in (1, 2):
        loop.time_ms += CROWDED_LOOK_MS
        loop.turn(timeout_ms=0)
        assert crowded.looks == number
    crowded.enough = True
    loop.time_ms += CROWDED_LOOK_MS
    loop.turn(timeout_ms=0)
    assert crowded.answers == ["answer"]
    assert parking.fetches == 2


def test_so_many_look_again_in_one_turn_of_the_loop(loop: FakeLoop) -> None:
    parking, place = Parking(loop), Place()
    fetches = [Waiting(parking, place) for _ in range(2 * LOOKS_A_TURN + 1)]

    def looks() -> int:
        return sum(fetch.looks for fetch in fetches)

    parking.wake(place.parked)
    parking.wake(place.parked)  # as often as there is something new
    assert looks() == 0
    for number in (1, 2):
        loop.turn(timeout_ms=0)
        assert looks() == number * LOOKS_A_TURN
    fetches[-1].cancel()
    loop.turn(timeout_ms=0)
    assert looks() <= 2 * LOOKS_A_TURN + 1
    assert all(fetch.looks for fetch in fetches[:-1])
    assert not loop.has_ready()


def test_wide_ones_count_for_as_many_and_do_not_look_at_each_append(loop: FakeLoop) -> None:
    parking, place = Parking(loop), Place()
    count = LOOKS_A_TURN - 1
    wide = [Waiting(parking, place, places=count) for _ in range(3)]
    parking.wake(place.parked)
    assert sum(fetch.looks for fetch in wide) == 2
    loop.turn(timeout_ms=0)
    assert [fetch.looks for fetch in wide] == [1, 1, 1]
    for _ in range(10):
        parking.wake(place.parked)
    assert [fetch.looks for fetch in wide] == [1, 1, 1]
    wide[0].enough = True
    loop.time_ms += count // WIDE_LOOKS_PER_MS
    loop.turn(timeout_ms=0)
    assert wide[0].answers == ["answer"]
