"""The catalog of a data folder that takes no writes: read from a copy, never changed, until the disk takes some."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Final

from kbroker.catalog.copy import FILE_NAME as COPY_NAME
from kbroker.catalog.sqlite import FILE_NAME as STORE_NAME
from kbroker.catalog.store import Change, MetadataStore
from kbroker.errors import StorageError
from kbroker.log.storage import DISK
from kbroker.workers.disk_probe import LEAST_BYTES, probe

log = logging.getLogger(__name__)

FOLDER: Final = "catalog-of-a-read-only-disk"
LOOK_MS: Final = 1_000
"""How often the disk is tried again."""


def refusal_of(data_dir: Path) -> str:
    """Why the folder takes no writes; empty when it does. May block."""
    try:
        probe(DISK, data_dir, LEAST_BYTES)
    except OSError as error:
        return f"the data folder {data_dir} takes no writes: {error.strerror}"
    return ""


def copied(data_dir: Path, runtime_dir: Path) -> Path:
    """A folder below the runtime folder with copies of the catalog's files. Raises OSError."""
    folder = runtime_dir / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for name in (STORE_NAME, f"{STORE_NAME}-wal", COPY_NAME):
        if (data_dir / name).exists():
            shutil.copyfile(data_dir / name, folder / name)
    return folder


class ReadOnlyStore:
    """A MetadataStore that refuses every change with StorageError(`why`)."""

    def __init__(self, store: MetadataStore, why: str) -> None:
        self._store = store
        self._why = why
        self.get = store.get
        self.entries = store.entries
        self.announce = store.announce
        self.live = store.live
        self.watch = store.watch
        self.close = store.close

    def commit(self, changes: list[Change]) -> None:
        """Refused."""
        del changes
        raise StorageError(f"{self._why}; nothing can be changed until it does")

    def allocate(self, counter: str, count: int) -> int:
        """Refused: a number would be given twice."""
        del count
        raise StorageError(f"{self._why}; no {counter} can be given until it does")

    def raise_counter(self, counter: str, floor: int) -> None:
        """Refused."""
        raise StorageError(f"{self._why}; {counter} cannot be raised to {floor} until it does")
