"""Reading by offset: which file, from which byte to which. No record is looked at."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from kbroker.log.positions import LogPosition
from kbroker.log.segment import Segment, SegmentDamaged
from kbroker.log.slices import LogSlice

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog

RECENT_MAX: Final = 4096
"""Batch starts that a log remembers, so that the next read at the tail needs no search."""


def read(log: PartitionLog, offset: int, max_bytes: int, shown_only: bool) -> LogSlice:
    """See PartitionLog.read; `offset` is in range. Raises OSError, StorageError."""
    active = log.segments[-1]
    if shown_only:
        end = log.high_watermark_position
    else:
        end = LogPosition(log.next_offset, active.base_offset, active.size_bytes)
    if offset >= end.offset:
        return _slice(log, active, end.position, 0, offset, offset)
    recent = log.recent.get(offset)
    if recent is not None:
        segment, start = recent
        base_offset = offset
    else:
        segment, start, base_offset = _find(log, offset, end)
        if start < 0:
            return _slice(log, active, end.position, 0, offset, offset)
    if segment.base_offset == end.segment_base:
        limit, next_offset = end.position, end.offset
    else:
        limit = segment.size_bytes
        next_offset = log.bases[bisect_right(log.bases, segment.base_offset)]
    if limit - start > max_bytes:
        try:
            limit, following = segment.last_whole(start, max(0, max_bytes), limit)
        except SegmentDamaged as damaged:
            if damaged.position == start or damaged.offset < 0:
                raise
            # What lies before is whole. The next read says what is wrong.
            log.suspects.add(segment.base_offset)
            limit, next_offset, following = damaged.position, damaged.offset, None
        log.index_used(segment)
        if following is not None:
            next_offset = following
            if len(log.recent) < RECENT_MAX:
                log.recent[following] = (segment, limit)
    return _slice(log, segment, start, limit - start, base_offset, next_offset)


def _slice(
    log: PartitionLog, segment: Segment, start: int, size_bytes: int, base_offset: int, next_offset: int
) -> LogSlice:
    behind = segment.size_bytes - start
    if segment is not log.segments[-1]:
        behind += log.segments[-1].size_bytes
    return LogSlice(
        log.storage,
        segment.file,
        segment.size_bytes,
        start,
        size_bytes,
        base_offset,
        next_offset,
        behind > log.hot_window_bytes,
    )


def _find(log: PartitionLog, offset: int, end: LogPosition) -> tuple[Segment, int, int]:
    """Segment, position and base offset of the first batch that reaches `offset`; position -1: none is shown."""
    number = bisect_right(log.bases, offset) - 1
    for segment in log.segments[max(0, number) :]:
        limit = end.position if segment.base_offset == end.segment_base else segment.size_bytes
        found = segment.find(offset, limit)
        log.index_used(segment)
        if found is not None:
            return segment, found.position, found.base_offset
        if segment.base_offset == end.segment_base:
            break
    return log.segments[-1], -1, offset
