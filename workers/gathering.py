"""The results of several questions of one request, in its order, whenever each comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

R = TypeVar("R")


class Gathering(Generic[R]):
    """`done` gets all results, in the order of the request, when the last is here."""

    def __init__(self, done: Callable[[Sequence[R]], None]) -> None:
        self._done = done
        self._results: dict[int, R] = {}
        self._count = 0

    def token_of(self, number: int) -> Callable[[R], None]:
        """What takes the result of that number."""
        return partial(self._take, number)

    def expect(self, count: int) -> None:
        """So many will be asked; to be said before the first is."""
        self._count = count
        if not count:
            self._done(())

    def _take(self, number: int, result: R) -> None:
        self._results[number] = result
        if len(self._results) == self._count:
            self._done([self._results[position] for position in range(self._count)])
