"""Space of deleted files, given back while nobody waits for it: a piece, a pause, the next piece."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from kbroker.log.freeing import Freeing, free_file, free_folder
from kbroker.log.retention import Deletion
from kbroker.log.storage import File, Storage
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.loop import Loop

log = logging.getLogger(__name__)

PAUSE_MS = 10
"""After each piece of 4 MiB: 300 MB in a second."""
UNHURRIED_MAX = 4
"""With more files or folders waiting the pauses become shorter, so that deleting keeps up with writing."""
RETRY_MS = 5_000


class FreedSpace:
    """One piece at a time for a whole process, on its I/O threads. What is left at its end, the next start finds."""

    def __init__(self, loop: Loop, io: IoThreads, storage: Storage) -> None:
        self._loop = loop
        self._io = io
        self._storage = storage
        self._waiting: deque[tuple[Path, Callable[[], Freeing], Freeing | None]] = deque()
        self._is_busy = False
        self._told: set[Path] = set()

    def free_files(self, deletions: Iterable[Deletion]) -> None:
        """Files that retention or compaction has renamed. Who still reads one by the log's descriptor reads no more."""
        for deletion in deletions:
            file = None if deletion.held is None else deletion.held()
            self._add(deletion.path, partial(_let_go_and_free, self._storage, deletion.path, file))

    def free_folder(self, folder: Path, begun: Freeing | None = None) -> None:
        """A deleted partition's renamed folder; `begun`: what is left of its steps."""
        self._add(folder, partial(free_folder, self._storage, folder), begun)

    def _add(self, path: Path, begin: Callable[[], Freeing], begun: Freeing | None = None) -> None:
        self._waiting.append((path, begin, begun))
        if not self._is_busy:
            self._next()

    def _next(self) -> None:
        self._is_busy = bool(self._waiting)
        if self._waiting:
            path, begin, begun = self._waiting.popleft()
            self._step(path, begin, begun or begin())

    def _step(self, path: Path, begin: Callable[[], Freeing], freeing: Freeing) -> None:
        def done(is_scarce: bool | None, error: BaseException | None) -> None:
            if error is not None:
                self._failed(path, begin, error)
            elif is_scarce is None:
                self._told.discard(path)
                self._next()
            elif is_scarce:
                self._step(path, begin, freeing)
            else:
                pause_ms = PAUSE_MS * UNHURRIED_MAX // max(UNHURRIED_MAX, len(self._waiting))
                self._loop.call_later(pause_ms, partial(self._step, path, begin, freeing))

        self._io.submit(partial(next, freeing, None), done)

    def _failed(self, path: Path, begin: Callable[[], Freeing], error: BaseException) -> None:
        if path not in self._told:  # not at each try
            self._told.add(path)
            log.error("%s cannot be removed, tried again every %d s: %s", path, RETRY_MS // 1000, error)
        self._loop.call_later(RETRY_MS, partial(self._add, path, begin))
        self._next()


def _let_go_and_free(storage: Storage, path: Path, file: File | None) -> Freeing:
    if file is not None:
        file.let_go()
    yield from free_file(storage, path)
