"""When a group commit begins: as soon as the loop has nothing to read, so that it carries all that has come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from kbroker.workers.loop import Loop
from kbroker.workers.partition import Partition

WAIT_NS_MAX: Final = 500_000
"""How long input that keeps coming may put off a commit: about as long as a sync takes."""


class GroupCommits:
    """Partitions with something to carry to the disk. `end_turn` is called last in a turn in which some are
    `wanted`, when its answers have left:
    their clients send the next records while the disk is busy.

    A batch that is there already is read in some 0.1 ms. Left for the next commit it would wait for a whole sync more,
    and cost a commit of its own: with 64 KiB batches that makes half as many commits.
    """

    def __init__(
        self, loop: Loop, begin: Callable[[Partition], None], clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._loop = loop
        self._begin = begin
        self._clock_ns = clock_ns
        self.wanted: set[Partition] = set()
        """Those whose commit is to begin: while there are some, `end_turn` has something to do."""
        self._since_ns = 0

    def want(self, partition: Partition) -> None:
        """Begin a commit of the partition, this turn or soon. While one is running: to be asked again after it."""
        if partition.is_flushing:
            return
        if not self.wanted:
            self._since_ns = self._clock_ns()
        self.wanted.add(partition)

    def end_turn(self) -> None:
        """Begin what is wanted, unless more has come that could go along."""
        if self._loop.has_ready() and self._clock_ns() - self._since_ns < WAIT_NS_MAX:
            return  # another turn follows at once
        wanted = [*self.wanted]
        self.wanted.clear()
        for partition in wanted:
            self._begin(partition)
