"""One group commit of a partition: what must reach the disk, taken on the loop and done in an I/O thread."""

from __future__ import annotations

from pathlib import Path

from kbroker.log import names
from kbroker.log.checkpoint import RecoveryPoint
from kbroker.log.segment import IndexWrite
from kbroker.log.storage import File, Storage


class Flush:
    """Everything that a flush needs, so that `run` touches nothing of the log itself.

    Once it ran without an error, every record before `end_offset` is on the disk.
    """

    __slots__ = (
        "closing",
        "end_offset",
        "files",
        "folder",
        "folder_changed",
        "index_writes",
        "recovery_point",
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
        self.index_writes: list[IndexWrite] = []
        self.recovery_point: RecoveryPoint | None = None
        self.snapshot = b""
        self.stale: list[Path] = []  # snapshots that nothing needs any more once this flush is done

    def run(self) -> None:
        """In an I/O thread. Raises OSError: then nothing may be taken to be on the disk (`fail_flush`)."""
        storage = self.storage
        for file in self.files:
            storage.fdatasync(file)
        if self.folder_changed:
            storage.fsync_folder(self.folder)
        if self.recovery_point is not None:
            self._move_recovery_point(self.recovery_point)

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
