"""Refusals that a Kafka client shows as something else, or without the reason: the log says why, and to whom.

Many answers of Kafka's protocol have a code and no place for words, and clients keep the words of others to themselves:
a `transactional.id` that is refused is "authorization failed" to six of them.
"""

from __future__ import annotations

from typing import Final

from kbroker.workers.caller import Caller
from kbroker.workers.complaints import Complaints
from kbroker.workers.loop import Loop

INTERVAL_MS: Final = 60_000
"""The same refusal of the same client is told once in so long, with how often it came meanwhile."""
REMEMBERED_MAX: Final = 4_096
"""Refusals whose last line is remembered; the one that was told longest ago is forgotten."""


class RefusalLog:
    """The lines (WARNING) of one process."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._lines = Complaints(loop, "requests that were refused")
        self._told: dict[int, list[int]] = {}
        """By the hash of who and what, which may be long: when, and how often since; the oldest first."""

    def say(self, caller: Caller, what: str, why: str, kind: str = "") -> None:
        """`what` was refused. Refusals of one `kind` (by default: with the same words) count as the same."""
        key = hash((caller.address.rpartition(":")[0], caller.client_id, kind or what, "" if kind else why))
        now_ms = self._loop.now_ms()
        told = self._told.get(key)
        more = ""
        if told is not None:
            if now_ms - told[0] < INTERVAL_MS:
                told[1] += 1
                return
            del self._told[key]
            more = f" ({told[1]} more times since it was told last)" if told[1] else ""
        elif len(self._told) >= REMEMBERED_MAX:
            del self._told[next(iter(self._told))]
        self._told[key] = [now_ms, 0]
        self._lines.say(f"{what:.300} refused: {why:.500}; asked by {caller}, which may show another reason{more}")
