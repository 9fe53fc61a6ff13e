"""Finding the first record at or after a timestamp, exact to the record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kbroker.errors import StorageError
from kbroker.log.segment import Segment
from kbroker.records.codec import decode_list

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog


def find(log: PartitionLog, timestamp_ms: int) -> tuple[int, int] | None:
    """Offset and timestamp, or None. Only the batch that has the record is decoded. Raises OSError, StorageError."""
    end = log.high_watermark_position
    for segment in log.segments:
        if segment.base_offset > end.segment_base:
            break
        limit = end.position if segment.base_offset == end.segment_base else segment.size_bytes
        _ = segment.time_index  # makes max_timestamp known
        log.index_used(segment)
        if segment.max_timestamp < timestamp_ms:
            continue
        after = _after(segment, timestamp_ms)
        found = _in_segment(segment, timestamp_ms, max(after, log.log_start_offset), limit)
        if found is not None:
            return found if found[0] < log.high_watermark else None
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


def _in_segment(segment: Segment, timestamp_ms: int, offset: int, limit: int) -> tuple[int, int] | None:
    """The first record at or after both `offset` and `timestamp_ms`, before position `limit`."""
    first = segment.find(offset, limit)
    if first is None:
        return None
    position = first.position
    chunk, chunk_start = b"", 0
    while position < limit:
        batch, chunk, chunk_start = segment.header_at(chunk, chunk_start, position, limit)
        if batch.max_timestamp >= timestamp_ms:
            data = segment.storage.pread_all(segment.file, batch.size_bytes, position)
            if len(data) != batch.size_bytes:
                raise StorageError(f"{segment.path}: ends too early")
            for record in decode_list(data):
                if record[1] >= timestamp_ms and record[0] >= offset:
                    return record[0], record[1]
        position += batch.size_bytes
    return None
