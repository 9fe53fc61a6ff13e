"""The questions of one request, a slice of them in each turn of the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Generic, TypeVar

from kbroker.workers.loop import Loop

Q = TypeVar("Q")
R = TypeVar("R")

SLICE: Final = 100
"""So many questions are put in one turn of the loop; others are served before the next so many."""
OPEN_MAX: Final = 4
"""So many questions of one request may wait for something at a time."""


class InTurns(Generic[Q, R]):
    """Puts each question by `ask(question, settle)`; `done` gets all results, in the order of the questions.

    `settle(result)` may be called at once or later, on the loop. A request with few questions that need no waiting is
    done before `start` returns.
    """

    def __init__(
        self,
        loop: Loop,
        questions: Sequence[Q],
        ask: Callable[[Q, Callable[[R], None]], None],
        done: Callable[[list[R]], None],
    ) -> None:
        self._loop = loop
        self._questions = questions
        self._ask = ask
        self._done = done
        self._results: dict[int, R] = {}
        self._next = 0
        self._is_asking = False

    def start(self) -> None:
        """Put the first questions."""
        if self._questions:
            self._go_on()
        else:
            self._done([])

    def _go_on(self) -> None:
        self._is_asking = True
        count = len(self._questions)
        end = min(count, self._next + SLICE)
        while self._next < end and self._next - len(self._results) < OPEN_MAX:
            number = self._next
            self._next += 1
            self._ask(self._questions[number], partial(self._settle, number))
        self._is_asking = False
        if len(self._results) == count:
            self._done([self._results[number] for number in range(count)])
        elif self._next == end < count:
            self._loop.call_soon(self._again)

    def _again(self) -> None:
        if self._next < len(self._questions) and self._next - len(self._results) < OPEN_MAX:
            self._go_on()

    def _settle(self, number: int, result: R) -> None:
        was_full = self._next - len(self._results) >= OPEN_MAX
        self._results[number] = result
        if not self._is_asking and (was_full or len(self._results) == len(self._questions)):
            self._go_on()
