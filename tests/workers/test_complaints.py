"""Lines about clients at fault are bounded, and none is left out without a word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kbroker.workers.complaints import LINES_MAX, PERIOD_MS, Complaints


class Clock:
    """A loop's clock, moved by hand."""

    def __init__(self) -> None:
        self.time_ms = 0
        self.later: list[tuple[int, Callable[[], None]]] = []

    def now_ms(self) -> int:
        return self.time_ms

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        self.later.append((self.time_ms + delay_ms, callback))

    def advance(self, time_ms: int) -> None:
        self.time_ms += time_ms
        due = [callback for at, callback in self.later if at <= self.time_ms]
        self.later = [(at, callback) for at, callback in self.later if at > self.time_ms]
        for callback in due:
            callback()


def test_the_rest_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock: Any = Clock()
    complaints = Complaints(clock)
    for number in range(LINES_MAX + 20):
        complaints.say(f"client {number}")
    assert caplog.messages == [f"client {number}" for number in range(LINES_MAX)]
    clock.advance(PERIOD_MS)
    assert caplog.messages[LINES_MAX:] == ["20 more lines about Kafka clients at fault were left out"]
    complaints.say("another 100%")
    assert caplog.messages[-1] == "another 100%"


def test_few_lines_are_all_written(caplog: pytest.LogCaptureFixture) -> None:
    clock: Any = Clock()
    complaints = Complaints(clock)
    for number in range(4 * LINES_MAX):
        complaints.say(f"client {number}")
        clock.advance(PERIOD_MS // LINES_MAX + 1)
    assert len(caplog.messages) == 4 * LINES_MAX
    assert clock.later == []
