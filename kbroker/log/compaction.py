"""Compaction: of the records of one key only the last stays, at the offset that it had.

Closed segments are read twice. First the dirty ones, those that were never compacted: which key has its last record
where. Then all of them are copied without the records that are followed by another of their key. A copy is written
beside the segments that it replaces (`.cleaned`), synced, declared whole by a rename (`.swap`), and then put in their
place; recovery finishes what a crash leaves of that. Files that readers may have open are never touched.

A tombstone (a record without a value) goes as well, once it has lain among compacted segments for
delete.retention.ms: whoever has read an older value meanwhile has had that time to learn that it is gone.

A segment has no gaps, here neither: a batch says the offsets that it covers, and where none of its records are left
the next one covers them too, or an empty batch does. Batches of idempotent producers keep their bounds, because
their sequence numbers are counted from these; an empty one stays while it is the last that its producer has sent.
Transactional batches are copied as they are.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from crc32c import crc32c

from kbroker.errors import CorruptMessage, MessageTooLarge, StorageError
from kbroker.log import names, retention
from kbroker.log.index import RELATIVE_OFFSET_MAX
from kbroker.log.segment import Segment
from kbroker.log.storage import File
from kbroker.log.write_back import STEP_BYTES
from kbroker.records.batch import (
    CONTROL,
    EXPANDED_BYTES_MAX,
    HEADER_BYTES,
    LOG_APPEND_TIME,
    TRANSACTIONAL,
    Header,
    read_header,
)
from kbroker.records.codec import RecordTuple, decode_slices, iter_batches, rewritten_batch

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog

_READ_BYTES = 64 << 10
"""Between two pieces of this size others have a turn."""
_MERGED_BYTES = 256 << 10
"""Small batches are written together up to here."""
_DIGEST_BYTES = 16
_CLEANINGS_APART = 16
"""The time of a cleaning is remembered to a sixteenth of delete.retention.ms."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When and how a log is compacted. Names are those of Kafka's settings."""

    min_cleanable_dirty_ratio: float = 0.5
    """Compacted when of all closed segments more than this, by size, was never compacted; below 0: always."""
    delete_retention_ms: int = 86_400_000
    min_compaction_lag_ms: int = 0
    """A segment with a younger record stays as it is, and those after it."""
    max_compaction_lag_ms: int = 2**63 - 1
    """Compacted when a segment that never was is this old, whatever the ratio."""
    keys_max: int = 500_000
    """Keys that are held in memory at once, some 200 bytes each; where there are more, fewer segments are cleaned."""


@dataclass(slots=True)
class Cleanings:
    """Up to which offset the log was compacted, and when: the compaction checkpoint."""

    entries: list[tuple[int, int]]  # offset, ms since 1970; both rising

    @property
    def first_dirty_offset(self) -> int:
        """Before it no key stands twice."""
        return self.entries[-1][0] if self.entries else 0

    def tombstones_until(self, now_ms: int, delete_retention_ms: int) -> int:
        """Tombstones before this offset have been there for long enough."""
        due = [offset for offset, cleaned_ms in self.entries if cleaned_ms <= now_ms - delete_retention_ms]
        return due[-1] if due else 0

    def add(self, offset: int, now_ms: int, delete_retention_ms: int) -> Cleanings:
        """With one more cleaning. What is no longer told apart goes: at most a few dozen are kept."""
        kept = self.entries
        due = [entry for entry in kept if entry[1] <= now_ms - delete_retention_ms]
        kept = [*due[-1:], *kept[len(due) :]]
        if len(kept) > 1 and kept[-1][1] - kept[-2][1] < delete_retention_ms // _CLEANINGS_APART:
            kept = kept[:-1]
        return Cleanings([*kept, (offset, now_ms)])

    def encode(self) -> bytes:
        text = "version=1\n" + "".join(f"{offset} {cleaned_ms}\n" for offset, cleaned_ms in self.entries)
        return f"{text}crc={crc32c(text.encode()):08x}\n".encode()

    @classmethod
    def parse(cls, data: bytes) -> Cleanings:
        """From a file's bytes; none when it is damaged, and the log is compacted from its beginning."""
        text, mark, crc = data.rpartition(b"crc=")
        try:
            if not mark or int(crc, 16) != crc32c(text):
                return cls([])
            version, *lines = text.decode("ascii").splitlines()
            entries = [(int(offset), int(cleaned_ms)) for offset, cleaned_ms in (line.split(" ") for line in lines)]
        except ValueError:
            return cls([])
        return cls(entries if version == "version=1" else [])


