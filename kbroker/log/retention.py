"""Taking out what is too old or too much. Files are renamed first and unlinked later: readers finish undisturbed.

What goes is decided on the loop's thread and shows at once; the disk follows, on I/O threads (`Removal`, `freeing`).
Should the process die between, the segments are in the log again, and go again.
"""

from __future__ import annotations

import contextlib
import uuid
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from kbroker.errors import StorageError
from kbroker.log import names
from kbroker.log.positions import SegmentInfo
from kbroker.log.segment import Segment
from kbroker.log.storage import File, Storage

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog

READERS_MS: Final = 60_000
"""So much longer than its delay a file stays while somebody in this process reads it."""


class Deletion(NamedTuple):
    """A file that was taken out of the log, and when its space is to be freed."""

    due_ms: int
    path: Path
    held: weakref.ref[File] | None = None
    """The log's own descriptor of it: while somebody here still reads by that, the end is put off."""


class Removal:
    """The disk's part of taking segments out: their files are renamed. Begun and finished on the loop's thread."""

    def __init__(self, log: PartitionLog, segments: list[Segment]) -> None:
        self._storage = log.storage
        self._folder = log.folder
        self._epochs = log.epochs.encode()
        self.segments = deque(segments)
        """Those whose files have their old names still."""
        self.gone: list[tuple[Path, weakref.ref[File] | None]] = []

    def run(self) -> None:
        """In an I/O thread. Raises OSError: what was renamed by then is in `gone`."""
        while self.segments:
            segment = self.segments[0]
            self.gone += take_out(self._storage, segment)
            self.segments.popleft()
        # Of use only: who opens the log cuts them as well. A full disk has no space for it, before what goes is gone.
        with contextlib.suppress(OSError):
            self._storage.replace_file(self._folder / names.LEADER_EPOCHS, self._epochs)


def retain(log: PartitionLog, now_ms: int) -> list[SegmentInfo]:
    """See PartitionLog.retain."""
    log.producers.expire(now_ms, log.config.producer_id_expiration_ms)
    if log.failed is not None or log.is_placing:
        return []
    active = log.segments[-1]
    if active.size_bytes and log.high_watermark == log.next_offset and _expired(log, active, now_ms):
        log.roll(now_ms)
    return _take_out_oldest(log, _removable(log, now_ms))


def drop_deleted(log: PartitionLog) -> list[SegmentInfo]:
    """See PartitionLog.drop_deleted."""
    if log.failed is not None or log.is_placing:
        return []
    return _take_out_oldest(log, sum(following <= log.log_start_offset for following in log.bases[1:]))


def _take_out_oldest(log: PartitionLog, count: int) -> list[SegmentInfo]:
    if not count:
        return []
    removed = [
        SegmentInfo(s.base_offset, s.path, s.size_bytes, True, following)
        for s, following in zip(log.segments[:count], log.bases[1 : count + 1], strict=True)
    ]
    log.to_remove += log.drop_oldest(count)
    return removed


def _expired(log: PartitionLog, segment: Segment, now_ms: int) -> bool:
    kept_ms = log.config.retention_ms
    if kept_ms < 0 or "delete" not in log.config.cleanup_policy:
        return False
    if segment is not log.segments[-1] and segment.max_timestamp < 0:
        _ = segment.time_index
        log.index_used(segment)
    newest = segment.max_timestamp if segment.max_timestamp >= 0 else segment.created_ms
    return newest + kept_ms < now_ms


def _removable(log: PartitionLog, now_ms: int) -> int:
    """How many of the oldest segments go. The last one stays, and so does what is not shown yet."""
    size_bytes = log.size_bytes
    limit = log.config.retention_bytes if "delete" in log.config.cleanup_policy else -1
    count = 0
    for segment, following in zip(log.segments, log.bases[1:], strict=False):
        if following > log.high_watermark:
            break
        is_deleted = following <= log.log_start_offset
        too_much = 0 <= limit <= size_bytes - segment.size_bytes
        if not is_deleted and not too_much and not _expired(log, segment, now_ms):
            break
        size_bytes -= segment.size_bytes
        count += 1
    return count


def take_out(storage: Storage, segment: Segment) -> list[tuple[Path, weakref.ref[File] | None]]:
    """Rename the files of a segment, in an I/O thread. Returns their new names. Raises OSError."""
    gone: list[tuple[Path, weakref.ref[File] | None]] = []
    for suffix in (names.LOG, *names.INDEXES):
        path = names.numbered(segment.folder, segment.base_offset, suffix)
        if storage.exists(path):
            new = path.with_name(path.name + names.DELETED)
            storage.rename(path, new)
            gone.append((new, weakref.ref(segment.file) if suffix == names.LOG else None))
    return gone


def due_deletions(log: PartitionLog, now_ms: int) -> list[Deletion]:
    """See PartitionLog.due_deletions."""
    found = []
    for _ in range(len(log.deletions)):
        deletion = log.deletions.popleft()
        file = None if deletion.held is None else deletion.held()
        if deletion.due_ms > now_ms or (file is not None and deletion.due_ms + READERS_MS > now_ms):
            log.deletions.append(deletion)
        else:
            found.append(deletion)
    return found


def delete_folder(folder: Path, storage: Storage) -> Path:
    """See PartitionLog.delete."""
    gone = folder.with_name(names.deleted_folder(folder.name, uuid.uuid4().hex))
    try:
        storage.rename(folder, gone)
        storage.fsync_folder(folder.parent)
    except OSError as error:
        raise StorageError(f"cannot take {folder} away: {error}") from error
    return gone
