"""Sparse indexes of one segment, in Kafka's formats.

Offset index: 8-byte entries, relative offset of a batch's *last* record and the batch's position, both int32.
Time index: 12-byte entries, a timestamp (int64) and the relative offset of the batch that has it (int32); an entry
says that no record up to that offset has a later timestamp. Both rise strictly. The file is written behind the log:
a crash between leaves an index that recovery can rebuild.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from struct import Struct
from typing import Final

OFFSET_ENTRY: Final = Struct(
    ">"
    "i"  # relative_offset   last offset of the batch minus the segment's base offset
    "i"  # position          byte in the segment at which the batch starts
)
assert OFFSET_ENTRY.size == 8

TIME_ENTRY: Final = Struct(
    ">"
    "q"  # timestamp         ms since 1970
    "i"  # relative_offset   last offset of the batch with that timestamp minus the segment's base offset
)
assert TIME_ENTRY.size == 12

RELATIVE_OFFSET_MAX: Final = 2**31 - 1
POSITION_MAX: Final = 2**31 - 1


class OffsetIndex:
    """Where batches start, in memory. `pending` are encoded entries that the file does not have yet."""

    __slots__ = ("offsets", "pending", "positions", "written_bytes")

    def __init__(self) -> None:
        self.offsets = array("i")  # relative offsets of last records
        self.positions = array("i")
        self.pending = bytearray()
        self.written_bytes = 0

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def size_bytes(self) -> int:
        """Size of the file once everything is written."""
        return 8 * len(self.offsets)

    def append(self, relative_offset: int, position: int) -> None:
        """Both must be larger than the last entry's."""
        self.offsets.append(relative_offset)
        self.positions.append(position)
        self.pending += OFFSET_ENTRY.pack(relative_offset, position)

    def before(self, relative_offset: int) -> int:
        """Number of the last entry whose batch ends before `relative_offset`; -1: none."""
        return bisect_left(self.offsets, relative_offset) - 1

    def at_or_below_position(self, position: int) -> int:
        """Number of the last entry at or below `position`; -1: none."""
        return bisect_right(self.positions, position) - 1

    def cut(self, position: int) -> None:
        """Forget the entries at or past `position`; everything left is to be written again."""
        keep = bisect_left(self.positions, position)
        del self.offsets[keep:], self.positions[keep:]
        self.rewrite()

    def rewrite(self) -> None:
        """Have the whole file written again."""
        self.written_bytes = 0
        self.pending = bytearray(
            b"".join(map(OFFSET_ENTRY.pack, self.offsets, self.positions)),
        )

    @classmethod
    def parse(cls, data: bytes, segment_bytes: int) -> OffsetIndex | None:
        """The index in a file's bytes; None when it cannot be right for a segment of that size."""
        if len(data) % 8:
            return None
        index = cls()
        numbers = array("i", data)
        if sys.byteorder == "little":
            numbers.byteswap()
        index.offsets = numbers[0::2]
        index.positions = numbers[1::2]
        index.written_bytes = len(data)
        if not _rises(index.offsets, 0) or not _rises(index.positions, 1):
            return None
        if index.positions and index.positions[-1] >= segment_bytes:
            return None
        return index


class TimeIndex:
    """The largest timestamp up to an offset, in memory. `pending` as in OffsetIndex."""

    __slots__ = ("offsets", "pending", "timestamps", "written_bytes")

    def __init__(self) -> None:
        self.timestamps = array("q")
        self.offsets = array("i")
        self.pending = bytearray()
        self.written_bytes = 0

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def size_bytes(self) -> int:
        """Size of the file once everything is written."""
        return 12 * len(self.offsets)

    def maybe_append(self, timestamp: int, relative_offset: int) -> None:
        """Add an entry, unless the timestamp is not later than the last entry's: then it would say nothing new."""
        if timestamp < 0 or (self.timestamps and timestamp <= self.timestamps[-1]):
            return
        if self.offsets and relative_offset <= self.offsets[-1]:
            return
        self.timestamps.append(timestamp)
        self.offsets.append(relative_offset)
        self.pending += TIME_ENTRY.pack(timestamp, relative_offset)

    def before(self, timestamp: int) -> int:
        """Number of the last entry earlier than `timestamp`; -1: none."""
        return bisect_left(self.timestamps, timestamp) - 1

    def cut(self, relative_offset: int) -> None:
        """Forget the entries at or past `relative_offset`; everything left is to be written again."""
        keep = bisect_left(self.offsets, relative_offset)
        del self.offsets[keep:], self.timestamps[keep:]
        self.rewrite()

    def rewrite(self) -> None:
        """Have the whole file written again."""
        self.written_bytes = 0
        self.pending = bytearray(b"".join(map(TIME_ENTRY.pack, self.timestamps, self.offsets)))

    @classmethod
    def parse(cls, data: bytes) -> TimeIndex | None:
        """The index in a file's bytes; None when it cannot be right."""
        if len(data) % 12:
            return None
        index = cls()
        for timestamp, relative_offset in TIME_ENTRY.iter_unpack(data):
            index.timestamps.append(timestamp)
            index.offsets.append(relative_offset)
        index.written_bytes = len(data)
        if not _rises(index.timestamps, 0) or not _rises(index.offsets, 0):
            return None
        return index


def _rises(numbers: array[int], least: int) -> bool:
    if not numbers:
        return True
    return numbers[0] >= least and all(map(int.__lt__, numbers, numbers[1:]))