def read_cleanings(log: PartitionLog) -> Cleanings:
    """The log's compaction checkpoint. In an I/O thread. Raises StorageError."""
    path = log.folder / names.COMPACTION_CHECKPOINT
    try:
        return Cleanings.parse(log.storage.read_file(path)) if log.storage.exists(path) else Cleanings([])
    except OSError as error:
        raise StorageError(f"{log.partition}: cannot read {path}: {error}") from error


def begin(log: PartitionLog, cleanings: Cleanings, rules: Rules, now_ms: int) -> Compaction | None:
    """A compaction of what there is now; None when it is not worth the while."""
    segments = log.compactable
    if rules.min_compaction_lag_ms:  # without a lag a clock that was set back holds nothing up
        young_ms = now_ms - rules.min_compaction_lag_ms
        segments = list(takewhile(lambda segment: segment.max_timestamp <= young_ms, segments))
    if not segments or log.failed is not None:
        return None
    ends = log.bases[1:]
    dirty = [s for s, end in zip(segments, ends, strict=False) if end > cleanings.first_dirty_offset]
    total_bytes = sum(segment.size_bytes for segment in segments)
    dirty_bytes = sum(segment.size_bytes for segment in dirty)
    is_late = bool(dirty) and dirty[0].created_ms <= now_ms - rules.max_compaction_lag_ms
    # As in Kafka what equals the ratio is not enough: with 0 whatever is dirty is compacted, but not what is clean.
    if not total_bytes or not (is_late or dirty_bytes / total_bytes > rules.min_cleanable_dirty_ratio):
        return None
    return Compaction(log, segments, cleanings, rules, now_ms)


class _Source:
    """A segment that is to be replaced. Its file stays open, whatever retention does meanwhile."""

    def __init__(self, segment: Segment, end_offset: int) -> None:
        self.segment = segment
        self.base_offset = segment.base_offset
        self.end_offset = end_offset
        self.size_bytes = segment.size_bytes
        self.file = segment.file


class _Group:
    """Segments that follow one another and become one."""

    def __init__(self, sources: list[_Source]) -> None:
        self.sources = sources
        self.base_offset = sources[0].base_offset
        self.end_offset = sources[-1].end_offset
        self.timestamps = (-1, -1, -1)
        """Of what was written: the largest with its offset, and the first batch's."""

    def is_in(self, segments: set[int]) -> bool:
        """Whether all of them are among segments with these identities."""
        return all(id(source.segment) in segments for source in self.sources)


