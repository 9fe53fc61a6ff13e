"""Disk space that the catalog keeps for the change that makes room: a topic is deleted on a full disk too."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from kbroker.catalog.catalog import TOPICS
from kbroker.catalog.store import ABSENT, Change, MetadataStore
from kbroker.errors import StorageError

FILE_NAME: Final = ".spare"
SPARE_BYTES: Final = 256 << 10
"""Some ten changes of the store and its copy."""
_FILE_MODE: Final = 0o640


class SpareRoom:
    """A file in `folder` whose space is given up when a change finds none. Used on one thread; may block."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._is_kept = False

    def commit(self, store: MetadataStore, changes: list[Change]) -> None:
        """`store.commit`; what makes no new topic may use the spare room. Raises VersionConflict, StorageError."""
        try:
            store.commit(changes)
        except StorageError:
            if _makes_topic(changes) or not self._give_up():
                raise
            store.commit(changes)
        else:
            self.keep()

    def keep(self) -> None:
        """Set the space aside, unless it is, or there is none."""
        if self._is_kept:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            file = os.open(self._path, flags, _FILE_MODE)
            try:
                os.posix_fallocate(file, 0, SPARE_BYTES)
                self._is_kept = True
            finally:
                os.close(file)
        except OSError:
            self._give_up()  # a part of it is of no use, and others need it

    def _give_up(self) -> bool:
        self._is_kept = False
        with contextlib.suppress(OSError):
            self._path.unlink()
            return True
        return False


def _makes_topic(changes: list[Change]) -> bool:
    return any(change.key.startswith(TOPICS) and change.expected == ABSENT for change in changes)
