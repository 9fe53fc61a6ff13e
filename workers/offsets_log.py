"""The log of `__consumer_offsets`: what groups decide is stored here, one fdatasync for all of a loop's turn."""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from kbroker.catalog.rebuild import read_topic_id
from kbroker.config import Config
from kbroker.errors import CorruptMessage, KbrokerError, StorageError
from kbroker.groups.effects import Record
from kbroker.log import compaction
from kbroker.log.compaction import Cleanings, Compaction, Placing, Rules
from kbroker.log.damage import CORRUPT, Damage, Repair
from kbroker.log.flush import Flush
from kbroker.log.log import PartitionLog
from kbroker.log.names import PARTITION_METADATA
from kbroker.log.storage import Storage
from kbroker.records.batch import read_header
from kbroker.records.codec import BatchBuilder, decode_list, iter_batches
from kbroker.types import OFFSETS_TOPIC, TopicPartition
from kbroker.workers.freed_space import FreedSpace
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.recoveries import tell_recovery

log = logging.getLogger(__name__)

PARTITION = TopicPartition(OFFSETS_TOPIC, 0)
LOOK_INTERVAL_MS = 15_000
"""How often it is looked for segments that were too young to be compacted, or have waited for too long."""
COMPACTION_PAUSE_S = 0.001
"""Between two pieces: it computes, and the loop wants its turn."""
READ_BYTES = 1 << 20
BATCH_BYTES = 1 << 20
"""Records of several groups share a batch up to here. What one group stores at once is never divided."""
BATCH_BYTES_MAX = 256 << 20
"""So a group's own batch may be larger. `groups/limits.py` sees to it that none needs more than this."""


def open_offsets(
    config: Config, now_ms: int, storage: Storage, *, distrust_cache: bool, repair: Repair = Repair.NONE
) -> PartitionLog:
    """The log of `__consumer_offsets-0`, recovered. May block. Raises StartError, StorageError: also where records
    that were on the disk are lost, until somebody has accepted that; its folder is free meanwhile.
    """
    folder = config.data_dir / str(PARTITION)
    topic_id = read_topic_id(folder / PARTITION_METADATA) or uuid.uuid4().bytes
    # Not for users' settings: what retention took would be forgotten.
    own = dataclasses.replace(
        config.log,
        segment_bytes=config.groups.offsets_segment_bytes,
        retention_ms=-1,
        retention_bytes=-1,
        flush_acks_all="fdatasync",
        message_max_bytes=BATCH_BYTES_MAX,
    )
    opened = PartitionLog.open(
        folder, PARTITION, topic_id, own, 0, now_ms, storage, distrust_cache=distrust_cache, repair=repair
    )
    tell_recovery(opened)
    if opened.refusal is not None:
        opened.abandon()
        raise StorageError(opened.refusal)
    return opened


def stored_records(partition_log: PartitionLog) -> Iterator[Record]:
    """All records, in the log's order. What is damaged is passed over: `partition_log.damage` has it as corrupt.

    Recovery reads no segment that was closed before its recovery point, so damage there is found here. Raises
    StorageError where even the last segment cannot be read.
    """

    def passes_over(first_offset: int, next_offset: int, error: Exception) -> None:
        damage = Damage(CORRUPT, first_offset, next_offset, f"cannot be read: {error}"[:300])
        if partition_log.damage.add(damage):
            log.error("%s: %s; groups are read without them", PARTITION, damage.told(PARTITION))

    offset = partition_log.log_start_offset
    while offset < partition_log.next_offset:
        try:
            piece = partition_log.read(offset, READ_BYTES)
            batches = list(iter_batches(piece.read()))
        except (StorageError, CorruptMessage) as error:
            following = next((base for base in partition_log.bases if base > offset), None)
            if following is None:
                raise
            passes_over(offset, following, error)
            offset = following
            continue
        if not batches:
            return
        for batch in batches:
            try:
                records = decode_list(batch)
            except CorruptMessage as error:
                header = read_header(batch)
                passes_over(header.base_offset, header.next_offset, error)
                continue
            for _, _, _, key, value, _ in records:
                if key is not None:
                    yield Record(key, value)
        offset = piece.next_offset