class Compaction:
    """One compaction: begun on the loop's thread, `run` on an I/O thread, then put in place by `Placing`."""

    def __init__(
        self, log: PartitionLog, segments: list[Segment], cleanings: Cleanings, rules: Rules, now_ms: int
    ) -> None:
        self._storage = log.storage
        self._folder = log.folder
        self._partition = log.partition
        self._segment_bytes = log.config.segment_bytes
        self._index_interval_bytes = log.config.index_interval_bytes
        self._last_batches = log.producers.last_batches()
        self._sources = [_Source(segment, end) for segment, end in zip(segments, log.bases[1:], strict=False)]
        self._cleanings = cleanings
        self._rules = rules
        self._now_ms = now_ms
        self._made: list[_Group] = []
        self._cancelled = False
        self.cleanings = cleanings
        """After `run`: with this one."""
        self.clean_until = cleanings.first_dirty_offset
        """After `run`: the first offset that is dirty now."""

    def cancel(self) -> None:
        """From any thread: `run` ends soon, and nothing comes of it."""
        self._cancelled = True

    # --- on an I/O thread ---

    def run(self, pause: Callable[[], None]) -> None:
        """Write the compacted segments. `pause` is called again and again, for others to have a turn.

        Raises StorageError; the log is as it was then.
        """
        try:
            latest = self._latest(pause)
            for group in self._groups():
                self._clean(group, latest, pause)
            self._write_checkpoint()
        except (OSError, CorruptMessage, MessageTooLarge) as error:
            raise StorageError(f"{self._partition}: cannot be compacted: {error}") from error

    def _latest(self, pause: Callable[[], None]) -> dict[bytes, int]:
        """The offset of each key's last record among the dirty ones, as far as they fit into memory."""
        latest: dict[bytes, int] = {}
        for source in self._sources:
            if source.end_offset <= self._cleanings.first_dirty_offset:
                continue
            for header, batch in self._batches(source, pause):
                if len(latest) >= self._rules.keys_max:
                    return latest
                if header.next_offset > self._cleanings.first_dirty_offset and not _is_transactional(header):
                    for record in _records(batch, pause):
                        if record[3] is not None:
                            latest[_digest(record[3])] = record[0]
                self.clean_until = header.next_offset
        return latest

    def _groups(self) -> Iterator[_Group]:
        sources: list[_Source] = []
        size_bytes = 0
        for source in self._sources:
            if source.base_offset >= self.clean_until:
                break
            too_large = size_bytes + source.size_bytes > self._segment_bytes
            if sources and (too_large or source.end_offset - sources[0].base_offset > RELATIVE_OFFSET_MAX):
                yield _Group(sources)
                sources, size_bytes = [], 0
            sources.append(source)
            size_bytes += source.size_bytes
        if sources:
            yield _Group(sources)

    def _clean(self, group: _Group, latest: dict[bytes, int], pause: Callable[[], None]) -> None:
        storage = self._storage
        segment = Segment(
            storage, self._folder, group.base_offset, self._index_interval_bytes, self._now_ms, names.CLEANED
        )
        storage.truncate(segment.file, 0)
        segment.size_bytes = segment.started_bytes = 0
        segment.reset_indexes()
        tombstones_until = self._cleanings.tombstones_until(self._now_ms, self._rules.delete_retention_ms)
        copy = _Copy(segment, group.base_offset)
        has_dropped = False
        for source in group.sources:
            for header, batch in self._batches(source, pause):
                if _is_transactional(header):
                    copy.whole(header, batch)
                    continue
                records = _records(batch, pause)
                kept = [record for record in records if _stays(record, latest, tombstones_until)]
                has_dropped = has_dropped or len(kept) < len(records)
                if header.producer_id >= 0:
                    if len(kept) == header.record_count:
                        copy.whole(header, batch)
                    elif kept or header.base_offset in self._last_batches:
                        copy.whole(header, rewritten_batch(header, header.next_offset, kept))
                elif len(kept) == header.record_count and header.size_bytes >= _MERGED_BYTES:
                    copy.whole(header, batch)
                else:
                    copy.merge(header, kept, sum(40 + len(r[3] or b"") + len(r[4] or b"") for r in kept))
        copy.end(group.end_offset)
        if len(group.sources) == 1 and not has_dropped:
            for suffix in (names.LOG, names.INDEX, names.TIME_INDEX):
                with contextlib.suppress(FileNotFoundError):
                    storage.unlink(_path(self._folder, group, suffix + names.CLEANED))
            return
        segment.time_index.maybe_append(segment.max_timestamp, segment.max_timestamp_offset - segment.base_offset)
        segment.write_indexes()
        group.timestamps = (segment.max_timestamp, segment.max_timestamp_offset, segment.rolling_timestamp)
        for file in (segment.offset_index_file, segment.time_index_file, segment.file):
            storage.fdatasync(file)
        # The log last: its new name says that all is there.
        for suffix in (names.INDEX, names.TIME_INDEX, names.LOG):
            storage.rename(
                _path(self._folder, group, suffix + names.CLEANED), _path(self._folder, group, suffix + names.SWAP)
            )
        storage.fsync_folder(self._folder)
        self._made.append(group)

    def _batches(self, source: _Source, pause: Callable[[], None]) -> Iterator[tuple[Header, memoryview]]:
        storage = self._storage
        position = 0
        while position < source.size_bytes:
            pause()
            if self._cancelled:
                raise StorageError(f"{self._partition}: the compaction was cancelled")
            data = memoryview(storage.pread_all(source.file, _READ_BYTES, position))
            if len(data) >= HEADER_BYTES and read_header(data).size_bytes > len(data):
                data = memoryview(storage.pread_all(source.file, read_header(data).size_bytes, position))
            read = 0
            for batch in iter_batches(data[: source.size_bytes - position]):
                yield read_header(batch), batch
                read += len(batch)
            if not read:
                raise StorageError(f"{source.segment.path}: no valid batch at position {position}")
            position += read

    def _write_checkpoint(self) -> None:
        # Only now: what is said to be clean is, even if the process ends before it is put in place.
        self.cleanings = self._cleanings.add(self.clean_until, self._now_ms, self._rules.delete_retention_ms)
        self._storage.replace_file(self._folder / names.COMPACTION_CHECKPOINT, self.cleanings.encode())
        self._storage.fsync_folder(self._folder)

    # --- on the loop's thread ---

    def begin_placing(self, log: PartitionLog) -> Placing:
        """After `run`: from now on, until `Placing.finish`, no segment is taken out of the log by anybody else."""
        log.is_placing = True
        there = set(map(id, log.segments))
        return Placing(log, self._made, {id(group) for group in self._made if group.is_in(there)}, self.cleanings)


