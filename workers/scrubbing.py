"""The scrub: segments are read again in the background, so that damage is found before a reader needs the records.

One thread of its own reads, checks and sleeps; the loop has two short turns for each segment. What was not in the
page cache before is not there afterwards.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from kbroker.log.damage import Damage
from kbroker.log.scrub import SegmentCheck
from kbroker.log.segment import Segment
from kbroker.log.storage import File, Storage
from kbroker.types import TopicPartition
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.loop import Loop, Timer
from kbroker.workers.page_cache import PageCache
from kbroker.workers.partition import Partition

log = logging.getLogger(__name__)

FIRST_PASS_MS: Final = 3_000
"""After the start: whoever waits for it goes first."""
PASS_PAUSE_MS: Final = 10_000
"""Between the end of a pass over all segments and the next one."""
SUSPECT_BYTES_PER_SECOND: Final = 64 << 20
"""Where a reader has stopped already nobody should wait for long."""

_Found = Callable[[Partition, list[Damage]], None]


class GentleStorage(Storage):
    """Reads without leaving anything in the page cache that was not there before. For one thread."""

    def __init__(self) -> None:
        self._cache = PageCache()

    def open_to_read(self, path: Path) -> File:
        """As Storage's, without read-ahead."""
        file = super().open_to_read(path)
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)
        return file

    def pread(self, file: File, size_bytes: int, position: int) -> bytes:
        was_cached = self._cache.has(file.fd, position, size_bytes) is not False
        data = super().pread(file, size_bytes, position)
        if not was_cached:
            # The page that this piece shares with the one before was read for that one.
            start = position - position % mmap.PAGESIZE
            os.posix_fadvise(file.fd, start, position + size_bytes - start, os.POSIX_FADV_DONTNEED)
        return data


class Scrub:
    """Of all partitions that a worker serves. `found` is called on the loop with what is corrupt."""

    def __init__(
        self,
        loop: Loop,
        serving: Mapping[TopicPartition, Partition],
        bytes_per_second: Callable[[], int],
        found: _Found,
    ) -> None:
        self._loop = loop
        self._serving = serving
        self._rate = bytes_per_second
        self._found = found
        self._threads: IoThreads | None = None
        self._storage = GentleStorage()
        self._ended = threading.Event()
        self._interrupted = threading.Event()
        self._suspects: deque[tuple[TopicPartition, int]] = deque()
        self._looked_at: set[tuple[TopicPartition, int]] = set()
        """Suspects of this pass: whoever reads there again and again has them looked at once."""
        self._pass: Iterator[tuple[TopicPartition, int]] = iter(())
        self._is_running = False
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin the first pass a while from now."""
        self._pass_later(FIRST_PASS_MS)

    def suspect(self, partition: Partition) -> None:
        """Readers have found no batch where one must be: look at those segments before all others."""
        new = {(partition.name, base_offset) for base_offset in partition.log.suspects} - self._looked_at
        partition.log.suspects.clear()
        if new:
            self._looked_at |= new
            self._suspects += sorted(new)
            self._interrupted.set()  # what is being read now, at the usual rate, comes again in the next pass
            self._next()

    def end(self) -> None:
        """The process ends: so does the thread, without waiting."""
        self._ended.set()
        self._interrupted.set()
        if self._threads is not None:
            self._threads.close(0)

    def _pass_later(self, pause_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(pause_ms, self._begin_pass)

    def _begin_pass(self) -> None:
        if self._ended.is_set() or self._is_running:
            return
        self._looked_at.clear()
        if self._rate():
            self._pass = self._all_segments([*self._serving])
        self._next()
        if not self._is_running:
            self._pass_later(PASS_PAUSE_MS)

    def _all_segments(self, names: list[TopicPartition]) -> Iterator[tuple[TopicPartition, int]]:
        """Each partition is asked for its segments when it is its turn: there may be many."""
        for name in names:
            partition = self._serving.get(name)
            if partition is not None:
                for base_offset in [*partition.log.bases]:
                    yield name, base_offset

    def _next(self) -> None:
        while not self._is_running and not self._ended.is_set():
            is_suspect = bool(self._suspects)
            found = self._suspects.popleft() if is_suspect else next(self._pass, None)
            if found is None:
                return
            name, base_offset = found
            partition = self._serving.get(name)
            if partition is None:
                continue
            check = self._check_of(partition, base_offset)
            if check is None:
                continue
            self._is_running = True
            self._interrupted.clear()
            if self._threads is None:
                self._threads = IoThreads(self._loop, 1, "scrub")
            pause = partial(self._pause, is_suspect)
            self._threads.submit(partial(check.run, pause), partial(self._checked, partition, check))

    def _check_of(self, partition: Partition, base_offset: int) -> SegmentCheck | None:
        opened = partition.log
        number = bisect_left(opened.bases, base_offset)
        if opened.bases[number : number + 1] != [base_offset]:
            return None
        segment = opened.segments[number]
        is_last = number + 1 == len(opened.bases)
        next_offset = opened.next_offset if is_last else _end_of(partition, segment, opened.bases[number + 1])
        return SegmentCheck(self._storage, segment.path, base_offset, segment.size_bytes, next_offset)

    def _pause(self, is_suspect: bool, size_bytes: int) -> bool:
        """On the thread: sleep for as long as that many bytes may take. False: give up."""
        rate = SUSPECT_BYTES_PER_SECOND if is_suspect else self._rate()
        interrupted = self._ended if is_suspect else self._interrupted
        return bool(rate) and not interrupted.wait(size_bytes / rate)

    def _checked(
        self, partition: Partition, check: SegmentCheck, found: list[Damage] | None, error: BaseException | None
    ) -> None:
        self._is_running = False
        if error is not None:
            log.error("%s: the scrub of %s failed: %s", partition.name, check.path.name, error)
        is_there = self._serving.get(partition.name) is partition and check.base_offset in partition.log.bases
        if found and is_there:
            self._found(partition, found)
        self._next()
        if not self._is_running and not self._ended.is_set():
            self._pass_later(PASS_PAUSE_MS)


def _end_of(partition: Partition, segment: Segment, following: int) -> int:
    """Where a closed segment ends: where the next one begins, or a gap that is known of."""
    known = partition.log.damage
    gaps = [entry.first_offset for entry in known.entries if segment.base_offset < entry.first_offset < following]
    return next((offset for offset in sorted(gaps) if known.covers(offset, following)), following)
