"""A second copy of the catalog, `catalog.copy`: it shows whether the store is as it was left, and replaces it if not.

A text file to which every change is added before it is answered, one line for each key:

    CRC-32C of the rest in 8 hex digits, the key, the value in hex digits or `-` for a key that was removed

The last line of a key counts, a damaged one does not. Keys that begin with `=` are the copy's own: `=format`,
`=revision` (the last line of each change), `=counter/NAME` (the next number); their values are numbers in decimal
digits. The file is written anew at a start that finds it different, and when it has grown.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from crc32c import crc32c

from kbroker.catalog.reconcile import State
from kbroker.catalog.sqlite import FORMAT_VERSION, free_name, fsync_folder
from kbroker.catalog.store import Change

log = logging.getLogger(__name__)

FILE_NAME = "catalog.copy"
ADDED_BYTES_MAX = 4 << 20
"""Above this and the size of the catalog itself the file is written anew."""
_FILE_MODE = 0o640
_FORMAT: Final = "=format"
_REVISION: Final = "=revision"
_COUNTER: Final = "=counter/"


class CatalogCopy:
    """The copy in `folder` of what `state` returns. A disk that does not take it never fails a change."""

    def __init__(self, folder: Path, state: Callable[[], State]) -> None:
        self.path = folder / FILE_NAME
        self.is_ours = False
        """Whether what was read says that this kbroker's format is that of the catalog."""
        self._state = state
        self._fd = -1
        self._whole_bytes = 0
        self._added_bytes = 0

    def read(self) -> State:
        """What it holds: the newest value of each key. Empty when there is none."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return State()
        except OSError as error:
            log.error("the catalog's copy %s cannot be read: %s", self.path, error.strerror)
            return State(damage=str(error.strerror))
        found: dict[str, bytes] = {}
        damaged = 0
        *lines, rest = data.split(b"\n")
        for line in lines:
            parsed = _parse(line)
            if parsed is None:
                damaged += 1
                continue
            key, value = parsed
            if value is None:
                found.pop(key, None)
            else:
                found[key] = value
        if damaged:
            log.error("%d damaged lines in the catalog's copy %s are passed over", damaged, self.path)
        elif rest:
            log.info("the catalog's copy %s ends in an unfinished line", self.path)
        own = {key: int(found.pop(key)) for key in [*found] if key.startswith("=")}
        self.is_ours = not damaged and own.get(_FORMAT) == FORMAT_VERSION
        counters = {key.removeprefix(_COUNTER): value for key, value in own.items() if key.startswith(_COUNTER)}
        return State(found, counters, own.get(_REVISION, 0), f"{damaged} lines" if damaged else "")

    def renew(self) -> None:
        """At the start: write the whole catalog, in one step, unless the file says the same already."""
        try:
            if self.is_ours and self.read() == self._state():
                self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
                self._added_bytes = os.fstat(self._fd).st_size
            else:
                self._write()
        except OSError as error:
            self._give_up(error)

    def set_aside(self, how: str, now_ms: int) -> Path:
        """Give the file another name, which comes back. Raises OSError."""
        self.close()
        aside = free_name(self.path, how, now_ms)
        os.rename(self.path, aside)
        fsync_folder(self.path.parent)
        return aside

    def add(self, changes: Iterable[Change], revision: int) -> None:
        """The store has committed these changes, and is at that revision now."""
        lines = b"".join(_line(change.key, change.value) for change in changes)
        self._add(lines + _number_line(_REVISION, revision))

    def add_counter(self, name: str, next_number: int) -> None:
        """The store gives no number below this any more."""
        self._add(_number_line(_COUNTER + name, next_number))

    def _add(self, lines: bytes) -> None:
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
        state = self._state()
        lines = [_number_line(_FORMAT, FORMAT_VERSION)]
        lines += [_line(key, value) for key, value in state.entries.items()]
        lines += [_number_line(_COUNTER + name, number) for name, number in state.counters.items()]
        whole = b"".join([*lines, _number_line(_REVISION, state.revision)])
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


def _number_line(key: str, number: int) -> bytes:
    return _line(key, b"%d" % number)


def _parse(line: bytes) -> tuple[str, bytes | None] | None:
    """Key and value of a line (None: removed); None for a damaged one."""
    crc, _, rest = line.partition(b" ")
    if crc != _crc(rest):
        return None
    key, _, value = rest.decode("ascii").rpartition(" ")
    return key, None if value == "-" else bytes.fromhex(value)


def _crc(rest: bytes) -> bytes:
    return b"%08x" % crc32c(rest)


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
