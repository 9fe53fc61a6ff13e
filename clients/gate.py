"""What a caller waits at until another thread opens it."""

from __future__ import annotations

import threading


class Gate:
    """Waited at once, by one thread; opened as often as one likes, by threads that hold a lock of their own around it.

    A bare lock, not threading.Event: that has a lock inside, which an exception in the middle of `set` can leave taken
    for ever (Ctrl-C in the thread that opens).
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        """Let the waiting thread pass, now or when it comes."""
        if self._lock.locked():
            self._lock.release()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is open. False: it was not within `timeout_s`."""
        return self._lock.acquire(timeout=-1 if timeout_s is None else timeout_s)
