"""Giving back the space of files that no log has any more, piece by piece.

The unlink of 1 GB holds the file system's journal for 35 to 45 ms, and with it every fdatasync on that disk; freed in
pieces of 4 MiB with pauses between, nobody waits for more than 2 ms. A file that somebody else still has open is only
unlinked: its space is free when the last one closes it, and what a reader has mapped must never be cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kbroker.errors import StorageError
from kbroker.log import names
from kbroker.log.storage import Storage

PIECE_BYTES: Final = 4 << 20
_SOON_STEPS: Final = 4
_SCARCE_BYTES: Final = 1 << 30
_SCARCE_SHARE: Final = 20
"""A disk with less than 1 GiB, or a twentieth, of free space wants the rest at once."""

Freeing = Iterator[bool]
"""Each step, in an I/O thread, frees a piece; True: the disk has little space, the next one should not wait.

A step may raise OSError; there are no more steps then.
"""


def free_file(storage: Storage, path: Path) -> Freeing:
    """Unlink a file and free its space. One that is not there is no error."""
    try:
        file = storage.open(path)
    except FileNotFoundError:
        return
    try:
        size_bytes = storage.size(file)
        storage.unlink(path)  # nobody else can open it from here on
        if size_bytes > PIECE_BYTES and storage.is_alone(file):
            while size_bytes > PIECE_BYTES:
                size_bytes -= PIECE_BYTES
                storage.truncate(file, size_bytes)
                yield _is_scarce(*storage.disk_room(file))
    finally:
        file.close()


def free_folder(storage: Storage, folder: Path) -> Freeing:
    """Free the files of a folder that `delete_folder` renamed, and remove it. Going on after a crash is fine."""
    try:
        for name in storage.list(folder):
            if names.LOG in name:  # a segment, also one that is deleted or set aside
                yield from free_file(storage, folder / name)
            else:
                # Another process may be at it as well: whoever starts goes on with what was left.
                with contextlib.suppress(FileNotFoundError):
                    storage.unlink(folder / name)
        storage.remove_folder(folder)
    except FileNotFoundError:
        return


def free_soon(storage: Storage, folder: Path) -> Freeing | None:
    """As many steps of `free_folder` as nobody notices. Returns those that are left; None: none are."""
    freeing = free_folder(storage, folder)
    try:
        for _ in range(_SOON_STEPS):
            if next(freeing, None) is None:
                return None
    except OSError:
        return free_folder(storage, folder)  # raises it again, where it is told
    return freeing


def free_at_once(freeing: Freeing, what: Path) -> None:
    """All steps, without a pause. Raises StorageError."""
    try:
        for _ in freeing:
            pass
    except OSError as error:
        raise StorageError(f"cannot remove {what}: {error}") from error


def _is_scarce(size_bytes: int, free_bytes: int) -> bool:
    return free_bytes < max(_SCARCE_BYTES, size_bytes // _SCARCE_SHARE)
