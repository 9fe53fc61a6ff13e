"""Walking a segment file batch by batch, every byte checked: what recovery and index rebuilding stand on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from crc32c import crc32c

from kbroker.log.storage import File, Storage
from kbroker.records.batch import ATTRIBUTES_POSITION, HEADER, HEADER_BYTES, LENGTH_END, MAGIC, BatchFacts

_CHUNK_BYTES = 4 << 20
_MAGIC_BYTE = bytes([MAGIC])
GAP_MAX = 2**31
"""A good batch behind a bad place begins within this many offsets: a segment holds no more."""
OFFSET_MAX = 2**63 - 1
_unpack = HEADER.unpack_from


class Scan:
    """Iterates over the good batches from `start`; `position` and `next_offset` then tell where it stopped.

    `end` is the size of the file, `chunk_bytes` what is read at once. A batch is good when its length fits, its CRC is
    right and it begins at the offset where the one before ended: the CRC does not cover the base offset, and a segment
    has no gaps.
    """

    def __init__(
        self,
        storage: Storage,
        file: File,
        start: int,
        end: int,
        next_offset: int,
        chunk_bytes: int = _CHUNK_BYTES,
    ) -> None:
        self.storage = storage
        self.file = file
        self.position = start
        self.end = end
        self.next_offset = next_offset
        self._chunk_bytes = chunk_bytes

    @property
    def done(self) -> bool:
        """Whether everything up to the end was good."""
        return self.position == self.end

    def __iter__(self) -> Iterator[BatchFacts]:
        chunk = memoryview(b"")
        chunk_start = self.position
        end = self.end
        while True:
            position = self.position
            at = position - chunk_start
            if at + HEADER_BYTES > len(chunk):
                if end - position < HEADER_BYTES:
                    return
                chunk = memoryview(self.storage.pread_all(self.file, min(self._chunk_bytes, end - position), position))
                chunk_start, at = position, 0
                if len(chunk) < HEADER_BYTES:
                    return
            facts = _check(chunk, at, position, end)
            if facts is None or facts.base_offset != self.next_offset:
                return
            if at + facts.size_bytes > len(chunk):
                chunk = memoryview(
                    self.storage.pread_all(
                        self.file, min(max(self._chunk_bytes, facts.size_bytes), end - position), position
                    )
                )
                chunk_start, at = position, 0
            if len(chunk) < at + facts.size_bytes or not _crc_right(chunk, at, facts.size_bytes):
                return
            self.position = position + facts.size_bytes
            self.next_offset = facts.base_offset + facts.last_offset_delta + 1
            yield facts

    def seek_good(
        self, offset_limit: int = OFFSET_MAX, pause: Callable[[int], bool] = lambda _size_bytes: True
    ) -> bool:
        """Go on to the next good batch behind a bad place: `position` and `next_offset` are its. False: none.

        The CRC does not cover a batch's base offset: one that says it ends past `offset_limit` is not believed.
        `pause` is called between pieces; False from it ends the search.
        """
        position = self.position + 1
        while position + HEADER_BYTES <= self.end:
            chunk = self.storage.pread_all(self.file, min(self._chunk_bytes, self.end - position), position)
            view = memoryview(chunk)
            magic_at = chunk.find(_MAGIC_BYTE, 16)
            while 0 <= magic_at <= len(chunk) - (HEADER_BYTES - 16):
                at = magic_at - 16
                facts = _check(view, at, position + at, self.end)
                if (
                    facts is not None
                    and self.next_offset < facts.base_offset < self.next_offset + GAP_MAX
                    and facts.base_offset + facts.last_offset_delta < offset_limit
                    and self._whole_and_right(view, at, facts)
                ):
                    self.position = position + at
                    self.next_offset = facts.base_offset
                    return True
                magic_at = chunk.find(_MAGIC_BYTE, magic_at + 1)
            position += max(1, len(chunk) - HEADER_BYTES + 1)
            if not pause(len(chunk)):
                return False
        return False

    def _whole_and_right(self, view: memoryview, at: int, facts: BatchFacts) -> bool:
        if at + facts.size_bytes > len(view):
            view, at = memoryview(self.storage.pread_all(self.file, facts.size_bytes, facts.position)), 0
        return len(view) >= at + facts.size_bytes and _crc_right(view, at, facts.size_bytes)


def _check(view: memoryview, at: int, position: int, end: int) -> BatchFacts | None:
    """The header at `at` of `view`, which is `position` in the file, when it can be right."""
    (
        base_offset, length, leader_epoch, magic, _, attributes, last_offset_delta, base_timestamp, max_timestamp,
        producer_id, producer_epoch, base_sequence, record_count,
    ) = _unpack(view, at)  # fmt: skip
    size_bytes = length + LENGTH_END
    if magic != MAGIC or size_bytes < HEADER_BYTES or size_bytes > end - position:
        return None
    if base_offset < 0 or last_offset_delta < 0:
        return None
    return BatchFacts(
        position, size_bytes, base_offset, last_offset_delta, record_count, base_timestamp, max_timestamp, producer_id,
        producer_epoch, base_sequence, attributes, leader_epoch,
    )  # fmt: skip


def _crc_right(view: memoryview, at: int, size_bytes: int) -> bool:
    crc = int.from_bytes(view[at + ATTRIBUTES_POSITION - 4 : at + ATTRIBUTES_POSITION], "big")
    return crc32c(view[at + ATTRIBUTES_POSITION : at + size_bytes]) == crc
