"""The door to the catalog's durable store: versioned keys with compare-and-set, counters, watches.

The embedded store is SQLite (`sqlite.py`). A store that several hosts share comes later, behind this same interface.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from kbroker.errors import KbrokerError, StorageError

ABSENT = 0
"""The version of a key that does not exist."""


class VersionConflict(KbrokerError):
    """Somebody else changed the key first: read again, decide again."""


class StoreDamaged(StorageError):
    """What the store holds is no sound catalog."""


class Versioned(NamedTuple):
    """A value with its version, which rises by one with every change, from 1."""

    version: int
    value: bytes


class Change(NamedTuple):
    """Put `value` (None: remove the key) if its version still is `expected` (ABSENT: it must not exist)."""

    key: str
    expected: int
    value: bytes | None


Watch = Callable[[list[Change]], None]


class MetadataStore(Protocol):
    """What the coordinator needs of a store. Every method may block; the coordinator calls them on its I/O thread."""

    def get(self, key: str) -> Versioned | None: ...

    def entries(self, prefix: str) -> dict[str, Versioned]: ...

    def commit(self, changes: list[Change]) -> None:
        """All or nothing, durable when it returns. Raises VersionConflict, StorageError."""
        ...

    def allocate(self, counter: str, count: int) -> int:
        """The first of `count` numbers that are given to nobody else, ever. Durable when it returns."""
        ...

    def raise_counter(self, counter: str, floor: int) -> None:
        """`allocate` gives nothing below `floor` from now on."""
        ...

    def announce(self, node: str, value: bytes) -> None:
        """This node is alive: gone from `live` when the announcing process is."""
        ...

    def live(self) -> dict[str, bytes]: ...

    def watch(self, prefix: str, watch: Watch) -> None:
        """Call `watch` with every committed change below `prefix`, in order, after it is durable."""
        ...

    def close(self) -> None: ...
