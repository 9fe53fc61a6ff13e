"""Whether a disk that has refused something takes writes again: found out by writing, without a client's help.

Meanwhile its partitions are read from as before. One that only had no space goes on by itself; one whose disk failed to
sync is opened anew, for its page cache proves nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from kbroker.log import names
from kbroker.log.storage import Storage
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.partition import Partition

LEAST_BYTES: Final = 64 << 10
MOST_BYTES: Final = 1 << 20


def probe(storage: Storage, folder: Path, size_bytes: int) -> None:
    """In an I/O thread: write so many bytes into the folder, and sync them. Raises OSError: the disk refuses them."""
    path = folder / names.WRITE_PROBE
    try:
        file = storage.open(path, create=True)
        try:
            storage.truncate(file, 0)
            storage.pwrite_all(file, bytes(size_bytes), 0)
            storage.fdatasync(file)
        finally:
            file.close()
    finally:
        with contextlib.suppress(OSError):
            storage.unlink(path)


class DiskProbes:
    """The partitions of a worker that refuse records: one is looked at at a time, and after a failure none for a while,
    for they share a disk.
    """

    def __init__(self, io: IoThreads, storage: Storage, taken: Callable[[Partition], None]) -> None:
        """`taken(partition)`: its disk has taken something."""
        self._io = io
        self._storage = storage
        self._taken = taken
        self._waiting: dict[Partition, None] = {}
        self._is_probing = False

    def want(self, partition: Partition) -> None:
        """Look at the partition's disk now, if none was found wanting before; else at the next `look_again`."""
        if partition in self._waiting:
            return
        self._waiting[partition] = None
        if len(self._waiting) == 1:
            self.look_again()

    def look_again(self) -> None:
        """Try the disk again. Call it now and then."""
        if self._is_probing:
            return
        for partition in list(self._waiting):
            if partition.has_left or not partition.refuses:
                del self._waiting[partition]
                continue
            self._is_probing = True
            size_bytes = min(max(LEAST_BYTES, partition.refused_bytes), MOST_BYTES)
            self._io.submit(
                partial(probe, self._storage, partition.log.folder, size_bytes), partial(self._probed, partition)
            )
            return

    def _probed(self, partition: Partition, _result: None, error: BaseException | None) -> None:
        self._is_probing = False
        was_waiting = partition in self._waiting
        self._waiting.pop(partition, None)
        if error is None:
            if not partition.has_left and partition.refuses:
                self._taken(partition)
            self.look_again()
        elif was_waiting:
            self._waiting[partition] = None  # last: another one may want less
