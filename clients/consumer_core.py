"""The consumer's decisions: where each partition stands, what to read next, what to give out. No I/O, no clock.

A Cursor is one assigned partition. Whoever reads for it (shared memory or fetches) hands over bytes with the `ticket`
that it was asked with: after a seek the ticket is another, and what was read for the old place is dropped. Positions
are offsets of records, so a change of the way to read loses and doubles nothing: bytes before the position are skipped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

from kbroker.clients.record_batch import Deserializer, RecordBatch
from kbroker.clients.records import ConsumerRecord
from kbroker.clients.skips import RAISE_ALL, Skips
from kbroker.errors import CorruptRecord, DeserializationError, KbrokerError
from kbroker.records.batch import CONTROL, HEADER_BYTES, LENGTH_END, LENGTH_MIN, read_header
from kbroker.types import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, TopicPartition

_offset_of = attrgetter("offset")


class Cursor:
    """One assigned partition.

    `position`: offset of the next record for the caller; `fetch_offset`: of the next to be read from the broker;
    `reset_to`: a timestamp to look the position up by, when it is not known; `fault`: raised by poll until a seek;
    `resets`: how often in a row the position was not in the log.

    `batches` are not given out yet. The first is decoded by parts while it is `opened`, into `records`; those of the
    last part are of the batch that was `finished`.
    """

    __slots__ = (
        "attempts",
        "batches",
        "buffered_bytes",
        "fault",
        "fetch_epoch",
        "fetch_offset",
        "finished",
        "given",
        "high_watermark",
        "last_epoch",
        "looking_up",
        "opened",
        "paused",
        "position",
        "records",
        "reset_to",
        "resets",
        "retry_at_ms",
        "skips",
        "ticket",
        "topic_id",
        "topic_partition",
    )

    def __init__(self, topic_partition: TopicPartition, skips: Skips = RAISE_ALL) -> None:
        self.topic_partition = topic_partition
        self.skips = skips
        self.position = -1
        self.last_epoch = -1
        self.fetch_offset = -1
        self.fetch_epoch = -1
        self.reset_to: int | None = None
        self.looking_up = False
        self.paused = False
        self.fault: KbrokerError | None = None
        self.high_watermark = -1
        self.topic_id = b""
        self.ticket = 0
        self.attempts = 0
        self.resets = 0
        self.retry_at_ms = 0
        self.batches: deque[RecordBatch] = deque()
        self.buffered_bytes = 0
        self.opened: Iterator[Any] | None = None
        self.finished: RecordBatch | None = None
        self.records: list[ConsumerRecord] = []
        self.given: ConsumerRecord | None = None  # the record last yielded out of `records`

    @property
    def known(self) -> bool:
        """Whether the position is known."""
        return self.position >= 0

    def now_at(self) -> int:
        """The position, with what iteration has yielded taken into account."""
        return self.given.offset + 1 if self.given is not None else self.position

    def settle(self) -> None:
        """Take iteration into account for good. The list that is being iterated over ends where it is."""
        if self.given is None:
            return
        self._moved_past(self.given)
        self.given = None
        rest = self.records[bisect_left(self.records, self.position, key=_offset_of) :]
        self.records.clear()
        self.records = rest
        if not rest:
            self._leave_batch()

    def move(self, offset: int) -> None:
        """Stand at `offset`; everything read so far is dropped."""
        self.drop()
        self.position = self.fetch_offset = offset
        self.last_epoch = self.fetch_epoch = -1
        self.reset_to = None
        self.looking_up = False
        self.fault = None
        self.attempts = 0
        self.retry_at_ms = 0

    def look_up(self, timestamp_ms: int) -> None:
        """The position is not known: it is to be looked up by this timestamp (or EARLIEST, LATEST)."""
        self.move(-1)
        self.reset_to = timestamp_ms

    def drop(self) -> None:
        """Forget what was read ahead; it is read again from the position on."""
        self.settle()
        self.ticket += 1
        self.batches.clear()
        self.buffered_bytes = 0
        self.records.clear()
        self.records = []
        self.opened = self.finished = None
        self.fetch_offset = self.position
        self.fetch_epoch = self.last_epoch

    def put(self, data: bytes | memoryview, check_crc: bool) -> int:
        """Take in bytes that were read at `fetch_offset`; how many batches there were to give out. Markers of
        transactions are left out. What is no batch becomes a `fault`, behind those before it."""
        first_offset = self.fetch_offset
        view = memoryview(data)
        end = len(view)
        found: list[RecordBatch] = []
        start = size_bytes = 0
        past = 0  # what no batch can be made of
        batch = None
        while end - start >= HEADER_BYTES:
            header = read_header(view, start)
            if header.length < LENGTH_MIN:
                at = first_offset if batch is None else max(first_offset, batch.next_offset)
                error = CorruptRecord(self.topic_partition, at, -1, f"a batch says length {header.length}")
                if self.skips.passes(error):
                    past = at + 1
                else:
                    self.fault = error
                break
            stop = start + LENGTH_END + header.length
            if stop > end:
                break  # as in Kafka, the last one need not be whole
            batch = RecordBatch(
                self.topic_partition, view[start:stop], header, first_offset, check_crc, self.skips, bool(found)
            )
            # Those at the beginning may lie before our place; but their headers may lie, too.
            is_ours = found or batch.next_offset > first_offset or (check_crc and not batch.is_sound())
            if is_ours and not (header.attributes & CONTROL and (not check_crc or batch.is_sound())):
                found.append(batch)
                size_bytes += stop - start
            start = stop
        if batch is None:
            self.fetch_offset = max(first_offset, past)
            return 0
        self.fetch_offset = max(first_offset, batch.nearest_end(), past)
        self.fetch_epoch = batch.header.leader_epoch
        self.attempts = self.resets = 0
        self.batches += found
        self.buffered_bytes += size_bytes
        if not found and not self.batches and not self.records:
            self.position = self.fetch_offset
        return len(found)

    def decode(
        self,
        count: int,
        key_deserializer: Deserializer | None = None,
        value_deserializer: Deserializer | None = None,
    ) -> bool:
        """Decode the next records, at most `count`, when nothing decoded is left. False: there are none.

        Raises CorruptRecord and DeserializationError, when what came before is given out; the batch stays where it is,
        and a later call raises anew unless the position was moved.
        """
        while not self.records:
            if not self.batches:
                return False
            batch = self.batches[0]
            records: list[ConsumerRecord] = []
            try:
                if self.opened is None:
                    batch.begin_at(self.position)
                    self.opened = batch.open()
                batch.take(self.opened, count, key_deserializer, value_deserializer, records, self.position)
            except CorruptRecord as error:
                self.opened = None
                if records:
                    self.records = records
                    return True
                self._pass_corrupt(error)
                continue
            except DeserializationError:
                self.opened = None
                if not records:
                    raise
                self.records = records
                return True
            except BaseException:
                self.opened = None
                raise
            self.records = records
            if len(records) < count or records[-1].offset + 1 >= batch.next_offset:
                self.batches.popleft()
                self.buffered_bytes -= len(batch.data)
                self.opened = None
                self.finished = batch
                if not records:
                    self._leave_batch()
        return True

    def _pass_corrupt(self, error: CorruptRecord) -> None:
        """Go on behind the first batch, or behind what of it is corrupt, if that is wanted; else raises the error."""
        batch = self.batches[0]
        following = self.batches[1].base_offset if len(self.batches) > 1 else -1
        if error.offset < following < error.next_offset:
            error.next_offset = following
        if not self.skips.passes(error):
            raise error
        self.batches.popleft()
        self.buffered_bytes -= len(batch.data)
        self.position = max(self.position, error.next_offset)
        if not self.batches and self.fetch_offset != self.position:
            self.drop()  # where the next one is to be read was told by the corrupt one

    def take(self, count: int) -> list[ConsumerRecord]:
        """At most `count` of the decoded records, of which there are some; the position moves past them."""
        taken = self.records
        if len(taken) > count:
            self.records = taken[count:]
            del taken[count:]
        else:
            self.records = []
        self._moved_past(taken[-1])
        if not self.records:
            self._leave_batch()
        return taken

    def finish(self) -> None:
        """All of the decoded records were yielded."""
        self._moved_past(self.records[-1])
        self.records.clear()
        self.given = None
        self._leave_batch()

    def take_batches(self) -> list[RecordBatch]:
        """Everything that is buffered, as whole batches; the position moves past them."""
        taken = list(self.batches)
        if self.records and self.finished is not None:
            taken.insert(0, self.finished)
        self.batches.clear()
        self.buffered_bytes = 0
        self.records = []
        self.opened = self.finished = None
        if taken:
            at = self.position
            for batch in taken:
                batch.begin_at(at)
                at = max(at, batch.nearest_end())
            self.position, self.last_epoch = at, taken[-1].leader_epoch
        return taken

    def _moved_past(self, record: ConsumerRecord) -> None:
        # Never back: of the offsets in the middle of a batch we have only its word.
        if record.offset >= self.position:
            self.position = record.offset + 1
        self.last_epoch = record.leader_epoch

    def _leave_batch(self) -> None:
        if self.finished is not None:
            if self.finished.next_offset > self.position:
                self.position = self.finished.next_offset
            self.last_epoch = self.finished.header.leader_epoch
            self.finished = None


class ConsumerCore:
    """All cursors of a consumer, served in turn."""

    def __init__(self, skips: Skips = RAISE_ALL) -> None:
        self._skips = skips
        self.cursors: dict[TopicPartition, Cursor] = {}
        self._turn: deque[Cursor] = deque()

    def assign(self, partitions: Iterable[TopicPartition]) -> list[Cursor]:
        """Replace the assignment; those that stay keep their place. Returns the new cursors."""
        wanted = list(dict.fromkeys(partitions))
        for topic_partition in [known for known in self.cursors if known not in set(wanted)]:
            self.cursors.pop(topic_partition).drop()
        new = [
            Cursor(topic_partition, self._skips) for topic_partition in wanted if topic_partition not in self.cursors
        ]
        for cursor in new:
            self.cursors[cursor.topic_partition] = cursor
        self._turn = deque(self.cursors.values())
        return new

    def settle(self) -> None:
        """Take iteration into account in every cursor."""
        for cursor in self._turn:
            if cursor.given is not None:
                cursor.settle()

    def next_ready(self) -> Cursor | None:
        """The next partition in turn with something to give out. Raises the fault of one that has one."""
        turn = self._turn
        for index, cursor in enumerate(turn):
            if cursor.paused:
                continue
            if cursor.records or cursor.batches:
                turn.rotate(-index - 1)
                return cursor
            if cursor.fault is not None:
                turn.rotate(-index)  # so that it is first the next time, too
                raise cursor.fault
        return None

    def has_ready(self) -> bool:
        """Whether `next_ready` would give a partition, or raise."""
        for cursor in self._turn:
            if not cursor.paused and (cursor.records or cursor.batches or cursor.fault is not None):
                return True
        return False

    def give_back(self) -> None:
        """The partition that `next_ready` gave last could not be read: it is next again."""
        self._turn.rotate(1)

    def wanting(self, now_ms: int, buffer_bytes_max: int) -> list[Cursor]:
        """Partitions to read for, those that waited longest first: not paused, in their place, and short of data."""
        found = []
        for cursor in self._turn:
            if (
                not cursor.paused
                and cursor.position >= 0
                and cursor.fault is None
                and cursor.buffered_bytes < buffer_bytes_max
                and now_ms >= cursor.retry_at_ms
            ):
                found.append(cursor)
        return found

    def to_look_up(self, now_ms: int) -> list[Cursor]:
        """Partitions whose position must be looked up, and is not being looked up."""
        return [
            cursor
            for cursor in self._turn
            if cursor.reset_to is not None and not cursor.looking_up and now_ms >= cursor.retry_at_ms
        ]

    def next_retry_ms(self, now_ms: int) -> int | None:
        """When a partition that backs off may be tried again."""
        return min((c.retry_at_ms for c in self._turn if c.retry_at_ms > now_ms and not c.paused), default=None)


RESET_TIMESTAMPS = {"earliest": EARLIEST_TIMESTAMP, "latest": LATEST_TIMESTAMP}
"""What `auto_offset_reset` looks the position up by; 'none' is not here: it raises."""
