"""Finding the first record at or after a timestamp, exact to the record.

Indexes and headers tell the batch; its records are gone over in slices (`kbroker/records/steps.py`), beside the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kbroker.errors import MessageTooLarge, StorageError
from kbroker.log.segment import Found, Segment
from kbroker.records import compression
from kbroker.records.batch import LOG_APPEND_TIME, read_header
from kbroker.records.expand import Budget, expanded
from kbroker.records.steps import TURN, Steps, finished
from kbroker.records.walk import first_at

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog

_HEADERS_AT_ONCE = 100


class Stretch(NamedTuple):
    """Where in one segment the record is, if it is in it: from the batch at `position` on, before `limit`."""

    segment: Segment
    position: int
    limit: int
    offset: int
    """No record before this one is meant."""


def find(log: PartitionLog, timestamp_ms: int) -> tuple[int, int] | None:
    """All of it at once: offset and timestamp of the first shown record, or None. Raises OSError, StorageError,
    CorruptMessage."""
    budget = Budget(log.config.decompressed_bytes_max)
    after_base = -1
    while (where := stretch(log, timestamp_ms, after_base)) is not None:
        found = finished(steps(where, timestamp_ms, budget))
        if found is not None:
            return found if found[0] < log.high_watermark else None
        after_base = where.segment.base_offset
    return None


def stretch(log: PartitionLog, timestamp_ms: int, after_base: int) -> Stretch | None:
    """The first place behind the segment that begins at `after_base` (-1: anywhere) where such a record may be.

    Looks at indexes and batch headers. Raises OSError, StorageError.
    """
    end = log.high_watermark_position
    for segment in log.segments:
        if segment.base_offset <= after_base:
            continue
        if segment.base_offset > end.segment_base:
            break
        limit = end.position if segment.base_offset == end.segment_base else segment.size_bytes
        _ = segment.time_index  # makes max_timestamp known
        log.index_used(segment)
        if segment.max_timestamp < timestamp_ms:
            continue
        offset = max(_after(segment, timestamp_ms), log.log_start_offset)
        first = segment.find(offset, limit)
        if first is not None:
            return Stretch(segment, first.position, limit, offset)
    return None


def _after(segment: Segment, timestamp_ms: int) -> int:
    """An offset before which every record is earlier, from the time index; an index that lies is rebuilt."""
    index = segment.time_index
    number = index.before(timestamp_ms)
    if number < 0:
        return segment.base_offset
    offset = segment.base_offset + index.offsets[number]
    found = segment.find(offset, segment.size_bytes)
    if found is not None and (found.next_offset, found.max_timestamp) == (offset + 1, index.timestamps[number]):
        return offset + 1
    segment.rebuild_indexes()
    return segment.base_offset


def steps(where: Stretch, timestamp_ms: int, budget: Budget) -> Steps[tuple[int, int] | None]:
    """Offset and timestamp of the record, or None: it is not in this stretch. Uses nothing of the log but its file.

    Of a batch that takes more than `budget` has left, the first offset is said, with the batch's own largest timestamp:
    who reads on from there misses nothing. Raises OSError, StorageError, CorruptMessage.
    """
    segment, position, limit, offset = where
    chunk, chunk_start = b"", 0
    passed = 0
    while position < limit:
        batch, chunk, chunk_start = segment.header_at(chunk, chunk_start, position, limit)
        passed += 1
        if passed % _HEADERS_AT_ONCE == 0:
            yield TURN
        if batch.max_timestamp >= timestamp_ms and batch.next_offset > offset:
            found = yield from _in_batch(segment, batch, timestamp_ms, offset, budget)
            if found is not None:
                return found
        position += batch.size_bytes
    return None


def _in_batch(
    segment: Segment, batch: Found, timestamp_ms: int, offset: int, budget: Budget
) -> Steps[tuple[int, int] | None]:
    data = segment.storage.pread_all(segment.file, batch.size_bytes, batch.position)
    if len(data) != batch.size_bytes:
        raise StorageError(f"{segment.path}: ends too early")
    view = memoryview(data)
    header = read_header(view)
    start = max(header.base_offset, offset), header.max_timestamp
    if header.attributes & LOG_APPEND_TIME:
        return start
    plain = view
    try:
        if header.codec:
            plain = yield from expanded(view, budget)
        else:
            budget.take(len(view))
    except MessageTooLarge:
        return start
    found = yield from first_at(plain, timestamp_ms, offset)
    if plain is not view:
        compression.free(plain)
    return found
