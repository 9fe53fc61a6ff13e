"""The embedded MetadataStore: one SQLite file in the data folder, `synchronous=FULL`."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kbroker.catalog.reconcile import COUNTER_MAX, State
from kbroker.catalog.store import ABSENT, Change, StoreDamaged, VersionConflict, Versioned, Watch
from kbroker.errors import StartError, StorageError

FILE_NAME = "meta.db"
FORMAT_VERSION = 1
REVISION = "revision"
"""The counter of changes: each raises it by one."""

WAL_BYTES_MAX = 64 << 20
"""So much of a write-ahead log is kept beside a store that is set aside. SQLite's are 4 MiB."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
"""


_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""SQLITE_ERROR: sound as a database, but its tables are not ours."""
_PERHAPS_DAMAGE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG)
"""Said of a damaged header as well: it is damage where the file itself can be read and written."""


class SqliteStore:
    """A store for one process. Raises StorageError when the file cannot be read or written, StartError when it was
    written by a newer kbroker. `copy_is_ours`: its copy says that it was not; then that is damage."""

    def __init__(self, path: Path, *, copy_is_ours: bool = False) -> None:
        self.path = path
        self._watches: list[tuple[str, Watch]] = []
        self._live: dict[str, bytes] = {}
        self.revision = 0
        """How often it was changed."""
        is_new = not path.exists()
        try:
            # One I/O thread uses it after the main thread opened it, never two at once.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > FORMAT_VERSION and copy_is_ours:
                raise StoreDamaged(f"the catalog {path} says that it has format {version}, its copy {FORMAT_VERSION}")
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
            self._read_revision()
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT OR REPLACE INTO counters VALUES ('probe', 0)")  # not at the first change
            self._db.execute("ROLLBACK")
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            # A disk that is full, read-only or dead says nothing about the file's contents.
            self._close_quietly()
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            is_damage = code in _DAMAGE or (code in _PERHAPS_DAMAGE and _can_be_used(path))
            kind = StoreDamaged if is_damage else StorageError
            raise kind(f"the catalog {path} cannot be used: {error}") from None
        except (StartError, StoreDamaged):
            self._close_quietly()
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
        sql = "SELECT key, version, value FROM entries WHERE key >= ? AND key < ? ORDER BY key"
        return {
            key: Versioned(version, value) for key, version, value in self._rows(sql, prefix, prefix + "\U0010ffff")
        }

    def _rows(self, sql: str, *values: str) -> list[Any]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:  # also of a text that is no UTF-8
            kind = StoreDamaged if "decode" in str(error) else StorageError
            raise kind(f"the catalog {self.path} could not be read: {error}") from None
        except sqlite3.Error as error:
            kind = StoreDamaged if isinstance(error, sqlite3.DatabaseError) else StorageError
            raise kind(f"the catalog {self.path} could not be read: {error}") from None

    def commit(self, changes: list[Change], least_revision: int = 0) -> None:
        """All or nothing, durable when it returns, as the next revision. Raises VersionConflict, StorageError."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for change in changes:
                    self._apply(change)
                revision = self._raise(REVISION, max(1, least_revision - self.revision))
                self._db.execute("COMMIT")
                self.revision = revision
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
            return self._raise(counter, count) - count
        except sqlite3.Error as error:
            raise StorageError(f"the catalog {self.path} could not be written: {error}") from None

    def _raise(self, counter: str, count: int) -> int:
        row = self._db.execute(
            "INSERT INTO counters VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET next = next + ?2 RETURNING next",
            (counter, count),
        ).fetchone()
        return int(row[0])

    def counters(self) -> dict[str, int]:
        """The next number of each counter. Raises StorageError."""
        found = dict(self._rows("SELECT name, next FROM counters"))
        return {str(name): int(number) for name, number in found.items() if name != REVISION}

    def _read_revision(self) -> None:
        row = self._db.execute("SELECT next FROM counters WHERE name = ?", (REVISION,)).fetchone()
        self.revision = 0 if row is None else int(row[0])
        if not 0 <= self.revision < COUNTER_MAX:
            raise StoreDamaged(f"the catalog {self.path} has revision {self.revision}")

    def state(self) -> State:
        """All that it holds. Raises StorageError."""
        entries = {key: entry.value for key, entry in self.entries("").items()}
        return State(entries, self.counters(), self.revision)

    def _close_quietly(self) -> None:
        with contextlib.suppress(sqlite3.Error, AttributeError):
            self._db.close()

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
    folder: Path, now_ms: int, check: Callable[[dict[str, Versioned]], None], *, copy_is_ours: bool = False
) -> tuple[SqliteStore, Path | None]:
    """The store in `folder`. A damaged one is set aside, never deleted, and a new one made: its new name comes second.

    `check` raises StoreDamaged when the entries mean nothing.

    Raises StorageError when the disk is at fault, not the file, or when not even a new one can be made.
    """
    path = folder / FILE_NAME
    wal = read_wal(folder)
    try:
        return _checked(path, check, copy_is_ours), None
    except StoreDamaged:
        aside = set_aside(folder, "corrupt", now_ms, wal)
        return SqliteStore(path), aside


def read_wal(folder: Path) -> bytes:
    """The write-ahead log as it is before the store is opened: SQLite drops what it does not understand of it."""
    try:
        with open(folder / f"{FILE_NAME}-wal", "rb") as file:
            return file.read(WAL_BYTES_MAX)
    except OSError:
        return b""


def set_aside(folder: Path, how: str, now_ms: int, wal: bytes) -> Path:
    """Give the store's files, which nobody has open, names that say what they are; `wal` is its write-ahead log as it
    was found. Raises OSError."""
    path = folder / FILE_NAME
    aside = free_name(path, how, now_ms)
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    if wal:
        aside.with_name(f"{aside.name}-wal").write_bytes(wal)
    fsync_folder(folder)
    return aside


def free_name(path: Path, how: str, now_ms: int) -> Path:
    """A name beside `path` that says how it is (`corrupt`, `older`) and since when, and that nobody has."""
    while True:
        found = path.with_name(f"{path.name}.{how}-{now_ms}")
        if not found.exists():
            return found
        now_ms += 1


def _checked(path: Path, check: Callable[[dict[str, Versioned]], None], copy_is_ours: bool) -> SqliteStore:
    store = SqliteStore(path, copy_is_ours=copy_is_ours)
    try:
        entries = store.entries("")
        if not all(isinstance(key, str) and isinstance(entry.value, bytes) for key, entry in entries.items()):
            raise StoreDamaged(f"the catalog {path} holds something else than texts and bytes")
        check(entries)
        store.counters()
    except (ValueError, TypeError, OverflowError) as error:
        store.close()
        raise StoreDamaged(f"the catalog {path} cannot be understood: {error}") from None
    except BaseException:
        store.close()
        raise
    return store


def _can_be_used(path: Path) -> bool:
    """Whether the file and its folder can be read and written, so that SQLite's refusal is about what is in it."""
    try:
        with open(path, "r+b") as file:
            file.read()
    except OSError:
        return False
    return os.access(path.parent, os.W_OK)


def fsync_folder(folder: Path) -> None:
    """Have what was created or renamed in a folder outlast a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
