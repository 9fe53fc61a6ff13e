"""What the log says of clients at fault: so many lines in a second, lest one of them fills the disk with it."""

from __future__ import annotations

import logging

from kbroker.workers.loop import Loop

log = logging.getLogger(__name__)

PERIOD_MS = 1_000
LINES_MAX = 50
"""In each period; of the rest there is one line that says how many they were."""


class Complaints:
    """The lines of one process about its clients."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._lines = 0
        self._period_end_ms = 0

    def say(self, text: str) -> None:
        """A line for the log, unless there were too many just now."""
        now_ms = self._loop.now_ms()
        if now_ms >= self._period_end_ms and self._lines <= LINES_MAX:
            self._period_end_ms = now_ms + PERIOD_MS
            self._lines = 0
        self._lines += 1
        if self._lines <= LINES_MAX:
            log.warning("%s", text)
        elif self._lines == LINES_MAX + 1:
            self._loop.call_later(self._period_end_ms - now_ms, self._tell_rest)

    def _tell_rest(self) -> None:
        log.warning("%d more lines about Kafka clients at fault were left out", self._lines - LINES_MAX)
        self._lines = 0
