"""What the log says of clients: so many lines in a second, lest one of them fills the disk with it."""

from __future__ import annotations

import logging

from kbroker.workers.loop import Loop

log = logging.getLogger(__name__)

PERIOD_MS = 1_000
LINES_MAX = 50
"""In each period; of the rest there is one line that says how many they were."""


class Complaints:
    """The lines of one process about its clients, or `about` something else that they do."""

    def __init__(
        self,
        loop: Loop,
        about: str = "Kafka clients at fault",
        level: int = logging.WARNING,
        lines_max: int = LINES_MAX,
    ) -> None:
        """`lines_max`: how many lines a period may have."""
        self._loop = loop
        self._about = about
        self._level = level
        self._lines_max = lines_max
        self._lines = 0
        self._period_end_ms = 0

    def say(self, text: str) -> None:
        """A line for the log, unless there were too many just now."""
        now_ms = self._loop.now_ms()
        if now_ms >= self._period_end_ms and self._lines <= self._lines_max:
            self._period_end_ms = now_ms + PERIOD_MS
            self._lines = 0
        self._lines += 1
        if self._lines <= self._lines_max:
            log.log(self._level, "%s", text)
        elif self._lines == self._lines_max + 1:
            self._loop.call_later(self._period_end_ms - now_ms, self._tell_rest)

    def _tell_rest(self) -> None:
        log.log(self._level, "%d more lines about %s were left out", self._lines - self._lines_max, self._about)
        self._lines = 0
