"""Patterns of consumer groups that take long are matched on a thread, a piece at a time: the least work left goes
first, so that nobody waits for one dear pattern of somebody else's."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Final

from kbroker.errors import InvalidRegularExpression
from kbroker.groups.patterns import matching_piece
from kbroker.workers.io_threads import IoThreads

PIECE_STEPS: Final = 1_000_000
"""In one piece: 4 ms at most."""
PAUSE_S: Final = 0.004
"""After each, so that half of a processor is left to others however many patterns wait."""
PIECE_NAMES: Final = 1_000
"""Python takes its time for each name too."""

Matched = Callable[[str, str, frozenset[str]], None]
Uses = Callable[[str, str], bool]


@dataclass(slots=True, eq=False)
class _Work:
    """A pattern on its way through the names of all topics."""

    pattern: str
    names: Sequence[str]
    groups: set[str]
    at: int = 0
    seen: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)


class PatternMatching:
    """`names` are all topics; `uses(group, pattern)` whether it is still wanted; `matched(group, pattern, topics)` is
    called when it is known. Everything but the matching is done on the loop's thread."""

    def __init__(self, io: IoThreads, names: Callable[[], Iterable[str]], uses: Uses, matched: Matched) -> None:
        self._io = io
        self._names = names
        self._uses = uses
        self._matched = matched
        self._works: dict[str, _Work] = {}
        self._order: list[tuple[int, int, _Work]] = []
        self._numbers = count()
        self._all: tuple[str, ...] | None = None
        self._is_busy = False

    def names_changed(self) -> None:
        """Topics came or went."""
        self._all = None

    def want(self, group_id: str, pattern: str) -> None:
        """Match that pattern for that group."""
        work = self._works.get(pattern)
        if work is None:
            work = self._works[pattern] = _Work(pattern, self._all_names(), {group_id})
            self._put(work)
        work.groups.add(group_id)
        self._next()

    def close(self) -> None:
        """At the end of the process."""
        self._io.close(5)

    def _all_names(self) -> tuple[str, ...]:
        if self._all is None:
            self._all = tuple(self._names())
        return self._all

    def _put(self, work: _Work) -> None:
        left = (len(work.names) - work.at) * len(work.pattern)
        heapq.heappush(self._order, (left, next(self._numbers), work))

    def _next(self) -> None:
        """Begin the next piece, unless there is one under way."""
        while self._order and not self._is_busy:
            work = heapq.heappop(self._order)[2]
            work.groups = {group_id for group_id in work.groups if self._uses(group_id, work.pattern)}
            if work.at == len(work.names):
                # Topics that came meanwhile are matched before it is told.
                work.seen.update(work.names)
                work.names, work.at = [name for name in self._all_names() if name not in work.seen], 0
            if not work.groups or not work.names:
                self._done(work)
            else:
                self._is_busy = True
                names = work.names[work.at : work.at + PIECE_NAMES]
                self._io.submit(partial(_piece, work.pattern, names), partial(self._took, work))

    def _took(self, work: _Work, piece: tuple[int, frozenset[str]] | None, error: BaseException | None) -> None:
        self._is_busy = False
        if piece is not None:
            work.at += piece[0]
            work.found |= piece[1]
            self._put(work)
        elif isinstance(error, InvalidRegularExpression):  # as an older broker may have stored one
            del self._works[work.pattern]
        elif error is not None:
            raise error
        self._next()

    def _done(self, work: _Work) -> None:
        del self._works[work.pattern]
        for group_id in work.groups:
            self._matched(group_id, work.pattern, frozenset(work.found))


def _piece(pattern: str, names: Sequence[str]) -> tuple[int, frozenset[str]]:
    """On the thread."""
    found = matching_piece(pattern, names, PIECE_STEPS)
    time.sleep(PAUSE_S)
    return found
