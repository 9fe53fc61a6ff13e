"""Reading a segment again, every byte of it, for what a disk has made of it since. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from kbroker.log.damage import CORRUPT, Damage
from kbroker.log.scan import Scan
from kbroker.log.storage import Storage

READ_BYTES: Final = 256 << 10
"""Read at once, and then others have a turn."""
BATCH_COST_BYTES: Final = 2 << 10
"""A batch counts as so many bytes at least: for what it costs, small ones do not go by their size."""
FOUND_MAX: Final = 100
"""Damaged places in one segment that are told apart; the rest of it counts as one."""

Pause = Callable[[int], bool]
"""Called after so many bytes: waits as long as they may take. False: give up."""


class SegmentCheck:
    """The records of a segment from its first byte to `size_bytes`, where `next_offset` follows.

    Made on the owner's thread, run on any other: it has the file open for itself.
    """

    def __init__(self, storage: Storage, path: Path, base_offset: int, size_bytes: int, next_offset: int) -> None:
        self.path = path
        self.base_offset = base_offset
        self._storage = storage
        self._size_bytes = size_bytes
        self._next_offset = next_offset
        self._found: list[Damage] = []

    def run(self, pause: Pause) -> list[Damage] | None:
        """The places where no valid batch is; empty: all is well. None: it was given up."""
        try:
            file = self._storage.open_to_read(self.path)
        except FileNotFoundError:
            return [Damage(CORRUPT, self.base_offset, self._next_offset, f"{self.path.name} is not there")]
        scan = Scan(self._storage, file, 0, self._size_bytes, self.base_offset, chunk_bytes=READ_BYTES)
        try:
            if not self._read(scan, pause):
                return None
        except OSError as error:
            self._miss(scan.next_offset, self._next_offset, scan.position, f"cannot be read: {error.strerror}")
        finally:
            file.close()
        return self._found

    def _read(self, scan: Scan, pause: Pause) -> bool:
        while True:
            cost = 0
            for facts in scan:
                cost += max(facts.size_bytes, BATCH_COST_BYTES)
                if cost >= READ_BYTES:
                    if not pause(cost):
                        return False
                    cost = 0
            if cost and not pause(cost):
                return False
            if scan.done:
                if scan.next_offset != self._next_offset:
                    self._miss(scan.next_offset, self._next_offset, scan.position, "ends before them")
                return True
            position, offset = scan.position, scan.next_offset
            is_given_up = False

            def search(size_bytes: int) -> bool:
                nonlocal is_given_up
                is_given_up = not pause(size_bytes)
                return not is_given_up

            is_over = len(self._found) >= FOUND_MAX or not scan.seek_good(self._next_offset, search)
            if is_given_up:
                return False
            self._miss(offset, self._next_offset if is_over else scan.next_offset, position, "no valid batch")
            if is_over:
                return True

    def _miss(self, first_offset: int, next_offset: int, position: int, why: str) -> None:
        self._found.append(
            Damage(
                CORRUPT, first_offset, max(next_offset, first_offset + 1), f"{self.path.name}, byte {position}: {why}"
            )
        )
