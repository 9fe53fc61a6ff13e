"""Whatever looks into records: in slices, on threads of its own, beside the loop.

Python code holds the interpreter's lock: a thread that computed without a pause would cost the loop milliseconds each
time that it wants the lock back. So work on records comes as `Steps`: a thread does one slice, some 0.3 ms, rests as
long, and goes on with the next piece of work, so that a short look-up is soon done beside a long one. The codecs'
calls leave the lock alone.

What waits is bounded in number, what is under way too, and what may use much memory to two pieces at a time. Look-ups
and batches each have room of their own, so that neither kind keeps the other waiting. What nobody wants any longer, for
its client has hung up, is not begun.
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
"""Pieces of work that take turns, half of each kind; each has decompressed a few MiB at most."""
LARGE_MAX: Final = 2
"""Those beside them that may have record.decompressed.bytes.max each, one of each kind."""
WAITING_MAX: Final = 1000
REST_S_MAX: Final = 0.002


class Unwanted(Exception):
    """The work was not begun: nobody waits for its outcome."""


class _Job:
    __slots__ = ("done", "is_large", "is_unwanted", "lane", "steps")

    def __init__(self, lane: _Lane, steps: Steps[Any], done: Done[Any], is_unwanted: Callable[[], bool]) -> None:
        self.lane = lane
        self.steps = steps
        self.done = done
        self.is_unwanted = is_unwanted
        self.is_large = False


class _Lane:
    """The work of one kind: what waits, and how much of it is under way."""

    __slots__ = ("large", "small", "waiting", "waiting_large")

    def __init__(self) -> None:
        self.waiting: deque[_Job] = deque()
        self.waiting_large: deque[_Job] = deque()
        self.small = 0
        self.large = 0


def _never() -> bool:
    return False


class RecordWork:
    """Given work by the loop's thread, hands the outcome back to it. The threads begin with the first piece of work."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._wanted = threading.Semaphore(0)  # counts the jobs in `_turn`
        self._turn: deque[_Job] = deque()
        self._batches = _Lane()
        self._lookups = _Lane()
        self._has_begun = False
        self.unfinished = 0
        """Pieces of work whose outcome the loop does not have yet."""

    @property
    def is_full(self) -> bool:
        """Whether so much is waiting that nothing more should be asked."""
        return self.unfinished >= WAITING_MAX

    def submit(self, steps: Steps[T], done: Done[T]) -> None:
        """Go through `steps`, then call `done(result, None)` or `done(None, error)` on the loop."""
        self._submit(_Job(self._batches, steps, done, _never))

    def look_up(self, steps: Steps[T], done: Done[T], is_unwanted: Callable[[], bool] = _never) -> None:
        """As `submit`, for what only answers a question. If `is_unwanted()` when it would begin it does not, and
        `done` gets Unwanted; it is called on any thread."""
        self._submit(_Job(self._lookups, steps, done, is_unwanted))

    def _submit(self, job: _Job) -> None:
        if not self._has_begun:
            self._has_begun = True
            for number in range(THREADS):
                threading.Thread(target=self._run, name=f"records-{number}", daemon=True).start()
        self.unfinished += 1
        with self._lock:
            job.lane.waiting.append(job)
            self._admit(job.lane)

    def _admit(self, lane: _Lane) -> None:
        """Let those begin, or go on, for whom there is room. With the lock held."""
        while lane.waiting_large and lane.large < LARGE_MAX // 2:
            lane.large += 1
            self._give_turn(lane.waiting_large.popleft())
        while lane.waiting and lane.small < UNDER_WAY_MAX // 2:
            job = lane.waiting.popleft()
            if job.is_unwanted():
                self._hand_back(job, None, Unwanted())
                continue
            lane.small += 1
            self._give_turn(job)

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
            is_last = not self._step(job)
            del job  # who waits for work holds nothing of the last: it knows a log, with its files
            if not is_last:
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
                    job.lane.small -= 1
                    job.lane.waiting_large.append(job)
                else:
                    self._give_turn(job)
                self._admit(job.lane)
            return True
        with self._lock:
            if job.is_large:
                job.lane.large -= 1
            else:
                job.lane.small -= 1
            self._admit(job.lane)
        self._hand_back(job, result, error)
        return False

    def _hand_back(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self._loop.call_soon_threadsafe(lambda: self._finish(job, result, error))

    def _finish(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self.unfinished -= 1
        job.done(result, error)
