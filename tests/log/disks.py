"""Disks that a test cannot buy: one that fails when asked to, one that forgets what was not synced."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path

from kbroker.log.storage import File, Storage


class FailingDisk(Storage):
    """Fails the operations named in `failing` with that errno, those in `failing_once` one time; writes at most `space`
    bytes more when it is set.
    """

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.failing_once: set[str] = set()
        self.space: int | None = None

    def _maybe(self, operation: str) -> None:
        if operation in self.failing_once:
            self.failing_once.remove(operation)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if operation in self.failing:
            raise OSError(self.failing[operation], os.strerror(self.failing[operation]))

    def pwrite(self, file: File, data: bytes | bytearray | memoryview, position: int) -> int:
        self._maybe("pwrite")
        if self.space is not None:
            data = memoryview(data)[: self.space]
            if not data:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.space -= len(data)
        return super().pwrite(file, data, position)

    def pwritev(self, file: File, pieces: Sequence[memoryview], position: int) -> int:
        return self.pwrite(file, b"".join(pieces), position)

    def truncate(self, file: File, size_bytes: int) -> None:
        self._maybe("truncate")
        super().truncate(file, size_bytes)

    def reserve(self, file: File, position: int, size_bytes: int) -> None:
        self._maybe("reserve")
        super().reserve(file, position, size_bytes)

    def start_writing(self, file: File, position: int, size_bytes: int) -> None:
        self._maybe("start_writing")
        super().start_writing(file, position, size_bytes)

    def free_bytes(self, file: File) -> int:
        return super().free_bytes(file) if self.space is None else self.space

    def pread(self, file: File, size_bytes: int, position: int) -> bytes:
        self._maybe("pread")
        return super().pread(file, size_bytes, position)

    def fdatasync(self, file: File) -> None:
        self._maybe("fdatasync")
        super().fdatasync(file)

    def fsync_folder(self, folder: Path) -> None:
        self._maybe("fsync_folder")
        super().fsync_folder(folder)


class UnsyncedDisk(Storage):
    """Syncs nothing: for tests that open thousands of logs and cut no power."""

    def fdatasync(self, file: File) -> None:
        pass

    def fsync_folder(self, folder: Path) -> None:
        pass


class ForgetfulDisk(Storage):
    """Remembers what was synced; `lose_power` puts the folder back to that, plus any part of what was not.

    A file's bytes are durable up to its last fdatasync, a folder's names up to its last fsync.
    """

    def __init__(self) -> None:
        self.content: dict[int, bytes] = {}  # by inode: bytes at the last fdatasync
        self.names: dict[Path, dict[str, int]] = {}  # by folder: name to inode at the last fsync
        self.held: list[File] = []  # keeps inode numbers from being used again

    def open(self, path: Path, *, create: bool = False) -> File:
        file = super().open(path, create=create)
        self.held.append(File(os.dup(file.fd), path))
        return file

    def fdatasync(self, file: File) -> None:
        size = self.size(file)
        self.content[os.fstat(file.fd).st_ino] = os.pread(file.fd, size, 0) if size else b""

    def fsync_folder(self, folder: Path) -> None:
        self.names[folder] = {
            name: os.stat(folder / name).st_ino for name in os.listdir(folder) if (folder / name).is_file()
        }

    def lose_power(self, folder: Path, random_source: random.Random) -> None:
        """What is left: synced names, synced bytes, and of a log's unsynced tail any prefix, its last bytes garbled."""
        now = {}
        for file in self.held:
            stat = os.fstat(file.fd)
            now[stat.st_ino] = os.pread(file.fd, stat.st_size, 0)
        left = {}
        for name, inode in self.names.get(folder, {}).items():
            synced = self.content.get(inode, b"")
            latest = now.get(inode, synced)
            if latest[: len(synced)] == synced and len(latest) > len(synced):
                kept = random_source.randrange(len(latest) - len(synced) + 1)
                tail = bytearray(latest[len(synced) : len(synced) + kept])
                if tail and random_source.random() < 0.5:
                    at = random_source.randrange(len(tail))
                    tail[at:] = bytes(len(tail) - at)
                synced += tail
            left[name] = synced
        for name in os.listdir(folder):
            os.unlink(folder / name)
        for name, data in left.items():
            (folder / name).write_bytes(data)
        self.held.clear()
        self.content.clear()
        self.names.clear()
        for name in left:
            stat = os.stat(folder / name)
            self.content[stat.st_ino] = left[name]
            self.held.append(File(os.open(folder / name, os.O_RDWR), folder / name))
        self.fsync_folder(folder)
