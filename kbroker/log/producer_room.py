"""How many idempotent producers all partitions of a process remember together.

Producer ids cost a client nothing, and each is remembered for a day in every partition that it wrote to. Above the
bound the partitions that remember most forget those of their producers that wrote longest ago, as Kafka does with
producers that were silent for `producer.id.expiration.ms`. Who was forgotten may go on, with any sequence; only a batch
that it sends again after that is not known for a repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

PRODUCER_BYTES: Final = 1_300
"""About what one takes in a partition with the five batches that are kept of it."""


class Producers(Protocol):
    """Those of one partition."""

    room: ProducerRoom | None

    def __len__(self) -> int: ...

    def forget_oldest(self, count: int) -> None: ...


class ProducerRoom:
    """`forgot(count)` is called when so many were forgotten for want of room."""

    def __init__(self, ids_max: int, forgot: Callable[[int], None] = lambda _count: None) -> None:
        self.ids_max = ids_max
        self.held = 0
        """Producers of all partitions."""
        self.forgot = forgot
        self._partitions: list[Producers] = []

    def adopt(self, states: Producers) -> None:
        """A partition's producers count from now on."""
        states.room = self
        self._partitions.append(states)
        self.took(len(states))

    def release(self, states: Producers) -> None:
        """That partition is let go of."""
        if states.room is self:
            states.room = None
            self._partitions.remove(states)
            self.held -= len(states)

    def took(self, count: int) -> None:
        """So many more are remembered; when those are too many, others are forgotten."""
        self.held += count
        if self.held > self.ids_max:
            self._make_room()

    def _make_room(self) -> None:
        """Forget an eighth: all that a partition has above a level that is the same for all."""
        left, others = self.ids_max * 7 // 8, len(self._partitions)
        level = 0
        for size in sorted(map(len, self._partitions)):
            level = left // others
            if size > level:
                break
            left, others = left - size, others - 1
        for states in self._partitions:
            if len(states) > level:
                states.forget_oldest(len(states) - level)
