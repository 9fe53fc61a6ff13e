"""A partition's folder on a disk that takes no writes: read as it is, what opening a log changes stays in memory.

So records can be read where the file system has turned read-only, or has no space left, also by a process that starts
there. Nothing is appended to such a log; it is opened anew when the disk takes writes again.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from kbroker.errors import StorageError
from kbroker.log import names
from kbroker.log.storage import File, Storage

_NO_WRITES: Final = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def takes_no_writes(error: BaseException) -> bool:
    """Whether a log could not be opened only because its disk takes no writes."""
    cause = error.__cause__ if isinstance(error, StorageError) else error
    return isinstance(cause, OSError) and cause.errno in _NO_WRITES


class ReadOnlyDisk(Storage):
    """Names that were made, moved or removed are so for this object only. What cannot be done so raises OSError."""

    is_read_only = True

    def __init__(self, folder: Path) -> None:
        self._made: dict[Path, File] = {}  # small files, in memory
        self._moved: dict[Path, Path | None] = {}  # where a name's file lies; None: nowhere
        # A copy that needs no trust in the page cache cannot be made here. Who reads on is told of lost records by the
        # leader epoch, once the log is opened anew.
        self._moved[folder / names.FLUSH_FAILED] = None

    def _real(self, path: Path) -> Path:
        real = self._moved.get(path, path)
        if real is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return real

    def open(self, path: Path, *, create: bool = False) -> File:
        made = self._made.get(path)
        if made is None:
            try:
                return super().open_to_read(self._real(path))
            except FileNotFoundError:
                if not create:
                    raise
            made = self._made[path] = File(os.memfd_create(path.name, os.MFD_CLOEXEC), path)
        return File(os.dup(made.fd), path)

    def open_to_read(self, path: Path) -> File:
        return self.open(path)

    def pwrite(self, file: File, data: bytes | bytearray | memoryview, position: int) -> int:
        """Of files that are there already only the bytes in memory change: those of indexes, which are kept there."""
        return super().pwrite(file, data, position) if _is_made(file) else len(data)

    def truncate(self, file: File, size_bytes: int) -> None:
        """Who has a torn tail cut remembers where."""
        if _is_made(file):
            super().truncate(file, size_bytes)

    def copy(self, source: File, target: File, size_bytes: int, *, source_position: int = 0) -> None:
        """Damaged segments are not repaired in memory: readers would look for them on the disk."""
        del target, size_bytes, source_position
        raise OSError(errno.EROFS, "a damaged segment cannot be repaired here", str(source.path))

    def start_writing(self, file: File, position: int, size_bytes: int) -> None:
        """There is nothing to write."""

    def fdatasync(self, file: File) -> None:
        """There is nothing to sync."""

    def fsync_folder(self, folder: Path) -> None:
        """There is nothing to sync."""

    def rename(self, old: Path, new: Path) -> None:
        if old in self._made:
            self._made[new] = self._made.pop(old)
        else:
            self._moved[new] = self._real(old)
            self._made.pop(new, None)
        self._moved[old] = None

    def link(self, old: Path, new: Path) -> None:
        self._moved[new] = self._real(old)

    def unlink(self, path: Path) -> None:
        if self._made.pop(path, None) is None:
            self._real(path)
        self._moved[path] = None

    def remove_folder(self, path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def list(self, folder: Path) -> list[str]:
        found = set(super().list(folder))
        for path, real in self._moved.items():
            if path.parent == folder:
                (found.discard if real is None else found.add)(path.name)
        return sorted(found | {path.name for path in self._made if path.parent == folder})

    def exists(self, path: Path) -> bool:
        if path in self._made:
            return True
        real = self._moved.get(path, path)
        return real is not None and super().exists(real)

    def file_size(self, path: Path) -> int:
        return self.size(self._made[path]) if path in self._made else super().file_size(self._real(path))


def _is_made(file: File) -> bool:
    return fcntl.fcntl(file.fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
