"""The embedded MetadataStore: one SQLite file in the data folder, `synchronous=FULL`."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from kbroker.catalog.store import ABSENT, Change, StoreDamaged, VersionConflict, Versioned, Watch
from kbroker.errors import StartError, StorageError

FILE_NAME = "meta.db"
FORMAT_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
"""


_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""SQLITE_ERROR: sound as a database, but its tables are not ours."""


class SqliteStore:
    """A store for one process. Raises StorageError when the file cannot be read or written, StartError when it was
    written by a newer kbroker."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._watches: list[tuple[str, Watch]] = []
        self._live: dict[str, bytes] = {}
        is_new = not path.exists()
        try:
            # One I/O thread uses it after the main thread opened it, never two at once.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > FORMAT_VERSION:
                raise StartError(
                    f"the catalog {path} has format {version}; this kbroker knows {FORMAT_VERSION}: use "
                    "the newer kbroker that wrote it"
                )
            self._db.executescript(_SCHEMA)
            if version != FORMAT_VERSION:
                self._db.execute(f"PRAGMA user_version={FORMAT_VERSION}")
            damage = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise StoreDamaged(f"the catalog {path} is damaged: {damage}")
            self._db.execute("SELECT key, version, value FROM entries LIMIT 1")
            self._db.execute("SELECT name, next FROM counters LIMIT 1")
        except sqlite3.Error as error:
            # A disk that is full, read-only or dead says nothing about the file's contents.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            kind = StoreDamaged if code in _DAMAGE else StorageError
            raise kind(f"the catalog {path} cannot be used: {error}") from None
        except StartError:
            self._db.close()
            raise
        os.chmod(path, 0o640)
        if is_new:
            fsync_folder(path.parent)

    def get(self, key: str) -> Versioned | None:
        """The value under `key`, or None."""
        row = self._db.execute("SELECT version, value FROM entries WHERE key = ?", (key,)).fetchone()
        return None if row is None else Versioned(row[0], row[1])

    def entries(self, prefix: str) -> dict[str, Versioned]:
        """Everything whose key starts with `prefix`, in the order of the keys."""
        try:
            rows = self._db.execute(
                "SELECT key, version, value FROM entries WHERE key >= ? AND key < ? ORDER BY key",
                (prefix, prefix + "\U0010ffff"),
            )
            return {key: Versioned(version, value) for key, version, value in rows}
        except sqlite3.Error as error:
            raise StorageError(f"the catalog {self.path} could not be read: {error}") from None

    def commit(self, changes: list[Change]) -> None:
        """All or nothing, durable when it returns. Raises VersionConflict, StorageError."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for change in changes:
                    self._apply(change)
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StorageError(f"the catalog {self.path} could not be written: {error}") from None
        for prefix, watch in self._watches:
            seen = [change for change in changes if change.key.startswith(prefix)]
            if seen:
                watch(seen)

    def _apply(self, change: Change) -> None:
        current = self.get(change.key)
        version = ABSENT if current is None else current.version
        if version != change.expected:
            raise VersionConflict(f"{change.key} is at version {version}, not {change.expected}")
        if change.value is None:
            self._db.execute("DELETE FROM entries WHERE key = ?", (change.key,))
        else:
            self._db.execute(
                "INSERT INTO entries VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE SET version = ?2, value = ?3",
                (change.key, version + 1, change.value),
            )

    def allocate(self, counter: str, count: int) -> int:
        """The first of `count` numbers that are given to nobody else, ever; from 0. Raises StorageError."""
        try:
            row = self._db.execute(
                "INSERT INTO counters VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET next = next + ?2 RETURNING next",
                (counter, count),
            ).fetchone()
        except sqlite3.Error as error:
            raise StorageError(f"the catalog {self.path} could not be written: {error}") from None
        return int(row[0]) - count

    def raise_counter(self, counter: str, floor: int) -> None:
        """`allocate` gives nothing below `floor` from now on. Raises StorageError."""
        try:
            self._db.execute(
                "INSERT INTO counters VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET next = max(next, ?2)",
                (counter, floor),
            )
        except sqlite3.Error as error:
            raise StorageError(f"the catalog {self.path} could not be written: {error}") from None

    def announce(self, node: str, value: bytes) -> None:
        """This node is alive. One process uses this store, so what it announced lives as long as it does."""
        self._live[node] = value

    def live(self) -> dict[str, bytes]:
        """The nodes that are alive."""
        return dict(self._live)

    def watch(self, prefix: str, watch: Watch) -> None:
        """Call `watch` with every committed change below `prefix`, in order, after it is durable."""
        self._watches.append((prefix, watch))

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self._db.close()


def open_store(
    folder: Path, now_ms: int, check: Callable[[dict[str, Versioned]], None]
) -> tuple[SqliteStore, Path | None]:
    """The store in `folder`. A damaged one is set aside, never deleted, and a new one made: its new name comes second.

    `check` raises StoreDamaged when the entries mean nothing.

    Raises StorageError when the disk is at fault, not the file, or when not even a new one can be made.
    """
    path = folder / FILE_NAME
    try:
        return _checked(path, check), None
    except StoreDamaged:
        aside = folder / f"{FILE_NAME}.corrupt-{now_ms}"
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{aside}{suffix}")
        fsync_folder(folder)
        return SqliteStore(path), aside


def _checked(path: Path, check: Callable[[dict[str, Versioned]], None]) -> SqliteStore:
    store = SqliteStore(path)
    try:
        check(store.entries(""))
    except BaseException:
        store.close()
        raise
    return store


def fsync_folder(folder: Path) -> None:
    """Have what was created or renamed in a folder outlast a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
