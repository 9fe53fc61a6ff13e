"""Whatever looks into records: in slices, on threads of its own, beside the loop.

Python code holds the interpreter's lock: a thread that computed without a pause would cost the loop milliseconds each
time that it wants the lock back. So work on records comes as `Steps`: a thread does one slice, some 0.3 ms, rests as
long, and goes on with the next piece of work, so that a short look-up is soon done beside a long one. The codecs'
calls leave the lock alone.

What waits is bounded in number, what is under way too, and what may use much memory to two pieces at a time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from kbroker.records.steps import MEMORY, Steps
from kbroker.workers.loop import Loop

T = TypeVar("T")
Done = Callable[[T | None, BaseException | None], None]

THREADS: Final = 2
UNDER_WAY_MAX: Final = 16
"""Pieces of work that take turns; each has decompressed a few MiB at most."""
LARGE_MAX: Final = 2
"""Those among them that may have record.decompressed.bytes.max each."""
WAITING_MAX: Final = 1000
REST_S_MAX: Final = 0.002


class _Job:
    __slots__ = ("done", "is_large", "steps")

    def __init__(self, steps: Steps[Any], done: Done[Any]) -> None:
        self.steps = steps
        self.done = done
        self.is_large = False


class RecordWork:
    """Given work by the loop's thread, hands the outcome back to it. The threads begin with the first piece of work."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._wanted = threading.Semaphore(0)  # counts the jobs in `_turn`
        self._turn: deque[_Job] = deque()
        self._waiting: deque[_Job] = deque()
        self._waiting_large: deque[_Job] = deque()
        self._small = 0  # under way
        self._large = 0
        self._has_begun = False
        self.unfinished = 0
        """Pieces of work whose outcome the loop does not have yet."""

    @property
    def is_full(self) -> bool:
        """Whether so much is waiting that nothing more should be asked."""
        return self.unfinished >= WAITING_MAX

    def submit(self, steps: Steps[T], done: Done[T]) -> None:
        """Go through `steps`, then call `done(result, None)` or `done(None, error)` on the loop."""
        if not self._has_begun:
            self._has_begun = True
            for number in range(THREADS):
                threading.Thread(target=self._run, name=f"records-{number}", daemon=True).start()
        self.unfinished += 1
        with self._lock:
            self._waiting.append(_Job(steps, done))
            self._admit()

    def _admit(self) -> None:
        """Let those begin, or go on, for whom there is room. With the lock held."""
        while self._waiting_large and self._large < LARGE_MAX:
            self._large += 1
            self._give_turn(self._waiting_large.popleft())
        while self._waiting and self._small < UNDER_WAY_MAX:
            self._small += 1
            self._give_turn(self._waiting.popleft())

    def _give_turn(self, job: _Job) -> None:
        self._turn.append(job)
        self._wanted.release()

    # --- on the threads ---

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            with self._lock:
                job = self._turn.popleft()
            began = time.perf_counter()
            if self._step(job):
                time.sleep(min(REST_S_MAX, time.perf_counter() - began))

    def _step(self, job: _Job) -> bool:
        """One slice. True: it was not the last."""
        result: Any = None
        error: BaseException | None = None
        try:
            need = next(job.steps)
        except StopIteration as end:
            result = end.value
        except BaseException as raised:  # handed to the loop, which decides
            error = raised
        else:
            with self._lock:
                if need is MEMORY and not job.is_large:
                    job.is_large = True
                    self._small -= 1
                    self._waiting_large.append(job)
                else:
                    self._give_turn(job)
                self._admit()
            return True
        with self._lock:
            if job.is_large:
                self._large -= 1
            else:
                self._small -= 1
            self._admit()
        self._loop.call_soon_threadsafe(lambda: self._finish(job, result, error))
        return False

    def _finish(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self.unfinished -= 1
        job.done(result, error)