class Placing:
    """Putting the compacted segments in their places: `run` on an I/O thread, `finish` on the loop's thread."""

    def __init__(self, log: PartitionLog, made: list[_Group], wanted: set[int], cleanings: Cleanings) -> None:
        self._storage = log.storage
        self._folder = log.folder
        self._partition = log.partition
        self._index_interval_bytes = log.config.index_interval_bytes
        self._made = made
        self._wanted = wanted
        self._placed: list[tuple[list[Segment], Segment]] = []
        self._gone: list[tuple[Path, weakref.ref[File] | None]] = []
        self.cleanings = cleanings

    def run(self) -> None:
        """Rename what goes, and what comes. Raises StorageError: recovery finishes what was begun."""
        try:
            for group in self._made:
                if id(group) in self._wanted:
                    self._place(group)
                else:  # retention was faster
                    for suffix in (names.LOG, names.INDEX, names.TIME_INDEX):
                        self._storage.unlink(_path(self._folder, group, suffix + names.SWAP))
        except OSError as error:
            raise StorageError(f"{self._partition}: compacted segments cannot be put in place: {error}") from error

    def _place(self, group: _Group) -> None:
        storage = self._storage
        gone = [source.segment for source in group.sources]
        for segment in gone:
            self._gone += retention.take_out(storage, segment)
        for suffix in (names.LOG, names.INDEX, names.TIME_INDEX):
            storage.rename(_path(self._folder, group, suffix + names.SWAP), _path(self._folder, group, suffix))
        made = Segment(storage, self._folder, group.base_offset, self._index_interval_bytes, gone[-1].created_ms)
        made.max_timestamp, made.max_timestamp_offset, made.rolling_timestamp = group.timestamps
        self._placed.append((gone, made))

    def finish(self, log: PartitionLog, now_ms: int) -> int:
        """Read from the new segments from now on. Returns how many bytes the log is smaller."""
        before = log.size_bytes
        for gone, made in self._placed:
            log.put_in_place_of(gone, made)
        log.delete_later(self._gone, now_ms)
        log.is_placing = False
        return before - log.size_bytes


