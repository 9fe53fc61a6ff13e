"""One segment of a log: a file of whole batches and its two indexes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from kbroker.errors import StorageError
from kbroker.log import names
from kbroker.log.index import OFFSET_ENTRY, TIME_ENTRY, OffsetIndex, TimeIndex
from kbroker.log.scan import Scan
from kbroker.log.storage import File, Storage
from kbroker.records.batch import HEADER, HEADER_BYTES, LENGTH_END, MAGIC, read_header

_CHUNK_BYTES = 8192
_INDEX_GAP_MAX = 16 << 20
"""An index that says nothing of the last so many bytes of a closed segment is taken for damaged."""

_unpack = HEADER.unpack_from


class Found(NamedTuple):
    """A batch found by its header."""

    position: int
    size_bytes: int
    base_offset: int
    next_offset: int
    max_timestamp: int


class SegmentDamaged(StorageError):
    """There is no valid batch where one must be. `base_offset` is the segment's, `position` the byte, `offset` the one
    that a batch there would begin with (-1: not known).
    """

    def __init__(self, path: Path, base_offset: int, position: int) -> None:
        super().__init__(
            f"{path}: no valid batch at position {position}: the file is damaged; `kbroker status` tells which "
            f"offsets, `kbroker log repair {path.parent.name}` goes past them"
        )
        self.base_offset = base_offset
        self.position = position
        self.offset = -1


class IndexWrite(NamedTuple):
    """Index entries that are to be written."""

    file: File
    data: bytes
    position: int


class Segment:
    """`size_bytes` is the end of the last whole batch; `next_offset` the offset after it."""

    __slots__ = (
        "_offset_index",
        "_offset_index_file",
        "_time_index",
        "_time_index_file",
        "base_offset",
        "bytes_since_index",
        "created_ms",
        "file",
        "folder",
        "index_interval_bytes",
        "max_timestamp",
        "max_timestamp_offset",
        "next_offset",
        "path",
        "reserved_end",
        "rolling_timestamp",
        "size_bytes",
        "started_bytes",
        "storage",
        "suffix",
    )

    def __init__(
        self,
        storage: Storage,
        folder: Path,
        base_offset: int,
        index_interval_bytes: int,
        created_ms: int,
        suffix: str = "",
    ) -> None:
        self.storage = storage
        self.folder = folder
        self.base_offset = base_offset
        self.index_interval_bytes = index_interval_bytes
        self.created_ms = created_ms
        self.suffix = suffix  # of all its files' names, while it is being made
        self.path = self._path(names.LOG)
        self.file: File = storage.open(self.path, create=True)
        self.size_bytes = storage.size(self.file)
        self.started_bytes = self.size_bytes  # up to here the kernel was told to write it to the disk
        self.reserved_end = 0  # where the space ends that is set aside for appends
        self.next_offset = base_offset
        self.max_timestamp = -1
        self.max_timestamp_offset = -1
        self.rolling_timestamp = -1  # of the first batch
        self.bytes_since_index = 0
        self._offset_index: OffsetIndex | None = None
        self._time_index: TimeIndex | None = None
        self._offset_index_file: File | None = None
        self._time_index_file: File | None = None

    @classmethod
    def create(
        cls, storage: Storage, folder: Path, base_offset: int, index_interval_bytes: int, created_ms: int
    ) -> Segment:
        """A new, empty segment; its names are not yet synced. Raises StorageError when there is data already."""
        segment = cls(storage, folder, base_offset, index_interval_bytes, created_ms)
        if segment.size_bytes:
            raise StorageError(f"{segment.path} has {segment.size_bytes} bytes; a new segment was to begin there")
        segment.reset_indexes()
        segment.write_indexes()
        return segment

    def _path(self, kind: str) -> Path:
        return names.numbered(self.folder, self.base_offset, kind + self.suffix)

    # Indexes

    def reset_indexes(self) -> None:
        """Empty indexes; the files follow with write_indexes()."""
        self._offset_index = OffsetIndex()
        self._time_index = TimeIndex()
        self.bytes_since_index = 0

    @property
    def offset_index(self) -> OffsetIndex:
        """In memory; read from its file, or rebuilt, when it is not there yet."""
        if self._offset_index is None:
            self.load_indexes()
        assert self._offset_index is not None
        return self._offset_index

    @property
    def time_index(self) -> TimeIndex:
        if self._time_index is None:
            self.load_indexes()
        assert self._time_index is not None
        return self._time_index

    def drop_indexes(self) -> None:
        """Forget what is in memory of a closed segment's indexes; everything must have been written."""
        self._offset_index = self._time_index = None
        self._offset_index_file = self._time_index_file = None

    def let_go(self) -> None:
        """Hold no file any longer, whoever still reads one."""
        for file in (self.file, self._offset_index_file, self._time_index_file):
            if file is not None:
                file.let_go()

    @property
    def indexes_loaded(self) -> bool:
        return self._offset_index is not None

    def load_indexes(self) -> bool:
        """Read both indexes, or rebuild them from the log when they are missing or cannot be right. True: rebuilt."""
        offset_index = self._parse_offset_index()
        time_index = self._parse_time_index()
        if offset_index is None or time_index is None:
            self.rebuild_indexes()
            return True
        self._offset_index, self._time_index = offset_index, time_index
        last = offset_index.positions[-1] if len(offset_index) else 0
        self.bytes_since_index = self.size_bytes - last
        if len(time_index):
            self.max_timestamp = time_index.timestamps[-1]
            self.max_timestamp_offset = self.base_offset + time_index.offsets[-1]
        return False

    def _parse_offset_index(self) -> OffsetIndex | None:
        data = self._index_bytes(names.INDEX)
        index = None if data is None else OffsetIndex.parse(data, self.size_bytes)
        if index is None:
            return None
        last = index.positions[-1] if len(index) else 0
        return index if self.size_bytes - last <= _INDEX_GAP_MAX else None

    def _parse_time_index(self) -> TimeIndex | None:
        data = self._index_bytes(names.TIME_INDEX)
        return None if data is None else TimeIndex.parse(data)

    def _index_bytes(self, suffix: str) -> bytes | None:
        try:
            return self.storage.read_file(self._path(suffix))
        except FileNotFoundError:
            return None

    def recall_timestamps(self) -> bool:
        """Make the largest timestamp of a closed segment known, from the last entry of its time index.

        False: the index has no entry although the records have timestamps. Raises OSError.
        """
        if not self.recall_first_timestamp():
            return False
        file = self.storage.open_to_read(self._path(names.TIME_INDEX))
        size = self.storage.size(file)
        if size < TIME_ENTRY.size:
            return self.rolling_timestamp < 0
        timestamp, relative_offset = TIME_ENTRY.unpack(
            self.storage.pread(file, TIME_ENTRY.size, size - TIME_ENTRY.size)
        )
        if timestamp < self.rolling_timestamp or relative_offset < 0:
            return False
        self.max_timestamp, self.max_timestamp_offset = timestamp, self.base_offset + relative_offset
        return True

    def recall_first_timestamp(self) -> bool:
        """Make the largest timestamp of the first batch known, by which a segment rolls. False: there is no batch."""
        if self.rolling_timestamp >= 0 or not self.size_bytes:
            return True
        head = self.storage.pread_all(self.file, HEADER_BYTES, 0)
        if len(head) < HEADER_BYTES:
            return False
        self.rolling_timestamp = read_header(head).max_timestamp
        return True

    def rebuild_indexes(self) -> None:
        """Make both indexes anew from the log and write them. Stops at the first bad batch."""
        self.reset_indexes()
        self.max_timestamp = self.max_timestamp_offset = -1
        size_bytes = self.size_bytes
        for facts in Scan(self.storage, self.file, 0, size_bytes, self.base_offset):
            self.note_batch(
                facts.position, facts.size_bytes, facts.base_offset + facts.last_offset_delta, facts.max_timestamp
            )
        self.time_index.maybe_append(self.max_timestamp, self.max_timestamp_offset - self.base_offset)
        self.write_indexes()

    def index_writes(self) -> list[IndexWrite]:
        """What the index files lack; taken to be written from now on."""
        writes = []
        if self._offset_index is not None and self._offset_index.pending:
            index = self._offset_index
            writes.append(IndexWrite(self.offset_index_file, bytes(index.pending), index.written_bytes))
            index.written_bytes += len(index.pending)
            index.pending = bytearray()
        if self._time_index is not None and self._time_index.pending:
            times = self._time_index
            writes.append(IndexWrite(self.time_index_file, bytes(times.pending), times.written_bytes))
            times.written_bytes += len(times.pending)
            times.pending = bytearray()
        return writes

    def rewrite_indexes(self) -> None:
        """Have the whole index files written again, with the next write. Both must be in memory."""
        self.offset_index.rewrite()
        self.time_index.rewrite()

    def write_indexes(self) -> None:
        """Write what the files lack and cut what they have too much."""
        for write in self.index_writes():
            self.storage.pwrite_all(write.file, write.data, write.position)
        for file, index in ((self.offset_index_file, self.offset_index), (self.time_index_file, self.time_index)):
            if self.storage.size(file) != index.size_bytes:
                self.storage.truncate(file, index.size_bytes)

    @property
    def offset_index_file(self) -> File:
        if self._offset_index_file is None:
            self._offset_index_file = self.storage.open(self._path(names.INDEX), create=True)
        return self._offset_index_file

    @property
    def time_index_file(self) -> File:
        if self._time_index_file is None:
            self._time_index_file = self.storage.open(self._path(names.TIME_INDEX), create=True)
        return self._time_index_file

    # Batches

    def note_batch(self, position: int, size_bytes: int, last_offset: int, max_timestamp: int) -> None:
        """Index a batch that stands at `position`, as Kafka does: about one entry for each index interval."""
        if max_timestamp > self.max_timestamp:
            self.max_timestamp = max_timestamp
            self.max_timestamp_offset = last_offset
        if position == 0:
            self.rolling_timestamp = max_timestamp
        if self.bytes_since_index > self.index_interval_bytes:
            assert self._offset_index is not None
            assert self._time_index is not None
            self._offset_index.append(last_offset - self.base_offset, position)
            self._time_index.maybe_append(self.max_timestamp, self.max_timestamp_offset - self.base_offset)
            self.bytes_since_index = 0
        self.bytes_since_index += size_bytes
        self.next_offset = last_offset + 1

    def header_at(self, chunk: bytes, chunk_start: int, position: int, end: int) -> tuple[Found, bytes, int]:
        """The batch at `position`, from `chunk` when it has it, else from a new one. Raises StorageError."""
        at = position - chunk_start
        if at < 0 or at + HEADER_BYTES > len(chunk):
            chunk_start, at = position, 0
            chunk = self.storage.pread(self.file, min(_CHUNK_BYTES, end - position), position)
            if len(chunk) < HEADER_BYTES:
                raise self.damaged(position)
        base_offset, length, _, magic, _, _, delta, _, max_timestamp, _, _, _, _ = _unpack(chunk, at)
        size_bytes = length + LENGTH_END
        if magic != MAGIC or size_bytes < HEADER_BYTES or size_bytes > end - position or delta < 0:
            raise self.damaged(position)
        if base_offset < self.base_offset:
            raise self.damaged(position)
        return Found(position, size_bytes, base_offset, base_offset + delta + 1, max_timestamp), chunk, chunk_start

    def damaged(self, position: int) -> SegmentDamaged:
        return SegmentDamaged(self.path, self.base_offset, position)

    def find(self, offset: int, end: int) -> Found | None:
        """The first batch whose records reach `offset`, before position `end`; None when there is none."""
        for attempt in (0, 1):
            index = self.offset_index
            number = index.before(offset - self.base_offset)
            position = index.positions[number] if number >= 0 else 0
            if number >= 0:
                try:
                    found, _, _ = self.header_at(b"", 0, position, max(end, self.size_bytes))
                except StorageError:
                    if attempt:
                        raise
                    self.rebuild_indexes()
                    continue
                if found.next_offset != self.base_offset + index.offsets[number] + 1:
                    if attempt:
                        raise self.damaged(position)
                    self.rebuild_indexes()
                    continue
            break
        chunk, chunk_start = b"", 0
        expected = -1 if number >= 0 else self.base_offset
        while position < end:
            found, chunk, chunk_start = self.header_at(chunk, chunk_start, position, end)
            if found.base_offset != expected and expected >= 0:
                raise self.damaged(position)  # the CRC does not cover it: only the batch before tells
            if found.next_offset > offset:
                return found
            position += found.size_bytes
            expected = found.next_offset
        return None

    def end_by_headers(self) -> int | None:
        """The offset after the last batch, by the headers behind the last index entry: some reads, whatever the size.

        None: they do not lead to the file's end, or there is no index to begin at. Raises OSError.
        """
        try:
            file = self.storage.open_to_read(self._path(names.INDEX))
        except FileNotFoundError:
            return None
        size = self.storage.size(file)
        entry = self.storage.pread(file, OFFSET_ENTRY.size, max(0, size - OFFSET_ENTRY.size))
        if size % OFFSET_ENTRY.size or (size and len(entry) != OFFSET_ENTRY.size):
            return None
        position, expected_end = 0, None
        if size:
            relative_offset, position = OFFSET_ENTRY.unpack(entry)
            expected_end = self.base_offset + relative_offset + 1
        if not 0 <= position <= self.size_bytes:
            return None
        next_offset = None if position else self.base_offset
        chunk, chunk_start = b"", 0
        try:
            while position < self.size_bytes:
                found, chunk, chunk_start = self.header_at(chunk, chunk_start, position, self.size_bytes)
                if next_offset is not None and found.base_offset != next_offset:
                    return None
                if expected_end is not None and found.next_offset != expected_end:
                    return None
                expected_end = None
                next_offset = found.next_offset
                position += found.size_bytes
        except SegmentDamaged:
            return None
        return next_offset

    def last_whole(self, start: int, max_bytes: int, end: int) -> tuple[int, int | None]:
        """Where a read from the batch at `start` ends: at most `max_bytes` on, but after one batch at least.

        Returns the position and the base offset of the batch there (None: not looked at). Raises StorageError.
        """
        limit = start + max_bytes
        index = self.offset_index
        number = index.at_or_below_position(limit)
        position = max(start, index.positions[number]) if number >= 0 else start
        chunk, chunk_start = b"", 0
        expected = -1
        if position > start:
            # An index that lies would end the answer in the middle of a batch, or take a good one for damaged.
            try:
                found, chunk, chunk_start = self.header_at(chunk, chunk_start, position, end)
                is_right = found.next_offset == self.base_offset + index.offsets[number] + 1
            except SegmentDamaged:
                is_right = False
            if not is_right:
                self.rebuild_indexes()
                position, chunk = start, b""
            elif position + found.size_bytes > limit:
                return position, found.base_offset
            else:
                position += found.size_bytes
                expected = found.next_offset
        try:
            while position < end:
                found, chunk, chunk_start = self.header_at(chunk, chunk_start, position, end)
                if found.base_offset != expected and expected >= 0:
                    raise self.damaged(position)
                if position > start and position + found.size_bytes > limit:
                    return position, found.base_offset
                position += found.size_bytes
                expected = found.next_offset
        except SegmentDamaged as damaged:
            damaged.offset = expected
            raise
        return position, None
