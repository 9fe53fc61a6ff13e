"""Opening a partition's folder: what is there, what of it is good, and what is done about the rest.

Nothing is ever deleted for being damaged. Everything past the recovery point is on the disk when `recover` returns:
else a batch that is sent again would be taken for a duplicate and acknowledged though it never got there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from kbroker.config import LogConfig
from kbroker.log import names
from kbroker.log.checkpoint import RecoveryPoint
from kbroker.log.epochs import LeaderEpochs
from kbroker.log.positions import RecoveryReport
from kbroker.log.producers import ProducerStates
from kbroker.log.reservation import give_back
from kbroker.log.scan import Scan
from kbroker.log.segment import Segment
from kbroker.log.storage import Storage
from kbroker.records.batch import ATTRIBUTES_POSITION, HEADER_BYTES, LENGTH_END, MAGIC, BatchFacts, read_header

_EPOCH_STEP_MAX = 65_536
"""The CRC does not cover the leader epoch: a larger step than this is taken for damage, not for an epoch."""


@dataclass(slots=True)
class Recovered:
    """What a log starts from. `segments` is never empty; the last one takes the next append."""

    segments: list[Segment]
    next_offset: int
    log_start_offset: int
    producers: ProducerStates
    epochs: LeaderEpochs
    report: RecoveryReport
    deleted: list[Path]


class _Part(NamedTuple):
    """A stretch of good batches in a damaged file."""

    start: int
    end: int
    base_offset: int


class _Recovery:
    def __init__(
        self, storage: Storage, folder: Path, config: LogConfig, leader_epoch: int, now_ms: int, distrust_cache: bool
    ) -> None:
        self.storage = storage
        self.folder = folder
        self.config = config
        self.now_ms = now_ms
        self.report = RecoveryReport()
        self.listing = set(storage.list(folder))
        self.distrust_cache = distrust_cache or names.FLUSH_FAILED in self.listing
        self.producers = ProducerStates()
        self.epoch_max = leader_epoch
        epochs = self._read(names.LEADER_EPOCHS)
        self.epochs_known = epochs is not None and LeaderEpochs.parse(epochs) is not None
        self.epochs = (LeaderEpochs.parse(epochs) if epochs is not None else None) or LeaderEpochs()

    def _read(self, name: str) -> bytes | None:
        return self.storage.read_file(self.folder / name) if name in self.listing else None

    def _point(self, name: str) -> RecoveryPoint | None:
        data = self._read(name)
        return None if data is None else RecoveryPoint.parse(data)

    def _snapshot(self, offset: int) -> ProducerStates | None:
        data = self._read(names.numbered(self.folder, offset, names.SNAPSHOT).name)
        return None if data is None else ProducerStates.parse(data)

    def _segment(self, base_offset: int) -> Segment:
        return Segment(self.storage, self.folder, base_offset, self.config.index_interval_bytes, self.now_ms)

    def run(self) -> Recovered:
        self._finish_swaps()
        deleted = self._tidy()
        bases = sorted(p[0] for p in map(names.parse, self.listing) if p is not None and p[1] == names.LOG)
        mark = self._point(names.CLEAN_SHUTDOWN)
        point = self._point(names.RECOVERY_POINT)
        start_offset = max((p.log_start_offset for p in (mark, point) if p is not None), default=0)
        segments = [self._segment(base) for base in bases]
        producers = None
        if segments and mark is not None and self._fits_mark(segments[-1], mark):
            producers = self._snapshot(mark.offset)
        if producers is not None and mark is not None:
            self.report.clean = True
            self.producers = producers
            next_offset = mark.offset
            segments[-1].next_offset = next_offset
        else:
            known_end = max(
                mark.offset if mark is not None else 0,
                point.offset if point is not None else 0,
                self.epochs.entries[-1][1] if self.epochs.entries else 0,
            )
            segments, next_offset = self._scan_all(segments, point, known_end)
        self._check_indexes(segments)
        self.producers.restored(self.now_ms)
        if not self.report.clean:
            self._make_durable(segments, next_offset, max(start_offset, segments[0].base_offset))
        for segment in segments[:-1]:
            segment.drop_indexes()
        return Recovered(
            segments,
            next_offset,
            min(next_offset, max(start_offset, segments[0].base_offset)),
            self.producers,
            self.epochs,
            self.report,
            deleted,
        )

    def _finish_swaps(self) -> None:
        """Put compacted segments in their places, where a crash has left that undone."""
        for name in sorted(self.listing):
            parsed = names.parse(name.removesuffix(names.SWAP)) if name.endswith(names.LOG + names.SWAP) else None
            if parsed is None:
                continue
            base_offset = parsed[0]
            bases = sorted(p[0] for p in map(names.parse, self.listing) if p is not None and p[1] == names.LOG)
            file = self.storage.open(self.folder / name)
            scan = Scan(self.storage, file, 0, self.storage.size(file), base_offset)
            for _ in scan:
                pass
            file.close()
            following = next((base for base in bases if base >= scan.next_offset), scan.next_offset)
            if base_offset in bases and not (scan.done and following == scan.next_offset):
                continue  # not what it should be; the segments that it was made from are still there
            for base in bases:
                if base_offset <= base < scan.next_offset:
                    for suffix in (*names.INDEXES, names.LOG):
                        self._remove(names.numbered(self.folder, base, suffix).name)
            self.storage.rename(self.folder / name, names.numbered(self.folder, base_offset, names.LOG))
            self.listing.remove(name)
            self.listing.add(name.removesuffix(names.SWAP))
            self.storage.fsync_folder(self.folder)

    def _remove(self, name: str) -> None:
        if name in self.listing:
            self.storage.unlink(self.folder / name)
            self.listing.remove(name)

    def _tidy(self) -> list[Path]:
        """Remove what an interrupted change left, and indexes without a log. Returns files that wait for deletion."""
        logs = {p[0] for p in map(names.parse, self.listing) if p is not None and p[1] == names.LOG}
        deleted = []
        for name in sorted(self.listing):
            parsed = names.parse(name)
            orphan = parsed is not None and parsed[1] in names.INDEXES and parsed[0] not in logs
            if orphan or name.endswith((names.TEMPORARY, names.CLEANED, names.SWAP)):
                self.storage.unlink(self.folder / name)
                self.listing.discard(name)
            elif name.endswith(names.DELETED):
                deleted.append(self.folder / name)
        return deleted

    def _fits_mark(self, last: Segment, mark: RecoveryPoint) -> bool:
        return (
            not self.distrust_cache
            and self.epochs_known
            and mark.segment_base == last.base_offset
            and mark.position == last.size_bytes
            and mark.offset >= last.base_offset
        )

    def _scan_all(
        self, segments: list[Segment], point: RecoveryPoint | None, known_end: int
    ) -> tuple[list[Segment], int]:
        """Check everything past the recovery point, or everything when there is none to trust."""
        number, scan = self._start(segments, point)
        kept = segments[:number]
        next_offset = segments[number].base_offset if segments else known_end
        for segment in segments[number:]:
            if segment.base_offset < next_offset and segment is not segments[number]:
                self._overlap(segment, next_offset)
                continue
            if scan is None:
                scan = self._fresh_scan(segment)
            self._take(segment, scan)
            last = segment is segments[-1]
            if scan.done and not self.distrust_cache:
                kept.append(segment)
                next_offset = scan.next_offset
            elif last and not scan.done and self._torn(segment, scan) and not self.distrust_cache:
                self._cut(segment, scan)
                kept.append(segment)
                next_offset = scan.next_offset
            else:
                replaced, next_offset = self._replace(segment, scan, last)
                kept += replaced
            scan = None
        next_offset = max(next_offset, known_end)
        # Offsets are never used twice, and a segment has no gaps: behind lost offsets a new segment begins.
        if not kept or kept[-1].next_offset != next_offset:
            if kept and not kept[-1].size_bytes:
                self._discard_empty(kept.pop())
            kept.append(
                Segment.create(self.storage, self.folder, next_offset, self.config.index_interval_bytes, self.now_ms)
            )
        return kept, next_offset

    def _start(self, segments: list[Segment], point: RecoveryPoint | None) -> tuple[int, Scan | None]:
        """Number of the first segment to scan, and the scan of its part past the recovery point (None: all of it)."""
        if point is None or not self.epochs_known:
            return 0, None
        number = next((n for n, s in enumerate(segments) if s.base_offset == point.segment_base), None)
        if number is None or point.position > segments[number].size_bytes:
            return 0, None
        producers = self._snapshot(point.offset)
        if producers is None:
            return 0, None
        self.producers = producers
        segment = segments[number]
        if segment.load_indexes():
            self.report.rebuilt_indexes += 1
        segment.offset_index.cut(point.position)
        segment.time_index.cut(point.offset - segment.base_offset)
        positions = segment.offset_index.positions
        segment.bytes_since_index = point.position - (positions[-1] if positions else 0)
        segment.max_timestamp = point.max_timestamp
        segment.max_timestamp_offset = point.max_timestamp_offset
        segment.next_offset = point.offset
        return number, Scan(self.storage, segment.file, point.position, segment.size_bytes, point.offset)

    def _fresh_scan(self, segment: Segment) -> Scan:
        segment.reset_indexes()
        segment.max_timestamp = segment.max_timestamp_offset = -1
        return Scan(self.storage, segment.file, 0, segment.size_bytes, segment.base_offset)

    def _take(self, segment: Segment, scan: Scan) -> None:
        """Index the good batches and tell the producers and epochs of them."""
        start = scan.position
        for facts in scan:
            segment.note_batch(
                facts.position, facts.size_bytes, facts.base_offset + facts.last_offset_delta, facts.max_timestamp
            )
            self._replay(facts)
        self.report.scanned_bytes += scan.position - start

    def _replay(self, facts: BatchFacts) -> None:
        self.report.scanned_batches += 1
        if facts.producer_id >= 0:
            self.producers.add(facts, facts.base_offset, self.now_ms)
        if self.epochs.latest < facts.leader_epoch <= max(self.epochs.latest, self.epoch_max) + _EPOCH_STEP_MAX:
            self.epochs.assign(facts.leader_epoch, facts.base_offset)

    def _torn(self, segment: Segment, scan: Scan) -> bool:
        """Whether what follows the good batches is an unfinished write, which nobody ever saw."""
        left = scan.end - scan.position
        probe = Scan(self.storage, segment.file, scan.position, scan.end, scan.next_offset)
        if probe.seek_good():
            return False
        head = self.storage.pread_all(segment.file, min(left, HEADER_BYTES), scan.position)
        if left < HEADER_BYTES:
            return True
        header = read_header(head)
        if header.magic == MAGIC and header.length >= HEADER_BYTES - LENGTH_END:
            return header.size_bytes > left and not self._whole_but_for_length(segment, scan)
        return self._zeros(segment, scan.position, scan.end)

    def _whole_but_for_length(self, segment: Segment, scan: Scan) -> bool:
        """Whether the bytes up to the end are a finished batch whose length field was damaged."""
        data = memoryview(self.storage.pread_all(segment.file, scan.end - scan.position, scan.position))
        return crc32c(data[ATTRIBUTES_POSITION:]) == read_header(data).crc

    def _zeros(self, segment: Segment, start: int, end: int) -> bool:
        step = 1 << 20
        return all(
            not any(self.storage.pread_all(segment.file, min(step, end - position), position))
            for position in range(start, end, step)
        )

    def _cut(self, segment: Segment, scan: Scan) -> None:
        self.report.truncated_bytes += scan.end - scan.position
        self.storage.truncate(segment.file, scan.position)
        segment.size_bytes = scan.position

    def _replace(self, segment: Segment, scan: Scan, last: bool) -> tuple[list[Segment], int]:
        """Put new files with the good batches in the place of a damaged one, which is kept under another name.

        Readers that have the old file keep it as it was.
        """
        parts, lost, next_offset = self._good_parts(segment, scan, last)
        if lost:
            aside = names.aside(segment.path, self.listing)
            self.storage.link(segment.path, aside)
            self.listing.add(aside.name)
            ranges = ", ".join(f"{first} to {end - 1}" for first, end in lost)
            self.report.set_aside.append(
                f"{segment.path.name} is damaged: kept as {aside.name}; lost offsets: {ranges}"
            )
        replaced = []
        for part in reversed(parts):
            replaced.append(self._write_part(segment, part))
        if all(part.base_offset != segment.base_offset for part in parts):
            self._discard(segment)
        self.storage.fsync_folder(self.folder)
        return replaced[::-1], next_offset

    def _good_parts(self, segment: Segment, scan: Scan, last: bool) -> tuple[list[_Part], list[tuple[int, int]], int]:
        """The good stretches of a file, the offsets that are lost between and behind them, and the next offset."""
        parts = []
        lost = []
        if scan.position or not segment.size_bytes:
            parts.append(_Part(0, scan.position, segment.base_offset))
        while not scan.done:
            bad_position, bad_offset = scan.position, scan.next_offset
            if not scan.seek_good():
                if last and self.distrust_cache:
                    # Nothing behind the last sync was acknowledged: an unfinished write, and old bytes from the disk.
                    self.report.truncated_bytes += scan.end - bad_position
                    break
                end = self._beyond(segment, bad_position, bad_offset)
                lost.append((bad_offset, end))
                return parts, lost, end
            lost.append((bad_offset, scan.next_offset))
            start, base_offset = scan.position, scan.next_offset
            for facts in scan:
                self._replay(facts)
            self.report.scanned_bytes += scan.position - start
            parts.append(_Part(start, scan.position, base_offset))
        return parts, lost, scan.next_offset

    def _beyond(self, segment: Segment, position: int, offset: int) -> int:
        """An offset that nothing in a damaged tail can have had: from its header, else as many records as fit in."""
        left = segment.size_bytes - position
        data = self.storage.pread_all(segment.file, min(left, HEADER_BYTES), position)
        if len(data) == HEADER_BYTES:
            header = read_header(data)
            if header.magic == MAGIC and header.record_count == header.last_offset_delta + 1 > 0:
                behind = max(0, left - header.size_bytes) if header.length > 0 else left
                return offset + header.record_count + behind // 7
        return offset + left // 7 + 1  # a record takes seven bytes at least

    def _write_part(self, segment: Segment, part: _Part) -> Segment:
        path = names.numbered(self.folder, part.base_offset, names.LOG)
        temporary = path.with_name(path.name + names.TEMPORARY)
        target = self.storage.open(temporary, create=True)
        self.storage.truncate(target, 0)
        self.storage.copy(segment.file, target, part.end - part.start, source_position=part.start)
        self.storage.fdatasync(target)
        target.close()
        self.storage.rename(temporary, path)
        made = self._segment(part.base_offset)
        made.rebuild_indexes()
        self.report.rebuilt_indexes += 1
        return made

    def _overlap(self, segment: Segment, next_offset: int) -> None:
        aside = names.aside(segment.path, self.listing)
        self.storage.rename(segment.path, aside)
        self.listing.add(aside.name)
        self.report.set_aside.append(
            f"{segment.path.name} begins below offset {next_offset}, where the segment before it ends: "
            f"kept as {aside.name}"
        )
        self._unlink_indexes(segment)

    def _discard(self, segment: Segment) -> None:
        """Take away a name whose file is kept aside."""
        self.storage.unlink(segment.path)
        self._unlink_indexes(segment)

    def _discard_empty(self, segment: Segment) -> None:
        assert not segment.size_bytes
        self._discard(segment)

    def _unlink_indexes(self, segment: Segment) -> None:
        for suffix in names.INDEXES:
            path = names.numbered(self.folder, segment.base_offset, suffix)
            if self.storage.exists(path):
                self.storage.unlink(path)

    def _check_indexes(self, segments: Iterable[Segment]) -> None:
        """Rebuild missing indexes now; the content is looked at when it is used. The last segment's are loaded."""
        *closed, active = segments
        for segment in closed:
            if segment.indexes_loaded:
                segment.time_index.maybe_append(
                    segment.max_timestamp, segment.max_timestamp_offset - segment.base_offset
                )
                segment.write_indexes()
            elif not self._index_sizes_fit(segment):
                segment.rebuild_indexes()
                self.report.rebuilt_indexes += 1
                segment.drop_indexes()
        if not active.indexes_loaded and active.load_indexes():
            self.report.rebuilt_indexes += 1
        active.write_indexes()

    def _index_sizes_fit(self, segment: Segment) -> bool:
        for suffix, entry_bytes in ((names.INDEX, 8), (names.TIME_INDEX, 12)):
            try:
                size = self.storage.file_size(names.numbered(self.folder, segment.base_offset, suffix))
            except FileNotFoundError:
                return False
            if size % entry_bytes:
                return False
        return True

    def _make_durable(self, segments: list[Segment], next_offset: int, log_start_offset: int) -> None:
        storage = self.storage
        for segment in segments:
            if segment.indexes_loaded:
                give_back(storage, segment.file, segment.size_bytes)
                storage.fdatasync(segment.file)
                storage.fdatasync(segment.offset_index_file)
                storage.fdatasync(segment.time_index_file)
        active = segments[-1]
        storage.replace_file(names.numbered(self.folder, next_offset, names.SNAPSHOT), self.producers.snapshot())
        storage.fsync_folder(self.folder)
        point = RecoveryPoint(
            next_offset,
            active.base_offset,
            active.size_bytes,
            log_start_offset,
            active.max_timestamp,
            active.max_timestamp_offset,
        )
        storage.replace_file(self.folder / names.RECOVERY_POINT, point.encode())


def recover(
    storage: Storage, folder: Path, config: LogConfig, leader_epoch: int, now_ms: int, distrust_cache: bool
) -> Recovered:
    """Bring the folder into order. `distrust_cache`: an fsync failed before, so what the page cache shows past the
    recovery point need not be on the disk; it is copied into new files. Raises OSError, StorageError.
    """
    return _Recovery(storage, folder, config, leader_epoch, now_ms, distrust_cache).run()
