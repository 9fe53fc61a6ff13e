"""Disk writes that no client waits for: a few at a time, so that a group commit finds a thread and a short queue."""

from __future__ import annotations

from collections.abc import Callable

from kbroker.workers.partition import Partition

Ended = Callable[[], None]
Begin = Callable[[Partition, Ended], bool]
"""Begins a write, after which the second argument is called. False: there is nothing to do, and it is not called."""


class BackgroundWrites:
    """Write-backs, and flushes that are due by the clock or for a recovery point: at most half of the I/O threads.

    Each partition waits once for either, so that no more can wait than there are partitions.
    """

    def __init__(self, io_threads: int, write_back: Begin, flush: Begin) -> None:
        self._write_back = write_back
        self._flush = flush
        self._running_max = max(1, io_threads // 2)
        self._running = 0
        self._write_backs: dict[Partition, None] = {}  # in the order of their wishes, as the other
        self._flushes: dict[Partition, None] = {}

    def want_write_back(self, partition: Partition) -> None:
        """Have the disk begin with what was appended to the partition, soon."""
        self._write_backs[partition] = None
        self._go_on()

    def want_flush(self, partition: Partition) -> None:
        """Carry what was appended to the partition to the disk, soon."""
        self._flushes[partition] = None
        self._go_on()

    def _go_on(self) -> None:
        while self._running < self._running_max and (self._write_backs or self._flushes):
            # Before it ends, or does not even begin, the next must not begin in here.
            self._running += 1
            if self._write_backs:
                wanted, begin = self._write_backs, self._write_back
            else:
                wanted, begin = self._flushes, self._flush
            partition = next(iter(wanted))
            del wanted[partition]
            if not begin(partition, self._ended):
                self._running -= 1

    def _ended(self) -> None:
        self._running -= 1
        self._go_on()
