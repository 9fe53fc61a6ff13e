"""Lines for the log that may be called for at any rate, and come at a bounded one."""

from __future__ import annotations

import logging
from collections.abc import Hashable

PERIOD_MS = 10_000


class Seldom:
    """At most one warning of each kind in PERIOD_MS; the next one says how many were left out."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._not_before_ms: dict[Hashable, int] = {}
        self._left_out: dict[Hashable, int] = {}

    def warn(self, kind: Hashable, now_ms: int, text: str) -> None:
        """A warning, unless there was one of its kind just now."""
        if now_ms < self._not_before_ms.get(kind, 0):
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        self._not_before_ms[kind] = now_ms + PERIOD_MS
        count = self._left_out.pop(kind, 0)
        self._log.warning("%s%s", text, f" (and {count} more like it before)" if count else "")

    def tell_rest(self) -> None:
        """At the end: how many were left out."""
        for kind, count in self._left_out.items():
            self._log.warning("%s: %d more warnings like the last one were left out", kind, count)
        self._left_out.clear()
