"""A loop's clock and timers that only the test moves."""

from __future__ import annotations

from collections.abc import Callable


class HandClock:
    """Stands for a `Loop` where a part only looks at the time and sets timers."""

    def __init__(self, time_ms: int = 0) -> None:
        self.time_ms = time_ms
        self._timers: list[tuple[int, Callable[[], None]]] = []

    def now_ms(self) -> int:
        """As the test has set it."""
        return self.time_ms

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        """`run` calls it."""
        self._timers.append((self.time_ms + delay_ms, callback))

    def run(self) -> None:
        """Let time pass until no timer is left, also of those that timers set."""
        while self._timers:
            self._timers.sort(key=lambda timer: timer[0])
            at_ms, callback = self._timers.pop(0)
            self.time_ms = max(self.time_ms, at_ms)
            callback()
