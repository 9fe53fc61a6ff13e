"""ShmPartition: one partition in the consumer's process, read batch by whole batch, through rolls and retention."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol

from kbroker.errors import (
    LogTruncated,
    OffsetOutOfRange,
    StorageError,
    UnknownTopicOrPartition,
)
from kbroker.shm.buffers import Buffers
from kbroker.shm.control_page import CLOSED, DELETED, LIVE, ControlPageView, PageFacts
from kbroker.shm.errors import ConnectionLost
from kbroker.shm.locate import find_batch
from kbroker.shm.segment_file import HOT_BYTES, SegmentFile, last_header
from kbroker.types import TopicPartition

if TYPE_CHECKING:
    from kbroker.shm.messages import NextSegment, Opened

READ_BYTES: Final = 1 << 20
NOTHING: Final = memoryview(b"")


class Segments(Protocol):
    """Where further segments come from: the connection."""

    def next_segment(
        self, handle: int, offset: int, held_base: int, generation: int
    ) -> tuple[NextSegment, list[int]]: ...

    def forget(self, handle: int) -> None: ...


class ShmPartition:
    """Made by `ShmConnection.open`. `offset`: what is read next. `committed`: read up to the last stable offset only.

    `topic_id` tells a topic from another of the same name.
    """

    __slots__ = (
        "_buffers",
        "_closed_bytes",
        "_connection",
        "_facts",
        "_file",
        "_generation",
        "_mapped",
        "_next_base",
        "_page",
        "_position",
        "_segment_base",
        "committed",
        "handle",
        "offset",
        "partition",
        "topic_id",
    )

    def __init__(
        self,
        connection: Segments,
        partition: TopicPartition,
        opened: Opened,
        page: ControlPageView,
        offset: int,
        *,
        committed: bool,
        mapped: bool,
        buffers: Buffers,
    ) -> None:
        self._connection = connection
        self.partition = partition
        self.handle = opened.handle
        self.topic_id = opened.topic_id
        self.committed = committed
        self.offset = offset
        self._mapped = mapped
        self._buffers = buffers
        self._page = page
        # Until the page was read the first time, nothing is known to be published past where we stand.
        self._facts = PageFacts(-1, -1, LIVE, opened.files_generation, 0, offset, 0, 0, offset, 0, 0)
        self._file: SegmentFile | None = None
        self._segment_base = self._generation = -1

    # What the consumer calls

    def read(self, max_bytes: int = READ_BYTES) -> memoryview:
        """Whole batches from the one that has `offset` on, and `offset` moves past them; empty: nothing new.

        At most `max_bytes`, but one batch at least. Raises LogTruncated; OffsetOutOfRange (retention was faster);
        UnknownTopicOrPartition (the topic is deleted); StorageError (the disk; naming the file and positions);
        ConnectionLost (worker gone: reconnect, and open at `offset`).
        """
        facts = self._snapshot()
        limit = facts.last_stable_offset if self.committed else facts.high_watermark
        if self.offset >= limit:
            self._nothing_new(facts)
            return NOTHING
        if self.committed:
            limit_base, limit_position = facts.lso_segment_base, facts.lso_position
        else:
            limit_base, limit_position = facts.segment_base, facts.position
        if facts.state == DELETED:
            raise self._deleted()
        if self._file is None or self._generation != facts.files_generation:
            self._ask()
        while True:
            if self._segment_base == limit_base:
                end, next_offset = limit_position, limit
            elif self._closed_bytes < 0:
                self._learn_end(facts)
                if self._closed_bytes < 0 and self._segment_base != limit_base:
                    return NOTHING  # the page has moved on since its facts were taken
                continue
            else:
                end, next_offset = self._closed_bytes, self._next_base
            if self._position < end:
                break
            if self._segment_base == limit_base:
                raise StorageError(
                    f"{self._name()}: nothing lies at position {self._position}, but {limit} is published"
                )
            self.offset = max(self.offset, next_offset)
            self._ask()  # the next one
        assert self._file is not None
        hot = limit_position - self._position <= HOT_BYTES and self._segment_base == limit_base
        data, last = self._file.read(self._position, end, max_bytes, hot=hot)
        self._position += len(data)
        if last is None and next_offset < 0:
            last = last_header(data)
        self.offset = next_offset if last is None else last.next_offset
        return data

    def seek(self, offset: int) -> None:
        """Read from `offset` next. Raises OffsetOutOfRange, or as `read`."""
        facts = self._snapshot()
        if facts.state == DELETED:
            raise self._deleted()
        if not facts.log_start_offset <= offset <= facts.high_watermark:
            raise OffsetOutOfRange(
                f"{self.partition}: offset {offset} is not in {facts.log_start_offset} … {facts.high_watermark}",
                earliest=facts.log_start_offset,
                next_offset=facts.high_watermark,
            )
        if offset != self.offset:
            self.offset = offset
            self._ask()

    def facts(self) -> PageFacts:
        """High watermark, log start offset and the like, as published last."""
        return self._snapshot()

    @property
    def readable(self) -> bool:
        """Whether `read` has something to give, or to raise. No system call."""
        facts = self._snapshot()
        limit = facts.last_stable_offset if self.committed else facts.high_watermark
        return self.offset < limit or facts.state != LIVE or facts.high_watermark < self.offset

    def close(self) -> None:
        """Unmap and close everything. A second call does nothing."""
        self._page.close()
        if self._file is not None:
            self._file.close()
            self._file = None
        if self.handle >= 0:
            handle, self.handle = self.handle, -1
            self._connection.forget(handle)

    # How it does that

    def _snapshot(self) -> PageFacts:
        facts = self._page.snapshot()
        if facts is None:
            # The writer stopped in the middle: what it said before still holds. A dead one shows by its hang-up.
            return self._facts
        self._facts = facts
        return facts

    def _nothing_new(self, facts: PageFacts) -> None:
        if facts.state == DELETED:
            raise self._deleted()
        if self.offset > facts.high_watermark:
            raise LogTruncated(self.partition, self.offset, facts.high_watermark)
        if facts.state == CLOSED:
            raise ConnectionLost(f"{self.partition}: its worker has let go of it: reconnect")

    def _learn_end(self, facts: PageFacts) -> None:
        """The segment was rolled: where does it end, and what follows?"""
        assert self._file is not None
        if self.offset < facts.log_start_offset:
            # Retention took it out of the log, and its name is gone; the file is here, and all of it was published.
            self._closed_bytes = self._file.size_bytes()
        else:
            self._ask()

    def _ask(self) -> None:
        """Have the worker tell the segment of `offset`, and hand the file over if it is another."""
        held = self._segment_base if self._file is not None else -1
        self.take(*self._connection.next_segment(self.handle, self.offset, held, self._generation))

    def take(self, answer: Opened | NextSegment, descriptors: list[int]) -> None:
        """Go on in a segment: for the connection. The descriptors are taken over. Raises StorageError."""
        held = self._file is not None and self._segment_base == answer.base_offset
        if not held or self._generation != answer.files_generation:
            if self._file is not None:
                self._file.close()
            self._segment_base = answer.base_offset
            self._file = SegmentFile(descriptors.pop(0), self._name(), mapped=self._mapped, buffers=self._buffers)
        self._closed_bytes = answer.closed_bytes
        self._next_base = answer.next_base_offset
        self._generation = answer.files_generation
        try:
            self._position = answer.position
            if answer.position < 0:
                assert self._file is not None
                index_fd = descriptors[0] if descriptors else -1
                self._position = find_batch(self._file, self._segment_base, self.offset, self._closed_bytes, index_fd)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _name(self) -> str:
        return f"{self.partition}, segment {self._segment_base}"

    def _deleted(self) -> UnknownTopicOrPartition:
        return UnknownTopicOrPartition(f"{self.partition}: the topic was deleted")
