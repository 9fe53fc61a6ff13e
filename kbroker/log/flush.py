"""One group commit of a partition: what must reach the disk, taken on the loop and done in an I/O thread."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from kbroker.log import names
from kbroker.log.checkpoint import RecoveryPoint
from kbroker.log.reservation import Reservation, give_back
from kbroker.log.segment import IndexWrite
from kbroker.log.storage import File, Storage


@contextlib.contextmanager
def failure_mark(storage: Storage, folder: Path) -> Iterator[None]:
    """When the disk fails in here, tell the folder's next owner that the page cache lies, if the disk still takes a
    small file. In an I/O thread: that disk may be slow to say no once more.
    """
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            storage.replace_file(folder / names.FLUSH_FAILED, f"{error}\n".encode())
            storage.fsync_folder(folder)
        raise


class Flush:
    """Everything that a flush needs, so that `run` touches nothing of the log itself.

    Once it ran without an error, every record before `end_offset` is on the disk.
    """

    __slots__ = (
        "closing",
        "end_offset",
        "ended",
        "files",
        "folder",
        "folder_changed",
        "index_writes",
        "point_error",
        "recovery_point",
        "reservation",
        "snapshot",
        "stale",
        "storage",
    )

    def __init__(
        self, storage: Storage, folder: Path, files: list[File], end_offset: int, folder_changed: bool
    ) -> None:
        self.storage = storage
        self.folder = folder
        self.files = files
        self.end_offset = end_offset
        self.folder_changed = folder_changed
        self.closing = False  # also leave the clean-shutdown mark
        self.reservation: Reservation | None = None
        self.ended: list[tuple[File, int]] = []  # files that take no more, their sizes: space behind is given back
        self.index_writes: list[IndexWrite] = []
        self.recovery_point: RecoveryPoint | None = None
        self.snapshot = b""
        self.point_error: OSError | None = None  # the disk has no space for the recovery point, but for the records
        self.stale: list[Path] = []  # snapshots that nothing needs any more once this flush is done

    def run(self) -> None:
        """In an I/O thread. Raises OSError: then nothing may be taken to be on the disk (`fail_flush`), and a mark in
        the folder says so to the next owner, if the disk lets us.
        """
        with failure_mark(self.storage, self.folder):
            self._run()

    def _run(self) -> None:
        storage = self.storage
        if self.reservation is not None:
            self.reservation.make(storage)
        for file, size_bytes in self.ended:
            give_back(storage, file, size_bytes)
        for file in self.files:
            storage.fdatasync(file)
        if self.folder_changed:
            storage.fsync_folder(self.folder)
        if self.recovery_point is not None:
            try:
                self._move_recovery_point(self.recovery_point)
            except OSError as error:
                # The records are on the disk. What has no space is of use only: recovery reads more without it.
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self.point_error = error

    def _move_recovery_point(self, point: RecoveryPoint) -> None:
        storage = self.storage
        for write in self.index_writes:
            storage.pwrite_all(write.file, write.data, write.position)
        for file in {id(write.file): write.file for write in self.index_writes}.values():
            storage.fdatasync(file)
        storage.replace_file(names.numbered(self.folder, point.offset, names.SNAPSHOT), self.snapshot)
        if self.closing:
            # One sync for all names: without its snapshot neither the mark nor the point is believed.
            storage.replace_file(self.folder / names.CLEAN_SHUTDOWN, point.encode())
        else:
            storage.fsync_folder(self.folder)
        storage.replace_file(self.folder / names.RECOVERY_POINT, point.encode())
        storage.fsync_folder(self.folder)
        for path in self.stale:
            if storage.exists(path):
                storage.unlink(path)
