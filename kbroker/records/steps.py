"""Work on records in slices: a generator that yields wherever others may have a turn."""

from __future__ import annotations

from collections.abc import Generator
from enum import Enum
from typing import Final, TypeVar

T = TypeVar("T")


class Need(Enum):
    """What a step asks for before the next one."""

    TURN = "turn"
    """Nothing: others may have a turn."""
    MEMORY = "memory"
    """Up to record.decompressed.bytes.max. Said once at most; few such pieces of work go on at once."""


TURN: Final = Need.TURN
MEMORY: Final = Need.MEMORY
Steps = Generator[Need, None, T]
"""Slices of some 0.3 ms of Python each, or of codecs' calls, which let other threads run; then the result."""


def finished(steps: Steps[T]) -> T:
    """Go through all slices at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
