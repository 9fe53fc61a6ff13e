"""Threads for what may block: flushes, cold reads, opening and closing logs, SQLite.

They wait in system calls, not in Python: a CPU-bound thread beside the loop would cost it milliseconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from kbroker.workers.loop import Loop

T = TypeVar("T")
log = logging.getLogger(__name__)


class IoThreads:
    """A fixed number of threads that run work given by the loop's thread and hand the outcome back to it."""

    def __init__(self, loop: Loop, count: int, name: str) -> None:
        self._loop = loop
        self._queue: SimpleQueue[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None], bool] | None]
        self._queue = SimpleQueue()
        self._started: dict[int, float] = {}
        self.waiting = 0
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        work: Callable[[], T],
        done: Callable[[T | None, BaseException | None], None],
        *,
        wakes: bool = True,
    ) -> None:
        """Run `work` on a thread, then call `done(result, None)` or `done(None, error)` on the loop.

        `wakes` False: `done` may wait for a turn that the loop has for another reason; a wake-up costs some 50 µs.
        """
        self.waiting += 1
        self._queue.put((work, done, wakes))

    def stalled_ms(self) -> int:
        """How long the oldest piece of work has been running; 0 when nothing runs. Tells a stalled disk."""
        now = time.monotonic()
        return max((int((now - start) * 1000) for start in list(self._started.values())), default=0)

    def close(self, timeout_s: float) -> None:
        """Let the threads finish what is queued, waiting at most `timeout_s` for each."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(timeout_s)

    def _run(self, number: int) -> None:
        while (item := self._queue.get()) is not None:
            work, done, wakes = item
            self._started[number] = time.monotonic()
            result: Any = None
            error: BaseException | None = None
            try:
                result = work()
            except BaseException as raised:  # handed to the loop, which decides
                error = raised
            finally:
                self._started.pop(number, None)
            finish = self._finish(done, result, error)
            if wakes or error is not None:
                self._loop.call_soon_threadsafe(finish)
            else:
                self._loop.call_soon(finish)
            # A thread that waits for work holds nothing of the last: it would keep a deleted partition's files open,
            # and an error that knows this very frame until a garbage collection.
            del item, work, done, result, error, finish

    def _finish(
        self, done: Callable[[Any, BaseException | None], None], result: Any, error: BaseException | None
    ) -> Callable[[], None]:
        def finish() -> None:
            self.waiting -= 1
            done(result, error)

        return finish
