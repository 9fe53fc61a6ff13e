"""The only door to the disk: everything the log does to files goes through a Storage.

Tests put another one underneath that fails on request or forgets what was not synced. Plain OSErrors come out here;
the log turns them into StorageError with what they meant.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FILE_MODE: Final = 0o640
FOLDER_MODE: Final = 0o750
_COPY_BYTES: Final = 1 << 20
_IOV_MAX: Final = 1024
"""As many pieces the kernel takes at once."""
_KEEP_SIZE: Final = 1
"""FALLOC_FL_KEEP_SIZE: Python's os.posix_fallocate would make the file larger."""

_START_WRITING: Final = 2
"""SYNC_FILE_RANGE_WRITE."""
_NOT_HERE: Final = (errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP)
"""A kernel, a file system or a sandbox that cannot do something which is of use only."""

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


class File:
    """An open file. It is closed when nobody holds it any more: until `let_go` a slice keeps its segment readable after
    retention.
    """

    __slots__ = ("__weakref__", "fd", "path")

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path

    def close(self) -> None:
        """Close now, whoever else holds it. A second close does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def let_go(self) -> None:
        """Hold the file no longer, whoever else holds this object: it is empty from now on, for another thread that
        reads it in this moment too. Its number stays taken until `close`, so that nobody reads another file by it.
        """
        if self.fd >= 0:
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.dup2(nothing, self.fd, inheritable=False)
            finally:
                os.close(nothing)

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            with contextlib.suppress(OSError):
                self.close()

    def __repr__(self) -> str:
        return f"File({self.fd}, {str(self.path)!r})"


class Storage:
    """The real disk. Every method may raise OSError."""

    is_read_only = False
    """Whether what is written is worth nothing."""

    def open(self, path: Path, *, create: bool = False) -> File:
        """Open to read and write; `create` makes a missing file (mode 0640) and does not sync its folder."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        return File(os.open(path, flags, FILE_MODE), path)

    def open_to_read(self, path: Path) -> File:
        return File(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), path)

    def pwrite(self, file: File, data: bytes | bytearray | memoryview, position: int) -> int:
        """One write; the bytes written may be fewer than asked for."""
        return os.pwrite(file.fd, data, position)

    def pwritev(self, file: File, pieces: Sequence[memoryview], position: int) -> int:
        """One write of all pieces, one behind the other; the bytes written may be fewer than asked for."""
        return os.pwritev(file.fd, pieces[:_IOV_MAX], position)

    def pread(self, file: File, size_bytes: int, position: int) -> bytes:
        """One read; shorter only at the end of the file."""
        return os.pread(file.fd, size_bytes, position)

    def size(self, file: File) -> int:
        """Size in bytes."""
        return os.fstat(file.fd).st_size

    def truncate(self, file: File, size_bytes: int) -> None:
        os.ftruncate(file.fd, size_bytes)

    def reserve(self, file: File, position: int, size_bytes: int) -> None:
        """Set space on the disk aside for `size_bytes` bytes at `position`. The file's size stays; what lies behind it
        is given back by truncating the file to it.
        """
        if _fallocate(file.fd, _KEEP_SIZE, position, size_bytes):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(file.path))

    def start_writing(self, file: File, position: int, size_bytes: int) -> None:
        """Have the kernel begin to carry a stretch to the disk. Whether it gets there is fdatasync's to tell.

        Takes 0.1 ms per MiB, and longer while the disk's queue is full.
        """
        if _sync_file_range(file.fd, position, size_bytes, _START_WRITING):
            error = ctypes.get_errno()
            if error not in _NOT_HERE:
                raise OSError(error, os.strerror(error), str(file.path))

    def free_bytes(self, file: File) -> int:
        """Free space on the file's disk."""
        return self.disk_room(file)[1]

    def disk_room(self, file: File) -> tuple[int, int]:
        """Size of the file's disk and its free space, in bytes."""
        disk = os.fstatvfs(file.fd)
        return disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize

    def is_alone(self, file: File) -> bool:
        """Whether nobody else, in any process, has the file open or mapped. False also where the system cannot tell."""
        try:
            # A lease to write is given to the only one who has the file open.
            fcntl.fcntl(file.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(file.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError:
            return False
        return True

    def changed_ms(self, file: File) -> int:
        """When the file was last written, in ms since 1970."""
        return os.fstat(file.fd).st_mtime_ns // 1_000_000

    def fdatasync(self, file: File) -> None:
        os.fdatasync(file.fd)

    def fsync_folder(self, folder: Path) -> None:
        """Make the names in `folder` durable."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def link(self, old: Path, new: Path) -> None:
        """A second name for a file."""
        os.link(old, new)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        os.rmdir(path)

    def list(self, folder: Path) -> list[str]:
        """Names in a folder, sorted."""
        return sorted(os.listdir(folder))

    def exists(self, path: Path) -> bool:
        return os.path.lexists(path)

    def file_size(self, path: Path) -> int:
        """Size in bytes of a file by its name."""
        return os.stat(path).st_size

    def make_folder(self, path: Path) -> None:
        """Make one folder (mode 0750). FileExistsError when it is there."""
        os.mkdir(path, FOLDER_MODE)

    def lock_folder(self, folder: Path) -> File:
        """An exclusive flock on the folder, held until the File is closed. BlockingIOError when somebody has it."""
        lock = File(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), folder)
        try:
            fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise
        return lock

    # Built from the above.

    def read_file(self, path: Path) -> bytes:
        """A whole file."""
        file = self.open_to_read(path)
        return self.pread_all(file, self.size(file), 0)

    def pread_all(self, file: File, size_bytes: int, position: int) -> bytes:
        """`size_bytes` from `position`; shorter only at the end of the file."""
        data = self.pread(file, size_bytes, position)
        if len(data) == size_bytes or not data:
            return data
        parts = [data]
        got = len(data)
        while got < size_bytes:
            data = self.pread(file, size_bytes - got, position + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def pwrite_all(self, file: File, data: bytes | bytearray | memoryview, position: int) -> None:
        """Write all of `data`; a disk that takes no more raises OSError."""
        view = memoryview(data)
        while view:
            written = self.pwrite(file, view, position)
            if written <= 0:
                raise OSError(f"{file.path}: nothing written")
            view = view[written:]
            position += written

    def replace_file(self, path: Path, data: bytes) -> None:
        """Put a file in place whole or not at all, its bytes synced. The caller syncs the folder."""
        temporary = path.with_name(path.name + ".tmp")
        file = self.open(temporary, create=True)
        self.truncate(file, 0)
        self.pwrite_all(file, data, 0)
        self.fdatasync(file)
        file.close()
        self.rename(temporary, path)

    def copy(self, source: File, target: File, size_bytes: int, *, source_position: int = 0) -> None:
        """Copy `size_bytes` bytes of `source` to the start of `target`, which the disk takes steadily."""
        position = 0
        while position < size_bytes:
            data = self.pread_all(source, min(_COPY_BYTES, size_bytes - position), source_position + position)
            if not data:
                raise OSError(f"{source.path}: ends too early, {size_bytes - position} bytes more were expected")
            self.pwrite_all(target, data, position)
            self.start_writing(target, position, len(data))
            position += len(data)


DISK: Final = Storage()
