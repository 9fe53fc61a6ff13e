"""Taking out what is too old or too much. Files are renamed first and unlinked later: readers finish undisturbed."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kbroker.errors import StorageError
from kbroker.log import names
from kbroker.log.positions import SegmentInfo
from kbroker.log.segment import Segment
from kbroker.log.storage import Storage

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog


def retain(log: PartitionLog, now_ms: int) -> list[SegmentInfo]:
    """See PartitionLog.retain."""
    log.producers.expire(now_ms, log.config.producer_id_expiration_ms)
    if log.failed is not None:
        return []
    with _disk_errors(log):
        active = log.segments[-1]
        if active.size_bytes and log.high_watermark == log.next_offset and _expired(log, active, now_ms):
            log.roll(now_ms)
        return _take_out_oldest(log, _removable(log, now_ms), now_ms)


def drop_deleted(log: PartitionLog, now_ms: int) -> list[SegmentInfo]:
    """See PartitionLog.drop_deleted."""
    if log.failed is not None:
        return []
    count = sum(following <= log.log_start_offset for following in log.bases[1:])
    with _disk_errors(log):
        return _take_out_oldest(log, count, now_ms)


@contextlib.contextmanager
def _disk_errors(log: PartitionLog) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{log.partition}: cannot remove old segments: {error}") from error


def _take_out_oldest(log: PartitionLog, count: int, now_ms: int) -> list[SegmentInfo]:
    if not count:
        return []
    removed = [
        SegmentInfo(s.base_offset, s.path, s.size_bytes, True, following)
        for s, following in zip(log.segments[:count], log.bases[1 : count + 1], strict=True)
    ]
    due_ms = now_ms + log.config.delete_delay_ms
    for segment in log.segments[:count]:
        take_out(log, segment, due_ms)
    log.drop_oldest(count)
    log.storage.replace_file(log.folder / names.LEADER_EPOCHS, log.epochs.encode())
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


def take_out(log: PartitionLog, segment: Segment, due_ms: int) -> None:
    """Rename the files of a segment; they are unlinked when that is due. Raises OSError."""
    for suffix in (names.LOG, *names.INDEXES):
        path = names.numbered(log.folder, segment.base_offset, suffix)
        if log.storage.exists(path):
            gone = path.with_name(path.name + names.DELETED)
            log.storage.rename(path, gone)
            log.deletions.append((due_ms, gone))


def delete_due(log: PartitionLog, now_ms: int) -> int:
    """See PartitionLog.delete_due."""
    count = 0
    try:
        while log.deletions and log.deletions[0][0] <= now_ms:
            with contextlib.suppress(FileNotFoundError):
                log.storage.unlink(log.deletions[0][1])
            log.deletions.popleft()
            count += 1
    except OSError as error:
        raise StorageError(f"{log.partition}: cannot unlink {log.deletions[0][1]}: {error}") from error
    return count


def delete_folder(folder: Path, storage: Storage) -> Path:
    """See PartitionLog.delete."""
    gone = folder.with_name(names.deleted_folder(folder.name, uuid.uuid4().hex))
    try:
        storage.rename(folder, gone)
        storage.fsync_folder(folder.parent)
    except OSError as error:
        raise StorageError(f"cannot take {folder} away: {error}") from error
    return gone


def purge_folder(folder: Path, storage: Storage) -> None:
    """See PartitionLog.purge."""
    try:
        for name in storage.list(folder):
            # Another process may be at it as well: whoever starts goes on with what was left.
            with contextlib.suppress(FileNotFoundError):
                storage.unlink(folder / name)
        storage.remove_folder(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"cannot remove {folder}: {error}") from error
