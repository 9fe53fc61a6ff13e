"""Wakes a thread that sleeps on descriptors."""

from __future__ import annotations

import contextlib
import os


class Wakeup:
    """An eventfd, open as long as anybody holds this: who wakes never writes to a number that is another's by now."""

    __slots__ = ("fd",)

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def wake(self) -> None:
        """Make `fd` readable."""
        os.eventfd_write(self.fd, 1)

    def drain(self) -> None:
        """Make it unreadable again."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """Nobody wakes or sleeps any more. A second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()
