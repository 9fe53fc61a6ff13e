"""Opening a partition's folder: what is there, what of it is good, and what is done about the rest.

Nothing is ever deleted for being damaged. Everything past the recovery point is on the disk when `recover` returns:
else a batch that is sent again would be taken for a duplicate and acknowledged though it never got there.

What should be there and is not is told with its offsets, and remembered (`kbroker/log/damage.py`). A segment ends where
the next one begins: where its end is missing, that says how much.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kbroker.config import LogConfig
from kbroker.log import names
from kbroker.log.checkpoint import RecoveryPoint
from kbroker.log.damage import DAMAGED, LOST, UNKNOWN, Damage, KnownDamage, Repair
from kbroker.log.epochs import LeaderEpochs
from kbroker.log.estimate import end_of_tail, is_unfinished
from kbroker.log.known import Known
from kbroker.log.positions import RecoveryReport
from kbroker.log.producers import ProducerStates
from kbroker.log.reservation import give_back
from kbroker.log.scan import OFFSET_MAX, Scan
from kbroker.log.segment import Segment
from kbroker.log.storage import Storage
from kbroker.records.batch import BatchFacts

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
    damage: KnownDamage


class _Part(NamedTuple):
    """A stretch of good batches in a damaged file."""

    start: int
    end: int
    base_offset: int


class _Missing(NamedTuple):
    """Offsets that a file should have and has not. `is_gone`: their bytes are not there, rather than damaged."""

    first_offset: int
    next_offset: int
    is_gone: bool


class _Recovery:
    def __init__(
        self,
        storage: Storage,
        folder: Path,
        config: LogConfig,
        leader_epoch: int,
        now_ms: int,
        distrust_cache: bool,
        had_log: bool,
        repair: Repair,
    ) -> None:
        self.storage = storage
        self.folder = folder
        self.config = config
        self.now_ms = now_ms
        self.report = RecoveryReport()
        self.listing = set(storage.list(folder))
        self.distrust_cache = distrust_cache or names.FLUSH_FAILED in self.listing
        self.had_log = had_log
        self.repair = repair
        self.producers = ProducerStates()
        self.replay_from = 0  # what the producers' snapshot knows already lies before
        self.epoch_max = leader_epoch
        self.known = Known.read(storage, folder, self.listing)
        self.epochs = self.known.epochs
        self.damage = self._read_damage()
        stems = [name.partition(names.LOG)[0] for name in self.listing if name.endswith(names.CORRUPT)]
        self.set_aside_before = [int(stem) for stem in stems if stem.isdigit() and names.DAMAGE not in self.listing]
        # The first version that keeps a list writes one, though it be empty: from then on every gap is told.
        is_written = names.DAMAGE in self.listing or not self.set_aside_before
        self.damage_told = self.damage.encode() if is_written else b""
        if repair:
            self.damage.forget_corrupt()

    def _read_damage(self) -> KnownDamage:
        if names.DAMAGE not in self.listing:
            return KnownDamage()
        path = self.folder / names.DAMAGE
        damage = KnownDamage.parse(self.storage.read_file(path))
        if damage is not None:
            return damage
        aside = names.aside(path, self.listing)
        self.storage.rename(path, aside)
        self.listing.add(aside.name)
        what = f"what was known of damage cannot be read any more, and is kept as {aside.name}"
        self.report.set_aside.append(what)
        return KnownDamage([Damage(LOST, 0, UNKNOWN, what)])

    def _snapshot(self, offset: int) -> ProducerStates | None:
        name = names.numbered(self.folder, offset, names.SNAPSHOT).name
        return ProducerStates.parse(self.storage.read_file(self.folder / name)) if name in self.listing else None

    def _segment(self, base_offset: int) -> Segment:
        segment = Segment(self.storage, self.folder, base_offset, self.config.index_interval_bytes, self.now_ms)
        # When it was made is not known any more; it is as old as its last change at least.
        segment.created_ms = min(self.now_ms, self.storage.changed_ms(segment.file))
        return segment

    def run(self) -> Recovered:
        self._finish_swaps()
        deleted = self._tidy()
        bases = sorted(p[0] for p in map(names.parse, self.listing) if p is not None and p[1] == names.LOG)
        mark = self.known.mark
        segments = [self._segment(base) for base in bases]
        self._look_for_the_first(bases)
        producers = None
        if segments and mark is not None and self._fits_mark(segments[-1], mark):
            producers = self._snapshot(mark.offset)
        if producers is not None and mark is not None:
            self.report.clean = True
            self.producers, self.replay_from = producers, mark.offset
            segments[-1].next_offset = mark.offset
            segments, next_offset = self._check(segments, len(segments), None)
        else:
            segments, next_offset = self._check(segments, *self._start(segments))
        if self.repair:
            self.report.accepted = self.damage.accept(self.repair)
        self.damage.cut_start(self.known.start_offset)
        self._remember_damage()
        self._check_indexes(segments)
        if self.report.clean and mark is not None:
            segments[-1].max_timestamp = mark.max_timestamp
            segments[-1].max_timestamp_offset = mark.max_timestamp_offset
        self.producers.restored(self.now_ms)
        start_offset = max(self.known.start_offset, segments[0].base_offset)
        if not self.report.clean:
            self._make_durable(segments, next_offset, start_offset)
        for segment in segments[:-1]:
            segment.drop_indexes()
        return Recovered(
            segments,
            next_offset,
            min(next_offset, start_offset),
            self.producers,
            self.epochs,
            self.report,
            deleted,
            self.damage,
        )

    # What is missing

    def _miss(self, kind: str, first_offset: int, next_offset: int, what: str) -> None:
        """Take note of offsets that are not there, unless that is known."""
        damage = Damage(kind, first_offset, next_offset, what)
        if self.damage.add(damage):
            self.report.found.append(damage)

    def _miss_gap(self, first_offset: int, next_offset: int, what: str) -> None:
        """Nothing is there of these: lost, if they were on the disk."""
        is_told = self._was_set_aside(first_offset, next_offset)
        is_lost = first_offset < self.known.durable_end and not is_told
        self._miss(LOST if is_lost else DAMAGED, first_offset, next_offset, what)

    def _was_set_aside(self, first_offset: int, next_offset: int) -> bool:
        """Whether a version that kept no list of damage has left the file that had these offsets."""
        return any(base_offset < next_offset and base_offset <= first_offset for base_offset in self.set_aside_before)

    def _look_for_the_first(self, bases: list[int]) -> None:
        """Whether the log still begins where it did, or is there at all."""
        if not bases:
            if self.had_log and self.known.has_nothing and not self.damage.entries:
                self._miss(LOST, 0, UNKNOWN, "its files are gone, and with them whatever they held")
            return
        needed = self.known.first_needed_offset
        if needed is None or bases[0] <= needed:
            return
        for name in self.listing:
            removed = names.parse(name.removesuffix(names.DELETED)) if name.endswith(names.DELETED) else None
            if removed is not None and removed[1] == names.LOG and needed <= removed[0] < bases[0]:
                return  # retention was at it
        self._miss_gap(needed, bases[0], f"the segment that began at offset {needed} or before it is not there")

    def _remember_damage(self) -> None:
        """On the disk before anything that makes the log look whole."""
        data = self.damage.encode()
        if data == self.damage_told:
            return
        self.storage.replace_file(self.folder / names.DAMAGE, data)
        self.storage.fsync_folder(self.folder)
        self.damage_told = data

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
            and not self.repair
            and self.known.epochs_read
            and mark.segment_base == last.base_offset
            and mark.position == last.size_bytes
            and mark.offset >= last.base_offset
        )

    # Checking

    def _start(self, segments: list[Segment]) -> tuple[int, Scan | None]:
        """Number of the first segment to scan, and the scan of its part past the recovery point (None: all of it)."""
        points = [point for point in (self.known.mark, self.known.point) if point is not None]
        for point in points:
            producers = self._snapshot(point.offset)
            if producers is not None:
                self.producers, self.replay_from = producers, point.offset
                break
        else:
            return 0, None
        number = next((n for n, s in enumerate(segments) if s.base_offset == point.segment_base), None)
        if number is None or point.position > segments[number].size_bytes or self.repair or not self.known.epochs_read:
            return 0, None
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

    def _check(self, segments: list[Segment], scanned_from: int, scan: Scan | None) -> tuple[list[Segment], int]:
        """Check everything past the recovery point, or everything when there is none to trust; of the segments before
        it whether each reaches the next one. `scan`: how to begin with the first one that is scanned.
        """
        kept: list[Segment] = []
        next_offset = segments[0].base_offset if segments else 0
        for number, segment in enumerate(segments):
            following = segments[number + 1].base_offset if number + 1 < len(segments) else None
            if segment.base_offset < next_offset:
                next_offset = max(next_offset, self._overlap(segment, next_offset))
                continue
            if number < scanned_from and (following is None or self._reaches(segment, following)):
                kept.append(segment)
                next_offset = segment.next_offset if following is None else following
                continue
            if number < scanned_from:
                self.report.clean = False
            first = scan if number == scanned_from else None
            replaced, next_offset = self._check_segment(segment, first or self._fresh_scan(segment), following)
            kept += replaced
        if segments or self.known.start_offset < self.known.end:
            first_missing = next_offset if segments else self.known.start_offset
            if first_missing < self.known.end:
                self.report.clean = False
                what = "the log ends before them" if segments else "its segments are not there"
                self._miss_gap(first_missing, self.known.end, what)
        next_offset = max(next_offset, self.known.end)
        # Offsets are never used twice, and a segment has no gaps: behind lost offsets a new segment begins.
        if not kept or kept[-1].next_offset != next_offset:
            if kept and not kept[-1].size_bytes:
                self._discard(kept.pop())
            kept.append(
                Segment.create(self.storage, self.folder, next_offset, self.config.index_interval_bytes, self.now_ms)
            )
        return kept, next_offset

    def _reaches(self, segment: Segment, following: int) -> bool:
        """Whether a closed segment's last batches are there, as far as their headers and file names tell."""
        end = segment.end_by_headers()
        return end == following or (end is not None and end < following and self.damage.covers(end, following))

    def _check_segment(self, segment: Segment, scan: Scan, following: int | None) -> tuple[list[Segment], int]:
        """What is to take this segment's place, and the offset behind it. `following`: where the next one begins."""
        self._take(segment, scan)
        if scan.done and not self.distrust_cache and (segment.size_bytes or following is None):
            kept = [segment]
        elif self._is_torn(segment, scan, following):
            self._cut(segment, scan)
            kept = [segment]
        else:
            kept, end = self._replace(segment, scan, following)
            return kept, end
        if following is not None and scan.next_offset < following:
            self._miss_gap(scan.next_offset, following, f"{segment.path.name} ends before them")
        return kept, scan.next_offset

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
        if facts.producer_id >= 0 and facts.base_offset >= self.replay_from:
            self.producers.add(facts, facts.base_offset, self.now_ms)
        # Each epoch was on the disk before its first batch: what the file does not know is damage to a header.
        if self.known.epochs_read:
            return
        if self.epochs.latest < facts.leader_epoch <= max(self.epochs.latest, self.epoch_max) + _EPOCH_STEP_MAX:
            self.epochs.assign(facts.leader_epoch, facts.base_offset)

    def _is_torn(self, segment: Segment, scan: Scan, following: int | None) -> bool:
        """Whether what follows the good batches is an unfinished write, which nobody ever saw."""
        if following is not None or scan.done or self.distrust_cache or scan.next_offset < self.known.durable_end:
            return False
        probe = Scan(self.storage, segment.file, scan.position, scan.end, scan.next_offset)
        return not probe.seek_good() and is_unfinished(self.storage, segment.file, scan.position, scan.end)

    def _cut(self, segment: Segment, scan: Scan) -> None:
        self.report.truncated_bytes += scan.end - scan.position
        self.storage.truncate(segment.file, scan.position)
        segment.size_bytes = scan.position

    # Mending

    def _replace(self, segment: Segment, scan: Scan, following: int | None) -> tuple[list[Segment], int]:
        """Put new files with the good batches in the place of a damaged one, which is kept under another name.

        Readers that have the old file keep it as it was.
        """
        parts, missing, next_offset = self._good_parts(segment, scan, following)
        if missing:
            aside = names.aside(segment.path, self.listing)
            what = f"{segment.path.name} is damaged: kept as {aside.name}"
            self.report.set_aside.append(what)
            for first_offset, end, is_gone in missing:
                if is_gone:
                    self._miss_gap(first_offset, end, what)
                else:
                    self._miss(DAMAGED, first_offset, end, what)
            self._remember_damage()  # before there is a file that an older version may have set aside
            self.storage.link(segment.path, aside)
            self.listing.add(aside.name)
            self.storage.fsync_folder(self.folder)
        replaced = []
        for part in reversed(parts):
            replaced.append(self._write_part(segment, part))
        if all(part.base_offset != segment.base_offset for part in parts):
            self._discard(segment)
        self.storage.fsync_folder(self.folder)
        return replaced[::-1], next_offset

    def _good_parts(
        self, segment: Segment, scan: Scan, following: int | None
    ) -> tuple[list[_Part], list[_Missing], int]:
        """The good stretches of a file, the offsets that are lost between and behind them, and the next offset."""
        parts = []
        missing: list[_Missing] = []
        limit = self._end_of(following)
        if scan.position or (not segment.size_bytes and following is None):
            parts.append(_Part(0, scan.position, segment.base_offset))
        while not scan.done:
            bad_position, bad_offset = scan.position, scan.next_offset
            if not scan.seek_good(limit if limit is not None else OFFSET_MAX):
                if following is None and self.distrust_cache and bad_offset >= self.known.durable_end:
                    # Nothing behind the last sync was acknowledged: an unfinished write, and old bytes from the disk.
                    self.report.truncated_bytes += scan.end - bad_position
                    return parts, missing, bad_offset
                end = limit
                if end is None or end <= bad_offset:
                    end = max(self.known.end, end_of_tail(self.storage, segment, bad_position, bad_offset))
                is_gone = is_unfinished(self.storage, segment.file, bad_position, scan.end)
                missing.append(_Missing(bad_offset, end, is_gone))
                return parts, missing, end
            missing.append(_Missing(bad_offset, scan.next_offset, False))
            start, base_offset = scan.position, scan.next_offset
            for facts in scan:
                self._replay(facts)
            self.report.scanned_bytes += scan.position - start
            parts.append(_Part(start, scan.position, base_offset))
        if following is not None and scan.next_offset < following:
            missing.append(_Missing(scan.next_offset, following, True))
        return parts, missing, scan.next_offset if following is None else max(scan.next_offset, following)

    def _end_of(self, following: int | None) -> int | None:
        """Where a segment ends, as others know it: where the next one begins, or the log was closed; None: nobody."""
        return self.known.exact_end() if following is None else following

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

    def _overlap(self, segment: Segment, next_offset: int) -> int:
        """Set a segment aside that begins below `next_offset`. Returns where it ends: those offsets were given."""
        scan = Scan(self.storage, segment.file, 0, segment.size_bytes, segment.base_offset)
        for _ in scan:
            pass
        aside = names.aside(segment.path, self.listing)
        self.storage.rename(segment.path, aside)
        self.listing.add(aside.name)
        what = (
            f"{segment.path.name} begins below offset {next_offset}, where the segment before it ends: "
            f"kept as {aside.name}"
        )
        self.report.set_aside.append(what)
        if scan.next_offset > next_offset:
            self._miss(DAMAGED, next_offset, scan.next_offset, what)
        self._unlink_indexes(segment)
        return scan.next_offset

    def _discard(self, segment: Segment) -> None:
        """Take away a name whose file is kept aside, or is empty."""
        self.storage.unlink(segment.path)
        self._unlink_indexes(segment)

    def _unlink_indexes(self, segment: Segment) -> None:
        for suffix in names.INDEXES:
            path = names.numbered(self.folder, segment.base_offset, suffix)
            if self.storage.exists(path):
                self.storage.unlink(path)

    def _check_indexes(self, segments: Iterable[Segment]) -> None:
        """Rebuild missing indexes now; the content is looked at when it is used. The last segment's are loaded.

        Of each segment the largest timestamp is known then: look-ups, retention and compaction ask for it.
        """
        *closed, active = segments
        for segment in closed:
            if segment.indexes_loaded:
                segment.time_index.maybe_append(
                    segment.max_timestamp, segment.max_timestamp_offset - segment.base_offset
                )
                segment.write_indexes()
            elif not (self._index_sizes_fit(segment) and segment.recall_timestamps()):
                segment.rebuild_indexes()
                self.report.rebuilt_indexes += 1
                segment.drop_indexes()
        if not active.indexes_loaded and active.load_indexes():
            self.report.rebuilt_indexes += 1
        active.recall_first_timestamp()
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
    storage: Storage,
    folder: Path,
    config: LogConfig,
    leader_epoch: int,
    now_ms: int,
    *,
    distrust_cache: bool = False,
    had_log: bool = False,
    repair: Repair = Repair.NONE,
) -> Recovered:
    """Bring the folder into order. `distrust_cache`: an fsync failed before, so what the page cache shows past the
    recovery point need not be on the disk; it is copied into new files. `had_log`: there was a log in it before, as
    somebody else knows. Raises OSError, StorageError.
    """
    return _Recovery(storage, folder, config, leader_epoch, now_ms, distrust_cache, had_log, repair).run()
