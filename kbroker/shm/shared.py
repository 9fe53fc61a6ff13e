"""What the server needs of a partition and its log, and where in its files an offset lies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from kbroker.errors import OffsetOutOfRange
from kbroker.shm.control_page import ControlPage
from kbroker.shm.messages import NOT_KNOWN, Open


class SegmentPlace(Protocol):
    """One segment file. `next_base_offset` None: it is the last."""

    @property
    def base_offset(self) -> int: ...
    @property
    def path(self) -> Path: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def next_base_offset(self) -> int | None: ...


class BatchPlace(Protocol):
    """Where a read begins."""

    @property
    def position(self) -> int: ...


class LogView(Protocol):
    """What is needed of a partition's log."""

    @property
    def log_start_offset(self) -> int: ...
    def segment_for(self, offset: int) -> SegmentPlace: ...
    def read(self, offset: int, max_bytes: int) -> BatchPlace: ...
    def epoch_end_offset(self, epoch: int) -> tuple[int, int]: ...


class SharedPartition(Protocol):
    """A partition that this worker owns and publishes in `control_page`."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def topic_id(self) -> bytes: ...
    @property
    def control_page(self) -> ControlPage: ...
    @property
    def log(self) -> LogView: ...


def diverging_offset(partition: SharedPartition, request: Open) -> int:
    """Where the log was cut behind a reader that has read up to `request.offset`; -1: it was not.

    `last_epoch` may be newer than the last record's: then the answer is the same.
    """
    high_watermark = partition.control_page.high_watermark
    if request.last_epoch < 0:
        return -1
    epoch, end_offset = partition.log.epoch_end_offset(request.last_epoch)
    if epoch < 0:
        # Newer than anything here: all that is here is older, and ends at the high watermark.
        newer = request.last_epoch > partition.control_page.leader_epoch
        return min(request.offset, high_watermark) if newer else -1
    return end_offset if end_offset < request.offset else -1


def place(partition: SharedPartition, offset: int) -> tuple[SegmentPlace, int]:
    """The segment that has `offset`, and where the batch with it starts: -1 when that is the reader's to find.

    In a closed segment it is: neither its index nor its batches need be in memory, and the worker must not wait for a
    disk. Raises OffsetOutOfRange, StorageError.
    """
    log, page = partition.log, partition.control_page
    if not log.log_start_offset <= offset <= page.high_watermark:
        raise OffsetOutOfRange(
            f"{partition.topic}-{partition.partition}: offset {offset} is not in {log.log_start_offset} … "
            f"{page.high_watermark}",
            earliest=log.log_start_offset,
            next_offset=page.high_watermark,
        )
    segment = log.segment_for(offset)
    if offset == segment.base_offset:
        return segment, 0
    if offset == page.high_watermark:
        base, position = page.high_watermark_place
        if base == segment.base_offset:
            return segment, position
    if segment.closed:
        return segment, NOT_KNOWN
    return segment, log.read(offset, 1).position


def open_segment(segment: SegmentPlace) -> int:
    """A file description of its own for each hand-over: flags such as O_DIRECT are shared by all who hold one."""
    return os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def open_index(segment: SegmentPlace) -> list[int]:
    """The segment's offset index, beside it under Kafka's name; nothing when it is not there."""
    try:
        return [os.open(segment.path.with_suffix(".index"), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)]
    except FileNotFoundError:
        return []


def end_of(segment: SegmentPlace) -> tuple[int, int]:
    """Size and next base offset of a closed segment; -1 for both while it may grow."""
    if not segment.closed or segment.next_base_offset is None:
        return -1, -1
    return segment.size_bytes, segment.next_base_offset
