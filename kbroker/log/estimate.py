"""Bytes at the end of a segment in which no whole batch is found: what they were, which offsets they may have had."""

from __future__ import annotations

from typing import Final

from crc32c import crc32c

from kbroker.log.index import RELATIVE_OFFSET_MAX
from kbroker.log.segment import Segment
from kbroker.log.storage import File, Storage
from kbroker.records.batch import (
    ATTRIBUTES_POSITION,
    HEADER_BYTES,
    LAST_OFFSET_DELTA_POSITION,
    LENGTH_END,
    MAGIC,
    read_header,
)

_RECORD_COUNT_POSITION: Final = HEADER_BYTES - 4
_RECORDS_A_BYTE_MAX: Final = 64
"""A batch that says it has more records for each of its bytes is not believed, unless its CRC says so too."""


def is_unfinished(storage: Storage, file: File, position: int, end: int) -> bool:
    """Whether the bytes from `position` to the file's end are the beginning of a batch, or zeros that a file system
    has left in its place; else they are a batch that was damaged.
    """
    left = end - position
    if left < HEADER_BYTES:
        return True
    header = read_header(storage.pread_all(file, HEADER_BYTES, position))
    if header.magic == MAGIC and header.length >= HEADER_BYTES - LENGTH_END:
        if header.size_bytes <= left:
            return False
        # Whole up to the end, but for a length field that was damaged?
        data = memoryview(storage.pread_all(file, left, position))
        return crc32c(data[ATTRIBUTES_POSITION:]) != header.crc
    step = 1 << 20
    return all(not any(storage.pread_all(file, min(step, end - at), at)) for at in range(position, end, step))


def end_of_tail(storage: Storage, segment: Segment, position: int, offset: int) -> int:
    """An offset that nothing in a damaged tail can have had: from the header of its first batch, else from its size.

    An estimate: what is known of the log's end from elsewhere goes before. The tail may hold the first offset only, or
    as many as a segment can.
    """
    left = segment.size_bytes - position
    count = _count_in_first(storage, segment.file, position, left)
    return min(offset + max(1, count), segment.base_offset + RELATIVE_OFFSET_MAX + 1)


def _count_in_first(storage: Storage, file: File, position: int, left: int) -> int:
    """How many records the tail can have had, at most: a byte each where nothing better is known."""
    head = storage.pread_all(file, min(left, HEADER_BYTES), position)
    if len(head) < HEADER_BYTES or read_header(head).magic != MAGIC:
        return left
    header = read_header(head)
    size_bytes = header.size_bytes if HEADER_BYTES <= header.size_bytes <= left else left
    by_delta = header.last_offset_delta + 1
    if header.record_count == by_delta > 0:
        return by_delta + left - size_bytes
    batch = bytearray(storage.pread_all(file, size_bytes, position))
    for count in (header.record_count, by_delta):
        if count <= 0:
            continue
        # One of the two fields is damaged: with the right value in both the CRC is right.
        batch[LAST_OFFSET_DELTA_POSITION : LAST_OFFSET_DELTA_POSITION + 4] = (count - 1).to_bytes(4, "big")
        batch[_RECORD_COUNT_POSITION:HEADER_BYTES] = count.to_bytes(4, "big")
        if crc32c(memoryview(batch)[ATTRIBUTES_POSITION:]) == header.crc:
            return count + left - size_bytes
    believed = [count for count in (header.record_count, by_delta) if 0 < count <= left * _RECORDS_A_BYTE_MAX]
    return max(left, *believed) if believed else left
