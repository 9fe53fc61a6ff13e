"""Where in a closed segment an offset lies, found in the reader's process: the worker must not wait for a cold disk.

The index is Kafka's: 8-byte entries, rising, big-endian; an entry is the offset of a batch's last record relative to
the segment's base offset (int32) and the position at which that batch starts (int32). It is a hint: what it says is
checked against the batch's header, and without it, or where it is wrong, the search begins at the segment's start.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import Final

from kbroker.records.batch import HEADER_BYTES, read_header
from kbroker.shm.segment_file import SegmentFile

_ENTRY: Final = Struct(">ii")  # relative offset of the batch's last record, position
assert _ENTRY.size == 8
_CHUNK_BYTES: Final = 64 << 10


def find_batch(file: SegmentFile, base_offset: int, offset: int, end: int, index_fd: int) -> int:
    """Position of the first batch before `end` whose records reach `offset`; `end` when there is none.

    `index_fd` -1: there is no index. Raises StorageError.
    """
    position = _indexed(file, base_offset, offset, end, index_fd) if index_fd >= 0 else 0
    chunk, chunk_start = b"", 0
    while position < end:
        at = position - chunk_start
        if at + HEADER_BYTES > len(chunk):
            chunk_start, at = position, 0
            chunk = file.pread(position, min(_CHUNK_BYTES, end - position))
        header = read_header(chunk, at)
        if header.size_bytes < HEADER_BYTES or header.size_bytes > end - position:
            raise file.damaged(position)
        if header.next_offset > offset:
            return position
        position += header.size_bytes
    return end


def _indexed(file: SegmentFile, base_offset: int, offset: int, end: int, index_fd: int) -> int:
    """Position of the last indexed batch that ends before `offset`; 0 when there is none, or the index is wrong."""
    try:
        low, high = 0, os.fstat(index_fd).st_size // _ENTRY.size
        found = position = -1
        while low < high:
            middle = (low + high) // 2
            relative, at = _ENTRY.unpack(os.pread(index_fd, _ENTRY.size, middle * _ENTRY.size))
            if base_offset + relative < offset:
                found, position = relative, at
                low = middle + 1
            else:
                high = middle
    except OSError:
        return 0
    if not 0 < position <= end - HEADER_BYTES:
        return 0
    header = read_header(file.pread(position, HEADER_BYTES))
    return position if header.next_offset == base_offset + found + 1 else 0