def _path(folder: Path, group: _Group, suffix: str) -> Path:
    return names.numbered(folder, group.base_offset, suffix)


class _Copy:
    """The new segment: batches are added in the order of their offsets, and cover all of them without a gap."""

    def __init__(self, segment: Segment, next_offset: int) -> None:
        self._segment = segment
        self._next_offset = next_offset
        self._leader_epoch = 0
        self._records: list[RecordTuple] = []
        self._common: Header | None = None  # of the batches whose records are collected
        self._collected_bytes = 0

    def whole(self, header: Header, batch: bytes | bytearray | memoryview) -> None:
        """A batch with bounds of its own."""
        self._cover(header.base_offset)
        self._write(batch)

    def merge(self, header: Header, records: list[RecordTuple], size_bytes: int) -> None:
        """Records of a batch whose bounds do not matter."""
        if not records:
            return
        common = self._common
        if common is None or (
            (header.attributes, header.leader_epoch) != (common.attributes, common.leader_epoch)
            or self._collected_bytes + size_bytes > _MERGED_BYTES
            or (header.attributes & LOG_APPEND_TIME and header.max_timestamp != common.max_timestamp)
        ):
            if common is not None:
                self._cover(header.base_offset)
            self._common = header
            self._collected_bytes = 0
        self._records += records
        self._collected_bytes += size_bytes

    def end(self, next_offset: int) -> None:
        """No more batches; the segment ends before `next_offset`."""
        self._cover(next_offset)

    def _cover(self, end_offset: int) -> None:
        """Write what was collected, or an empty batch, so that the next one may begin at `end_offset`."""
        if self._common is not None:
            header = self._common._replace(base_offset=self._next_offset)
            self._write(rewritten_batch(header, end_offset, self._records))
            self._common, self._records = None, []
        elif self._next_offset < end_offset:
            header = _EMPTY._replace(base_offset=self._next_offset, leader_epoch=self._leader_epoch)
            self._write(rewritten_batch(header, end_offset, ()))

    def _write(self, batch: bytes | bytearray | memoryview) -> None:
        segment, header = self._segment, read_header(batch)
        segment.storage.pwrite_all(segment.file, batch, segment.size_bytes)
        segment.note_batch(segment.size_bytes, len(batch), header.next_offset - 1, header.max_timestamp)
        segment.size_bytes += len(batch)
        unstarted_bytes = segment.size_bytes - segment.started_bytes
        if unstarted_bytes >= STEP_BYTES:
            segment.storage.start_writing(segment.file, segment.started_bytes, unstarted_bytes)
            segment.started_bytes = segment.size_bytes
        self._next_offset, self._leader_epoch = header.next_offset, header.leader_epoch


_EMPTY = Header(0, 0, 0, 2, 0, 0, 0, -1, -1, -1, -1, -1, 0)


def _stays(record: RecordTuple, latest: dict[bytes, int], tombstones_until: int) -> bool:
    offset, key = record[0], record[3]
    if key is None:
        return False  # it can never be told apart; topics that are compacted do not take such records
    if latest.get(_digest(key), -1) > offset:
        return False
    return record[4] is not None or offset >= tombstones_until


def _records(batch: memoryview, pause: Callable[[], None]) -> list[RecordTuple]:
    """A batch's records; others have a turn between some hundred of them. Raises CorruptMessage, MessageTooLarge."""
    records: list[RecordTuple] = []
    for some in decode_slices(batch, max_bytes=EXPANDED_BYTES_MAX):
        if records:
            pause()
        records += some
    return records


def _digest(key: bytes) -> bytes:
    """Keys as they are compared: long ones by a digest."""
    return key if len(key) < _DIGEST_BYTES else blake2b(key, digest_size=_DIGEST_BYTES).digest()


def _is_transactional(header: Header) -> bool:
    return bool(header.attributes & (TRANSACTIONAL | CONTROL))