class OffsetsLog:
    """Takes what is stored in a turn of the loop, appends and syncs it together.

    `failed(error)` is called once, when the disk did not take something; nothing is stored any more after that, and
    nobody who waits is told: that is the business of whoever made this.
    """

    def __init__(
        self,
        partition_log: PartitionLog,
        io: IoThreads,
        now_ms: Callable[[], int],
        failed: Callable[[KbrokerError], None],
        cleanings: Cleanings,
        freed_space: FreedSpace,
        rules: Callable[[], Rules] = Rules,
    ) -> None:
        self.log = partition_log
        self.on_published: Callable[[], None] = lambda: None
        self._io = io
        self._now_ms = now_ms
        self._failed = failed
        self._cleanings = cleanings
        self._freed_space = freed_space
        self._rules = rules
        self._is_over = False
        self._turn: list[tuple[Sequence[Record], Callable[[], None]]] = []
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._compaction: Compaction | None = None
        self._segments = 0  # when it was last looked at whether a compaction is worth the while
        self._look_at_ms = 0

    def store(self, records: Sequence[Record], stored: Callable[[], None]) -> None:
        """Keep the records, all or none of them; `stored()` follows when they are on the disk, in order."""
        if not self._is_over:
            self._turn.append((records, stored))

    def end_turn(self) -> None:
        """Append what this turn has brought, and begin to sync it."""
        if not self._turn or self._is_over:
            return
        now_ms = self._now_ms()
        turn, self._turn = self._turn, []
        try:
            for batch, whose in _batches(turn, now_ms):
                result = self.log.append(batch, now_ms, sync=True)
                self._waiting += [(result.ack_offset, stored) for stored in whose]
        except KbrokerError as error:
            self._give_up(error)
            return
        self._flush()

    def _flush(self) -> None:
        flush = self.log.begin_flush()
        if flush is not None:
            self._io.submit(flush.run, lambda _result, error: self._flushed(flush, error))

    def _flushed(self, flush: Flush, error: BaseException | None) -> None:
        if error is not None:
            self.log.fail_flush(flush, error)
            self._give_up(StorageError(f"{PARTITION}: the disk did not take the records: {error}"))
        else:
            self.log.finish_flush(flush, 0)
            self.on_published()
        if self._is_over:
            self.log.abandon()
            return
        acknowledged = self.log.acknowledged_offset
        while self._waiting and self._waiting[0][0] <= acknowledged:
            self._waiting.popleft()[1]()
        self._tidy()
        if self.log.needs_sync:
            self._flush()

    # --- compaction ---

    def _tidy(self) -> None:
        """While no flush is out: free what is due, and begin a compaction if a segment was rolled."""
        now_ms = self._now_ms()
        self._freed_space.free_files(self.log.due_deletions(now_ms))
        is_same = len(self.log.segments) == self._segments and now_ms < self._look_at_ms
        if is_same or self._compaction is not None:
            return
        self._segments, self._look_at_ms = len(self.log.segments), now_ms + LOOK_INTERVAL_MS
        self._compaction = compaction.begin(self.log, self._cleanings, self._rules(), now_ms)
        if self._compaction is not None:
            pause = partial(time.sleep, COMPACTION_PAUSE_S)
            self._io.submit(partial(self._compaction.run, pause), partial(self._compacted, self._compaction))

    def _compacted(self, done: Compaction, _result: None, error: BaseException | None) -> None:
        if self._is_over:
            return
        if error is not None:
            self._compaction = None
            log.error("%s", error)  # tried again with the next segment
            return
        placing = done.begin_placing(self.log)
        self._io.submit(placing.run, partial(self._placed, placing))

    def _placed(self, placing: Placing, _result: None, error: BaseException | None) -> None:
        self._compaction = None
        if self._is_over:
            return
        if error is not None:
            self._give_up(error if isinstance(error, StorageError) else StorageError(str(error)))
            return
        freed = placing.finish(self.log, self._now_ms())
        self._cleanings = placing.cleanings
        self._segments = len(self.log.segments)
        log.info("%s: compaction has freed %d KiB of %d", PARTITION, freed >> 10, (self.log.size_bytes + freed) >> 10)

    def _give_up(self, error: KbrokerError) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._compaction is not None:
            self._compaction.cancel()
        self._turn.clear()
        self._waiting.clear()
        if not self.log.flushing:
            self.log.abandon()
        self._failed(error)

    def cancel_compaction(self) -> None:
        """The process is about to end: nobody waits for a compaction."""
        if self._compaction is not None:
            self._compaction.cancel()

    def close(self) -> None:
        """Close cleanly, after the I/O threads have ended."""
        if self._is_over:
            return
        self._is_over = True
        if self.log.flushing:
            self.log.abandon()  # how that sync ended is not known here: the successor recovers
            return
        try:
            self.log.close(self._now_ms())
        except StorageError as error:
            log.error("%s could not be closed cleanly: %s", PARTITION, error)


def _batches(
    turn: list[tuple[Sequence[Record], Callable[[], None]]], now_ms: int
) -> Iterator[tuple[bytearray, list[Callable[[], None]]]]:
    """Everything that was stored in a turn as few batches, each with those who wait for it."""
    builder = BatchBuilder(batch_bytes=BATCH_BYTES_MAX)
    whose: list[Callable[[], None]] = []
    for records, stored in turn:
        size_bytes = sum(len(record.key) + len(record.value or b"") for record in records)
        if whose and builder.size_bytes + size_bytes > BATCH_BYTES:
            yield builder.build(), whose
            builder, whose = BatchBuilder(batch_bytes=BATCH_BYTES_MAX), []
        for record in records:
            if not builder.append(now_ms, record.key, record.value):
                raise StorageError(f"more than {BATCH_BYTES_MAX} bytes of one group's records")
        whose.append(stored)
    if whose:
        yield builder.build(), whose
