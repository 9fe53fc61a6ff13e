"""Flushes on their way to the disk: by the kernel's asynchronous I/O where it can, else by the I/O threads."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from kbroker.log.flush import Flush
from kbroker.log.kernel_sync import KernelSync
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.loop import READ, Loop

log = logging.getLogger(__name__)

IN_FLIGHT_MAX: Final = 64
"""More flushes at a time than this go to the I/O threads, which queue them."""

Done = Callable[[None, BaseException | None], None]


class _InFlight(NamedTuple):
    flush: Flush  # keeps its file open
    done: Done
    started_s: float


class DiskSyncs:
    """Runs flushes for the loop's thread, which is told of their ends."""

    def __init__(self, loop: Loop, io: IoThreads) -> None:
        self._loop = loop
        self._io = io
        self._in_flight: dict[int, _InFlight] = {}
        self._count = 0
        self._kernel: KernelSync | None = None
        try:
            self._kernel = KernelSync(IN_FLIGHT_MAX)
        except OSError as error:
            log.info("no asynchronous I/O of the kernel (io_setup: %s): I/O threads sync the disk, at more CPU", error)
            return
        loop.add(self._kernel.event_fd, READ, self._on_outcomes)

    def submit(self, flush: Flush, done: Done) -> None:
        """Run a flush, then call `done(None, None)` or `done(None, error)` on the loop."""
        file = flush.only_file
        if file is not None and self._kernel is not None:
            self._count += 1
            try:
                self._kernel.begin(file, self._count)
            except OSError as error:
                # A thread gets through what the kernel does not take now, or finds out what is wrong with the file.
                log.debug("%s: io_submit: %s", file.path, errno.errorcode.get(error.errno or 0, error))
            else:
                self._in_flight[self._count] = _InFlight(flush, done, time.monotonic())
                return
        self._io.submit(flush.run, done)

    def stalled_ms(self) -> int:
        """How long the oldest one that the kernel has is under way; 0 for none. Tells a stalled disk."""
        if not self._in_flight:
            return 0
        # A dict keeps the order in which they were begun.
        return int((time.monotonic() - next(iter(self._in_flight.values())).started_s) * 1000)

    def close(self) -> None:
        """Wait for what the kernel has; nobody is told of it any more."""
        if self._kernel is not None:
            self._loop.remove(self._kernel.event_fd)
            self._kernel.close()

    def _on_outcomes(self, _events: int) -> None:
        assert self._kernel is not None
        for key, error in self._kernel.outcomes():
            self._in_flight.pop(key).done(None, error)
