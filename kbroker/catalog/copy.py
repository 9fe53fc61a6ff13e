"""A second copy of the catalog, `catalog.copy`: what a rebuild cannot find in the partition folders comes from here.

A text file to which every change is added before it is answered, one line for each key:

    CRC-32C of the rest in 8 hex digits, the key, the value in hex digits or `-` for a key that was removed

The last line of a key counts, a damaged one does not. The file is written anew at each start, and when it has grown.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from crc32c import crc32c

from kbroker.catalog.sqlite import fsync_folder
from kbroker.catalog.store import Change, Versioned

log = logging.getLogger(__name__)

FILE_NAME = "catalog.copy"
ADDED_BYTES_MAX = 4 << 20
"""Above this and the size of the catalog itself the file is written anew."""
_FILE_MODE = 0o640


class CatalogCopy:
    """The copy in `folder` of what `entries` returns. A disk that does not take it never fails a change."""

    def __init__(self, folder: Path, entries: Callable[[], Mapping[str, Versioned]]) -> None:
        self.path = folder / FILE_NAME
        self._entries = entries
        self._fd = -1
        self._whole_bytes = 0
        self._added_bytes = 0

    def read(self) -> dict[str, bytes]:
        """The newest value of each key; none when there is no copy."""
        found: dict[str, bytes] = {}
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return found
        except OSError as error:
            log.error("the catalog's copy %s cannot be read: %s", self.path, error.strerror)
            return found
        for line in lines:
            crc, _, rest = line.partition(b" ")
            if crc != _crc(rest):
                log.error("a damaged line in the catalog's copy %s is passed over", self.path)
                continue
            key, _, value = rest.decode("ascii").rpartition(" ")
            if value == "-":
                found.pop(key, None)
            else:
                found[key] = bytes.fromhex(value)
        return found

    def renew(self) -> None:
        """At the start: write the whole catalog, in one step, unless the file says the same already."""
        try:
            if self.read() == {key: entry.value for key, entry in self._entries().items()}:
                self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
                self._added_bytes = os.fstat(self._fd).st_size
            else:
                self._write()
        except OSError as error:
            self._give_up(error)

    def add(self, changes: Iterable[Change]) -> None:
        """The store has committed these changes."""
        lines = b"".join(_line(change.key, change.value) for change in changes)
        try:
            if self._fd < 0 or self._added_bytes > max(self._whole_bytes, ADDED_BYTES_MAX):
                self._write()
                return
            self._added_bytes += len(lines)
            _write_all(self._fd, lines)
            os.fdatasync(self._fd)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file; what was added stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self) -> None:
        self.close()
        whole = b"".join(_line(key, entry.value) for key, entry in self._entries().items())
        temporary = self.path.with_name(f".{FILE_NAME}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(temporary, flags, _FILE_MODE)
        _write_all(self._fd, whole)
        os.fdatasync(self._fd)
        os.rename(temporary, self.path)
        fsync_folder(self.path.parent)
        self._whole_bytes, self._added_bytes = len(whole), 0

    def _give_up(self, error: OSError) -> None:
        self.close()
        log.error("the catalog's copy %s is behind until the next change: %s", self.path, error.strerror)


def _line(key: str, value: bytes | None) -> bytes:
    rest = f"{key} {'-' if value is None else value.hex()}".encode("ascii")
    return _crc(rest) + b" " + rest + b"\n"


def _crc(rest: bytes) -> bytes:
    return b"%08x" % crc32c(rest)


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
