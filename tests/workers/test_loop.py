"""The loop: timers come due however busy it is, and what a turn leaves is served at its end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kbroker.workers.loop import READ, SWEPT_FROM, Loop


class Clock:
    """The loop's clock, turned by the test."""

    def __init__(self) -> None:
        self.now_ms = 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(Loop, "now_ms", lambda _self=None: made.now_ms)
    return made


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def test_the_end_of_a_turn_is_called_when_something_is_pending(loop: Loop) -> None:
    pending: list[str] = []
    called: list[str] = []

    def first() -> None:
        called.append("first")
        pending.clear()

    loop.at_turn_end(first, pending)
    loop.at_turn_end(lambda: called.append("always"))
    loop.turn(0)
    assert called == ["always"]
    loop.call_soon(lambda: pending.append("something"))
    loop.turn(0)
    loop.turn(0)
    assert called == ["always", "first", "always", "always"]


def test_an_end_of_a_turn_may_leave_something_for_a_later_one(loop: Loop) -> None:
    asked: list[int] = [1]
    answered: list[int] = []

    def serve() -> None:
        answered.extend(asked)
        asked.clear()

    sent: list[int] = []

    def send() -> None:
        sent.extend(answered)
        answered.clear()

    loop.at_turn_end(serve, asked)
    loop.at_turn_end(send, answered)
    loop.turn(0)
    assert sent == [1]


def test_a_timer_runs_once_it_is_due_and_not_before(loop: Loop, clock: Clock) -> None:
    called: list[str] = []
    loop.call_later(10, lambda: called.append("ten"))
    loop.call_later(5, lambda: called.append("five"))
    loop.call_later(7, lambda: called.append("cancelled")).cancel()
    loop.turn(0)
    assert called == []
    clock.now_ms += 9
    loop.turn(0)
    assert called == ["five"]
    clock.now_ms += 1
    loop.turn(0)
    assert called == ["five", "ten"]


def test_timers_come_due_under_steady_input(loop: Loop, clock: Clock) -> None:
    """A turn that had something to read looks at the clock before it; its timers are not put off for ever."""
    event = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # never read: always ready
    called: list[int] = []

    def busy(_events: int) -> None:
        clock.now_ms += 3

    def every() -> None:
        called.append(clock.now_ms)

    loop.add(event, READ, busy)
    loop.call_every(10, every)
    for _ in range(20):
        loop.turn()
    assert len(called) >= 4
    loop.remove(event)
    os.close(event)


def test_cancelled_timers_do_not_pile_up(loop: Loop) -> None:
    kept = [loop.call_later(1_000_000, lambda: None) for _ in range(10)]
    for _ in range(100_000):
        loop.call_later(1_000_000, lambda: None).cancel()
    assert len(loop._timers.heap) <= 2 * SWEPT_FROM + len(kept)
    done: list[int] = []
    for number in range(3):
        loop.call_later(0, lambda number=number: done.append(number))  # type: ignore[misc]
    for timer in kept:
        timer.cancel()
        timer.cancel()
    loop.turn()
    assert done == [0, 1, 2]
