"""PartitionLog: the log of one partition. Owned by one process, used from one thread.

It does no I/O but through its Storage and reads no clock. What may block is taken out as a Flush for an I/O thread.
High watermark = min(log end, first offset of an acks=all batch that is not yet synced): nothing past it is shown.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections import deque
from pathlib import Path

from kbroker.config import LogConfig
from kbroker.errors import (
    InvalidRecord,
    InvalidTimestamp,
    OffsetOutOfRange,
    PolicyViolation,
    RequestError,
    StorageError,
)
from kbroker.log import names, opening, reading, retention, timestamps
from kbroker.log.checkpoint import RecoveryPoint
from kbroker.log.damage import Repair
from kbroker.log.flush import Flush
from kbroker.log.freeing import free_at_once, free_folder
from kbroker.log.index import POSITION_MAX, RELATIVE_OFFSET_MAX
from kbroker.log.positions import AppendResult, LogPosition, RecoveryReport, SegmentInfo
from kbroker.log.read_only import ReadOnlyDisk
from kbroker.log.reading import RECENT_MAX
from kbroker.log.recovery import Recovered
from kbroker.log.reservation import Reservation
from kbroker.log.retention import Deletion, Removal
from kbroker.log.segment import Segment, SegmentDamaged
from kbroker.log.slices import LogSlice
from kbroker.log.storage import DISK, File, Storage
from kbroker.log.write_back import STEP_BYTES, WriteBack
from kbroker.records.batch import (
    LOG_APPEND_TIME,
    TRANSACTIONAL,
    BatchFacts,
    check_batches,
    patch_log_append_time,
    patch_sized,
)
from kbroker.records.policy import policy_of
from kbroker.types import TopicPartition
from kbroker.wording import with_remedy

_LOADED_INDEXES_MAX = 8
HOT_WINDOW_BYTES = 64 << 20

_new = tuple.__new__  # makes a NamedTuple in half the time


class PartitionLog:
    """Open one with `PartitionLog.open`. Facts are plain attributes; only methods change them.

    `synced_offset`: every record before it is on the disk. `durable_log_start_offset`: a crash does not take the log's
    start back behind it. `failed`: why nothing is appended any more, or None.
    """

    def __init__(
        self,
        folder: Path,
        partition: TopicPartition,
        topic_id: bytes,
        config: LogConfig,
        storage: Storage,
        lock: File,
        recovered: Recovered,
        now_ms: int,
    ) -> None:
        self.folder = folder
        self.partition = partition
        self.topic_id = topic_id
        self.config = config
        self.policy = policy_of(config)
        """What its topic asks of records besides sound batches. Whoever appends has applied it; None: there is none."""
        self.storage = storage
        self.lock: File | None = lock
        self.hot_window_bytes = HOT_WINDOW_BYTES
        self.recovery: RecoveryReport = recovered.report
        self.damage = recovered.damage
        self.refusal = recovered.damage.refusal(partition)
        """Why nothing is appended until somebody has accepted a loss; None: it is."""
        self.suspects: set[int] = set()
        """Base offsets of segments in which a reader has found no batch where one must be."""
        self.segments = recovered.segments
        self.bases = [segment.base_offset for segment in recovered.segments]
        self.producers = recovered.producers
        self.epochs = recovered.epochs
        self.leader_epoch = recovered.epochs.latest
        self.next_offset = recovered.next_offset
        self.log_start_offset = recovered.log_start_offset
        self.synced_offset = recovered.next_offset
        self.durable_log_start_offset = recovered.log_start_offset
        self.failed: str | None = None
        self.size_bytes = sum(segment.size_bytes for segment in recovered.segments)
        self.deletions: deque[Deletion] = deque(Deletion(now_ms, path) for path in recovered.deleted)
        self.to_remove: list[Segment] = []  # out of the log; their files wait for a Removal
        self.is_placing = False  # compacted segments are being put in place, so that none may go
        self._removal: Removal | None = None
        self._active = recovered.segments[-1]
        self._waiting: deque[LogPosition] = deque()  # acks=all appends that are not yet synced
        self._wanted_offset = 0  # acks=all answers wait for a sync up to here
        self.recent: dict[int, tuple[Segment, int]] = {}  # where batches begin that were lately written or read up to
        self._loaded: deque[Segment] = deque()
        self._unsynced: list[Segment] = []  # rolled since the last flush
        self._folder_changed = False
        self._flush: Flush | None = None
        self._point_bytes = 0  # appended since the last recovery point
        self._point_batches = 0
        self._point_due = False
        listing = self.storage.list(self.folder)
        self._snapshots: list[Path] = [self.folder / name for name in listing if name.endswith(names.SNAPSHOT)]

    @classmethod
    def open(
        cls,
        folder: Path,
        partition: TopicPartition,
        topic_id: bytes,
        config: LogConfig,
        leader_epoch: int,
        now_ms: int,
        storage: Storage = DISK,
        *,
        distrust_cache: bool = False,
        had_log: bool = False,
        repair: Repair = Repair.NONE,
    ) -> PartitionLog:
        """Take ownership: lock, recover, and durably begin a leader epoch above all before.

        `topic_id` is 16 bytes; `leader_epoch` is the least epoch to begin. `distrust_cache`: an fsync of this
        partition failed since the machine started. `had_log`: the catalog says that it was opened before, so that an
        empty folder is a loss. Raises StartError (locked by another process), StorageError (another topic's folder,
        or the disk failed).
        """
        lock, recovered = opening.take_over(
            storage,
            folder,
            partition,
            topic_id,
            config,
            leader_epoch,
            now_ms,
            distrust_cache=distrust_cache,
            had_log=had_log,
            repair=repair,
        )
        return cls(folder, partition, topic_id, config, storage, lock, recovered, now_ms)

    @classmethod
    def open_read_only(
        cls,
        folder: Path,
        partition: TopicPartition,
        topic_id: bytes,
        config: LogConfig,
        leader_epoch: int,
        now_ms: int,
        why: str,
    ) -> PartitionLog:
        """As `open`, where the disk takes no writes: nothing can be appended, and no epoch begins. `why` says so."""
        storage = ReadOnlyDisk(folder)
        opened = cls.open(folder, partition, topic_id, config, leader_epoch, now_ms, storage)
        opened.failed = why
        return opened

    # Facts

    @property
    def high_watermark(self) -> int:
        """End of what is shown: the first acks=all append that is not yet synced, else the log's end."""
        return self._waiting[0].offset if self._waiting else self.next_offset

    @property
    def high_watermark_position(self) -> LogPosition:
        """Where the high watermark lies."""
        if self._waiting:
            return self._waiting[0]
        return _new(LogPosition, (self.next_offset, self._active.base_offset, self._active.size_bytes))

    @property
    def last_stable_offset(self) -> int:
        """End of what read_committed consumers see; the high watermark while there are no transactions."""
        return self.high_watermark

    @property
    def acknowledged_offset(self) -> int:
        """acks=all is answered up to here: below the high watermark and, unless the setting says page-cache, synced."""
        if self.config.flush_acks_all == "fdatasync":
            return min(self.high_watermark, self.synced_offset)
        return self.high_watermark

    @property
    def needs_sync(self) -> bool:
        """Whether somebody waits for acks=all and no flush is under way."""
        return self._wanted_offset > self.synced_offset and self._flush is None and self.failed is None

    @property
    def unsynced(self) -> bool:
        """Whether anything is not on the disk yet: what the background flush asks."""
        return self.synced_offset < self.next_offset or bool(self._unsynced) or self._folder_changed

    @property
    def flush_due(self) -> bool:
        """Whether so much was appended, since the last recovery point or at all, that a flush should not wait for the
        clock."""
        is_much = self._point_is_due() or self.next_offset - self.synced_offset >= self.config.flush_messages
        return is_much and self._flush is None and self.failed is None

    def _point_is_due(self) -> bool:
        config = self.config
        return (
            self._point_due
            or self._point_bytes >= config.recovery_point_bytes
            or self._point_batches >= config.recovery_point_batches
        )

    @property
    def flushing(self) -> bool:
        """Whether a Flush is out."""
        return self._flush is not None

    # Append

    def append(self, batches: bytes | bytearray | memoryview, now_ms: int, *, sync: bool) -> AppendResult:
        """Append whole batches with one write. A writable buffer is patched in place, a read-only one copied.

        `sync` is acks=all: the records stay hidden until a flush has them on the disk. Raises what check_batches
        does; OutOfOrderSequence, InvalidProducerEpoch, DuplicateSequence; StorageError when the disk took none of it
        (the log goes on when there is space again) or has failed before; PolicyViolation while a loss of records that
        were on the disk is not accepted.
        """
        if self.failed is not None:
            raise StorageError(f"{self.partition}: {self.failed}; records are refused until it takes them again")
        if self.refusal is not None:
            raise PolicyViolation(self.refusal)
        config = self.config
        view = memoryview(batches)
        if view.readonly:
            view = memoryview(bytearray(view))
        found = check_batches(
            view,
            config.message_max_bytes,
            batches_max=config.produce_batches_max,
            expanded_bytes_max=config.decompressed_bytes_max,
        )
        waits = sync and config.flush_acks_all == "fdatasync"
        written = view
        repeated: list[int] = []
        if len(found) > 1 or found[0].producer_id >= 0:
            known = self._check_producers(found)
            repeated = [base_offset for base_offset in known if base_offset is not None]
            if repeated:
                if len(repeated) == len(found):
                    return self._duplicate(found, repeated, now_ms, waits)
                if None in known[: len(repeated)]:
                    raise InvalidRecord(f"{self.partition}: new batches stand before repeated ones")
                del found[: len(repeated)]
                written = view[found[0].position :]
        next_offset = self._number(view, found, self.next_offset, now_ms)
        if self._must_roll(found, len(written), next_offset, now_ms):
            self.roll(now_ms)
        result = self._store([written], len(written), found, now_ms, waits)
        if repeated:
            result.batch_offsets = (*repeated, *(result.batch_offsets or (result.base_offset,)))
            result.base_offset = repeated[0]
        return result

    def append_together(self, requests: list[memoryview], now_ms: int, *, sync: bool) -> AppendResult | None:
        """Append the one new batch of each request, writable and patched in place, with one write: in batches of 64 KiB
        the kernel does that for two thirds of what as many writes cost.

        None: nothing was appended, because something is not as usual, from a bad or repeated batch to a full segment
        or disk. Each is to be appended by itself then, and learns what became of it.
        """
        if self.failed is not None or self.refusal is not None:
            return None
        config = self.config
        found: list[BatchFacts] = []
        size_bytes = 0
        next_offset = self.next_offset
        try:
            for view in requests:
                of_request = check_batches(
                    view, config.message_max_bytes, batches_max=1, expanded_bytes_max=config.decompressed_bytes_max
                )
                next_offset = self._number(view, of_request, next_offset, now_ms)
                found += of_request
                size_bytes += len(view)
            if self._check_producers(found).count(None) != len(found):
                return None
            if self._must_roll(found, size_bytes, next_offset, now_ms):
                return None
            waits = sync and config.flush_acks_all == "fdatasync"
            return self._store(requests, size_bytes, found, now_ms, waits)
        except (RequestError, StorageError):
            return None

    def _number(self, view: memoryview, found: list[BatchFacts], offset: int, now_ms: int) -> int:
        """Give batches that lie in `view` their offsets, from `offset` on, and LogAppendTime if their topic says so.

        Returns the offset after the last one. Raises InvalidTimestamp.
        """
        config = self.config
        is_stamped = config.timestamp_type == "LogAppendTime"
        if is_stamped:
            found[:] = [patch_log_append_time(view, facts, now_ms) for facts in found]
        latest = now_ms + config.timestamp_after_max_ms
        for position, size_bytes, _, _, record_count, _, max_timestamp, _, _, _, attributes, _ in found:
            if attributes & LOG_APPEND_TIME and not is_stamped:
                raise InvalidTimestamp(f"{self.partition}: a producer may not send batches stamped with LogAppendTime")
            if max_timestamp > latest:
                raise InvalidTimestamp(
                    f"{self.partition}: timestamp {max_timestamp} is after {latest}, the latest by "
                    "message.timestamp.after.max.ms"
                )
            patch_sized(view, position, size_bytes, offset, self.leader_epoch)
            offset += record_count
        return offset

    def _store(
        self, pieces: list[memoryview], size_bytes: int, found: list[BatchFacts], now_ms: int, waits: bool
    ) -> AppendResult:
        """Write numbered batches, whose bytes are `pieces`, and take note of them. Raises StorageError."""
        segment = self._active
        position = segment.size_bytes
        self._write(segment, pieces, size_bytes, position)
        base_offset = next_offset = self.next_offset
        offsets = []
        at = position
        for facts in found:
            _, batch_bytes, _, last_offset_delta, record_count, _, max_timestamp, producer_id, _, _, _, _ = facts
            segment.note_batch(at, batch_bytes, next_offset + last_offset_delta, max_timestamp)
            if producer_id >= 0:
                self.producers.add(facts, next_offset, now_ms)
            at += batch_bytes
            offsets.append(next_offset)
            next_offset += record_count
        recent = self.recent
        if len(recent) >= RECENT_MAX:
            recent.clear()
        recent[base_offset] = (segment, position)
        segment.size_bytes = at
        self.size_bytes += size_bytes
        self.next_offset = next_offset
        self._point_bytes += size_bytes
        self._point_batches += len(found)
        if waits:
            self._waiting.append(LogPosition(base_offset, segment.base_offset, position))
            self._wanted_offset = next_offset
        stamp = now_ms if self.config.timestamp_type == "LogAppendTime" else -1
        several = tuple(offsets) if len(offsets) > 1 else None
        return AppendResult(base_offset, next_offset, self.log_start_offset, stamp, False, waits, next_offset, several)

    def _check_producers(self, found: list[BatchFacts]) -> list[int | None]:
        """For each batch the base offset at which it stands already, or None when it is new."""
        pending: dict[int, tuple[int, int]] = {}
        known: list[int | None] = []
        for facts in found:
            if facts.attributes & TRANSACTIONAL:
                raise InvalidRecord(f"{self.partition}: transactional batches are not supported yet")
            kept = self.producers.check(facts, pending) if facts.producer_id >= 0 else None
            known.append(None if kept is None else kept.base_offset)
        return known

    def _duplicate(self, found: list[BatchFacts], offsets: list[int], now_ms: int, waits: bool) -> AppendResult:
        end = max(base + facts.record_count for base, facts in zip(offsets, found, strict=True))
        if waits and end > self.synced_offset:
            # The first time it may have come with acks=1: this answer waits for the disk all the same.
            self._wanted_offset = max(self._wanted_offset, end)
        stamp = now_ms if self.config.timestamp_type == "LogAppendTime" else -1
        several = tuple(offsets) if len(offsets) > 1 else None
        return AppendResult(offsets[0], end, self.log_start_offset, stamp, True, waits, end, several)

    def _write(self, segment: Segment, pieces: list[memoryview], size_bytes: int, position: int) -> None:
        storage = self.storage
        try:
            if len(pieces) == 1:
                written = storage.pwrite(segment.file, pieces[0], position)
            else:
                written = storage.pwritev(segment.file, pieces, position)
            if written != size_bytes:
                # A full disk takes what fits and says so the next time.
                storage.pwrite_all(segment.file, b"".join(pieces)[written:], position + written)
        except OSError as error:
            try:
                # Nothing to take back is the usual case, and a disk that is read-only could not.
                if storage.size(segment.file) != position:
                    storage.truncate(segment.file, position)
            except OSError as worse:
                self.failed = f"a failed write could not be taken back: {worse}"
            raise StorageError(f"{self.partition}: cannot write {segment.path}: {with_remedy(error)}") from error

    def _must_roll(self, found: list[BatchFacts], size_bytes: int, next_offset: int, now_ms: int) -> bool:
        """Whether these batches, which end at `next_offset`, belong into a new segment."""
        segment = self._active
        position = segment.size_bytes
        if not position:
            return False
        config = self.config
        end = position + size_bytes
        if end > config.segment_bytes or end > POSITION_MAX:
            return True
        if next_offset - 1 - segment.base_offset > RELATIVE_OFFSET_MAX:
            return True
        max_timestamp = found[0].max_timestamp if len(found) == 1 else max(facts.max_timestamp for facts in found)
        if segment.rolling_timestamp >= 0 and max_timestamp >= 0:
            waited = max_timestamp - segment.rolling_timestamp
        else:
            waited = now_ms - segment.created_ms
        if waited > config.segment_ms:
            return True
        # Each batch takes one entry at most of either index, and the time index has at most one more than the other.
        index_max = config.index_size_max_bytes
        entries = len(segment.offset_index.offsets) + len(found)
        if 12 * (entries + 1) < index_max:
            return False
        return 8 * entries >= index_max or 12 * (len(segment.time_index.offsets) + len(found)) >= index_max

    # Segments

    def roll(self, now_ms: int) -> Segment:
        """Close the active segment and begin a new one at the log end. An empty one stays. Raises StorageError."""
        old = self._active
        if not old.size_bytes:
            return old
        try:
            old.time_index.maybe_append(old.max_timestamp, old.max_timestamp_offset - old.base_offset)
            segment = Segment.create(
                self.storage, self.folder, self.next_offset, self.config.index_interval_bytes, now_ms
            )
        except OSError as error:
            raise StorageError(f"{self.partition}: cannot begin a new segment: {with_remedy(error)}") from error
        self.segments.append(segment)
        self.bases.append(segment.base_offset)
        self._active = segment
        self._unsynced.append(old)
        self._folder_changed = True
        self._point_due = True
        self.recent[self.next_offset] = (segment, 0)
        return segment

    def maybe_roll(self, now_ms: int) -> bool:
        """Roll when the active segment is older than segment.ms by the broker's clock."""
        active = self._active
        if not active.size_bytes or now_ms - active.created_ms <= self.config.segment_ms:
            return False
        self.roll(now_ms)
        return True

    def suspect(self, offset: int) -> None:
        """Somebody says that the record there is damaged: its segment is to be looked at. Raises OffsetOutOfRange."""
        self.suspects.add(self.segment_for(offset).base_offset)

    def segment_for(self, offset: int) -> SegmentInfo:
        """The segment that has `offset`, or would. Raises OffsetOutOfRange."""
        if not self.log_start_offset <= offset <= self.next_offset:
            raise self._out_of_range(offset)
        number = bisect_right(self.bases, offset) - 1
        segment = self.segments[number]
        following = self.bases[number + 1] if number + 1 < len(self.bases) else None
        return SegmentInfo(segment.base_offset, segment.path, segment.size_bytes, following is not None, following)

    def _out_of_range(self, offset: int) -> OffsetOutOfRange:
        return OffsetOutOfRange(
            f"{self.partition}: offset {offset} is not in {self.log_start_offset} … {self.next_offset}",
            earliest=self.log_start_offset,
            next_offset=self.next_offset,
        )

    def index_used(self, segment: Segment) -> None:
        """Keep the indexes of only a few closed segments in memory."""
        if segment is self._active or segment in self._loaded:
            return
        self._loaded.append(segment)
        if len(self._loaded) > _LOADED_INDEXES_MAX:
            old = self._loaded.popleft()
            if old not in self._unsynced and old is not self._active:
                old.drop_indexes()

    # Read

    def read(
        self, offset: int, max_bytes: int, *, isolation: str = "uncommitted", up_to: str = "high_watermark"
    ) -> LogSlice:
        """Whole batches from the one that has `offset`: at most `max_bytes`, but one batch at least.

        `up_to`: "high_watermark" or, for the log's own use, "log_end". Empty at and past that end. `isolation`
        "committed" ends at the last stable offset. Raises OffsetOutOfRange, StorageError (damaged or failing disk).
        """
        del isolation  # the last stable offset is the high watermark while there are no transactions
        if not self.log_start_offset <= offset <= self.next_offset:
            raise self._out_of_range(offset)
        try:
            return reading.read(self, offset, max_bytes, up_to == "high_watermark")
        except SegmentDamaged as error:
            self.suspects.add(error.base_offset)
            raise
        except OSError as error:
            self.suspect(offset)
            raise StorageError(f"{self.partition}: cannot read at offset {offset}: {error}") from error

    def offset_for_timestamp(self, timestamp_ms: int) -> tuple[int, int] | None:
        """Offset and timestamp of the first shown record with that timestamp or a later one; None: there is none.

        All at once: a loop goes through the same steps by `workers/offset_lookup.py`. Raises StorageError,
        CorruptMessage.
        """
        try:
            return timestamps.find(self, timestamp_ms)
        except OSError as error:
            raise StorageError(f"{self.partition}: cannot look up timestamp {timestamp_ms}: {error}") from error

    def epoch_end_offset(self, epoch: int) -> tuple[int, int]:
        """The largest leader epoch ≤ `epoch` and the offset after its records; (-1, -1) when not known."""
        return self.epochs.end_offset(epoch, self.next_offset)

    # Flush

    def begin_flush(self, *, force_recovery_point: bool = False) -> Flush | None:
        """Take everything that is not synced into a Flush for an I/O thread. None: nothing to do, or one is out."""
        if self._flush is not None or self.failed is not None:
            return None
        due = force_recovery_point or self._point_is_due()
        if not due and not self.unsynced:
            return None
        active = self._active
        files = [segment.file for segment in self._unsynced]
        files.append(active.file)
        flush = Flush(self.storage, self.folder, files, self.next_offset, self._folder_changed)
        active.started_bytes = active.size_bytes
        flush.reservation = Reservation.ahead_of(
            active.file, active.size_bytes, active.reserved_end, self.config.segment_bytes
        )
        if flush.reservation is not None:
            active.reserved_end = flush.reservation.end
        if due:
            for segment in (*self._unsynced, active):
                flush.index_writes += segment.index_writes()
            flush.snapshot = self.producers.snapshot()
            flush.recovery_point = self.recovery_point()
            kept = names.numbered(self.folder, self.next_offset, names.SNAPSHOT)
            flush.stale = [path for path in self._snapshots[:-1] if path != kept]
            self._snapshots = [path for path in self._snapshots[-1:] if path != kept] + [kept]
            self._point_bytes = self._point_batches = 0
            self._point_due = False
            for segment in self._unsynced:
                if segment.reserved_end:
                    flush.ended.append((segment.file, segment.size_bytes))
                self.index_used(segment)
            self._unsynced = []
        self._folder_changed = False
        self._flush = flush
        return flush

    def recovery_point(self) -> RecoveryPoint:
        """The log end as a recovery point."""
        active = self._active
        return RecoveryPoint(
            self.next_offset,
            active.base_offset,
            active.size_bytes,
            self.log_start_offset,
            active.max_timestamp,
            active.max_timestamp_offset,
        )

    def finish_flush(self, flush: Flush, now_ms: int) -> None:
        """On the loop, after `run`: the high watermark moves past what is now on the disk."""
        del now_ms
        assert flush is self._flush, "one flush at a time"
        self._flush = None
        if self.failed is None:
            if flush.point_error is not None:
                self._active.rewrite_indexes()  # what was written of them is not known
            elif flush.recovery_point is not None:
                self.durable_log_start_offset = flush.recovery_point.log_start_offset
            self.synced_up_to(flush.end_offset)

    def want_recovery_point(self) -> None:
        """The next flush is to move it: one has found no space for it."""
        self._point_due = True

    def synced_up_to(self, offset: int) -> None:
        """Everything before `offset` is on the disk."""
        self.synced_offset = max(self.synced_offset, offset)
        waiting = self._waiting
        while waiting and waiting[0].offset < offset:
            waiting.popleft()

    def fail_flush(self, flush: Flush, error: BaseException) -> None:
        """On the loop, after `run` raised: nothing more is acknowledged until the log was opened anew without trusting
        the page cache.
        """
        assert flush is self._flush, "one flush at a time"
        self._flush = None
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """As `fail_flush`, after `WriteBack.run` raised."""
        self.failed = f"the disk failed to sync ({with_remedy(error)})"

    @property
    def write_back_due(self) -> bool:
        """Whether so much was appended that the disk should begin with it."""
        active = self._active
        return active.size_bytes - active.started_bytes >= STEP_BYTES and self.failed is None

    def begin_write_back(self) -> WriteBack | None:
        """Take what was appended since the last one, or the last flush, for an I/O thread. None: not enough."""
        if not self.write_back_due:
            return None
        active = self._active
        position, active.started_bytes = active.started_bytes, active.size_bytes
        return WriteBack(self.storage, self.folder, active.file, position, active.size_bytes - position)

    # Retention

    def retain(self, now_ms: int) -> list[SegmentInfo]:
        """Take out the segments that retention.ms and retention.bytes no longer keep, and those before the log start
        offset. Returns them; their files wait for `begin_removal`. Raises StorageError.
        """
        return retention.retain(self, now_ms)

    def drop_deleted(self) -> list[SegmentInfo]:
        """As `retain`, but only the segments that lie before the log start offset."""
        return retention.drop_deleted(self)

    def begin_removal(self) -> Removal | None:
        """The disk's part of what was taken out, for an I/O thread. None: there is none, or one is out."""
        if not self.to_remove or self._removal is not None:
            return None
        self._removal = Removal(self, self.to_remove)
        self.to_remove = []
        return self._removal

    def finish_removal(self, removal: Removal, now_ms: int) -> None:
        """On the loop, after `run`, also after one that raised: what it has left is for the next one."""
        assert removal is self._removal, "one removal at a time"
        self._removal = None
        self.to_remove = [*removal.segments, *self.to_remove]
        self.delete_later(removal.gone, now_ms)

    def delete_later(self, gone: list[tuple[Path, weakref.ref[File] | None]], now_ms: int) -> None:
        """Files that were taken out of the log and renamed: their space is freed after file.delete.delay.ms."""
        due_ms = now_ms + self.config.delete_delay_ms
        self.deletions += [Deletion(due_ms, path, held) for path, held in gone]

    def delete_records(self, before_offset: int) -> int:
        """Begin the log at that offset, for every reader from now on; returns the log start offset.

        Also after a crash, once `durable_log_start_offset` has reached it: the next flush carries it to the disk.
        `drop_deleted` takes out the segments that lie before it. Raises OffsetOutOfRange past the high watermark.
        """
        if not 0 <= before_offset <= self.high_watermark:
            raise self._out_of_range(before_offset)
        if before_offset > self.log_start_offset:
            self.log_start_offset = before_offset
            self.epochs.cut_start(before_offset)
            self._point_due = True
        return self.log_start_offset

    def due_deletions(self, now_ms: int) -> list[Deletion]:
        """Take out the files whose delay is over: `freeing.free_file` is for each, in an I/O thread."""
        return retention.due_deletions(self, now_ms)

    def drop_oldest(self, count: int) -> list[Segment]:
        """Forget the oldest `count` segments (never all); the log start offset moves up."""
        dropped = self.segments[:count]
        del self.segments[:count], self.bases[:count]
        self._forget(dropped)
        self.size_bytes -= sum(segment.size_bytes for segment in dropped)
        self.log_start_offset = max(self.log_start_offset, self.bases[0])
        self.epochs.cut_start(self.log_start_offset)
        self._point_due = True  # else a crash leaves a point that asks for segments which are gone
        return dropped

    def put_in_place_of(self, gone: list[Segment], made: Segment) -> None:
        """A compacted segment has taken the names of these, which follow one another and are closed."""
        at = self.segments.index(gone[0])
        end = at + len(gone)
        self.segments[at:end], self.bases[at:end] = [made], [made.base_offset]
        self._forget(gone)
        self.size_bytes += made.size_bytes - sum(segment.size_bytes for segment in gone)

    def _forget(self, segments: list[Segment]) -> None:
        gone = set(map(id, segments))
        self.recent = {at: found for at, found in self.recent.items() if id(found[0]) not in gone}
        self._loaded = deque(segment for segment in self._loaded if id(segment) not in gone)
        self._unsynced = [segment for segment in self._unsynced if id(segment) not in gone]
        self._folder_changed = True

    def configure(self, config: LogConfig) -> None:
        """Other settings, from now on."""
        self.config = config
        self.policy = policy_of(config)
        for segment in self.segments:
            segment.index_interval_bytes = config.index_interval_bytes

    @property
    def compactable(self) -> list[Segment]:
        """The closed segments that are on the disk with their indexes: oldest first."""
        if self._flush is not None:
            return []
        unsynced = set(map(id, self._unsynced))
        synced = min(self.high_watermark, self.synced_offset)
        return [
            segment
            for segment, end in zip(self.segments, self.bases[1:], strict=False)
            if end <= synced and id(segment) not in unsynced
        ]

    # End

    def close(self, now_ms: int) -> None:
        """Sync, write indexes, snapshot and the clean-shutdown mark, and let go of the folder. Raises StorageError;
        the folder is let go even then. A failed log is left as after a crash.
        """
        del now_ms
        if self.lock is None:
            return
        try:
            if self.failed is None:
                opening.close_clean(self)
        except OSError as error:
            raise StorageError(f"{self.partition}: cannot close cleanly: {error}") from error
        finally:
            self.abandon()

    def let_go(self) -> None:
        """As `abandon`, and hold no file any longer, whoever still reads one: their space is wanted."""
        self.abandon()
        for segment in (*self.segments, *self.to_remove):
            segment.let_go()
        for deletion in self.deletions:
            file = None if deletion.held is None else deletion.held()
            if file is not None:
                file.let_go()

    def abandon(self) -> None:
        """Let go of the folder as a crash would: nothing is written."""
        if self.lock is not None:
            self.lock.close()
            self.lock = None
        self.failed = self.failed or "the log is closed"

    @staticmethod
    def delete(folder: Path, storage: Storage = DISK) -> Path:
        """Take a closed partition away: its folder is renamed, durably. Returns the new name, for `purge`."""
        return retention.delete_folder(folder, storage)

    @staticmethod
    def purge(folder: Path, storage: Storage = DISK) -> None:
        """Free a folder that `delete` renamed, with everything in it. Going on after a crash is fine."""
        free_at_once(free_folder(storage, folder), folder)
