"""Taking a partition's folder over, and letting it go in good order."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from kbroker.config import LogConfig
from kbroker.errors import StartError, StorageError
from kbroker.log import names
from kbroker.log.checkpoint import encode_metadata, id_text, parse_metadata
from kbroker.log.damage import Repair
from kbroker.log.recovery import Recovered, recover
from kbroker.log.storage import File, Storage
from kbroker.types import TopicPartition
from kbroker.wording import with_remedy

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog


def take_over(
    storage: Storage,
    folder: Path,
    partition: TopicPartition,
    topic_id: bytes,
    config: LogConfig,
    leader_epoch: int,
    now_ms: int,
    *,
    distrust_cache: bool = False,
    had_log: bool = False,
    repair: Repair = Repair.NONE,
) -> tuple[File, Recovered]:
    """Lock, check whose folder it is, recover, and begin a leader epoch. Raises StartError, StorageError."""
    lock: File | None = None
    try:
        try:
            storage.make_folder(folder)
            storage.fsync_folder(folder.parent)
        except FileExistsError:
            pass
        lock = _lock(storage, folder)
        _check_owner(storage, folder, partition, topic_id)
        recovered = recover(
            storage,
            folder,
            config,
            leader_epoch,
            now_ms,
            distrust_cache=distrust_cache,
            had_log=had_log,
            repair=repair,
        )
        if not recovered.segments:
            raise AssertionError("recovery leaves a segment")
        _begin_epoch(storage, folder, recovered, leader_epoch)
    except OSError as error:
        if lock is not None:
            lock.close()
        raise StorageError(f"{partition}: cannot open {folder}: {with_remedy(error)}") from error
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    return lock, recovered


def _lock(storage: Storage, folder: Path) -> File:
    try:
        return storage.lock_folder(folder)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise StartError(
            f"{folder} is locked by another process: a broker already serves it; stop that one first"
        ) from None


def _check_owner(storage: Storage, folder: Path, partition: TopicPartition, topic_id: bytes) -> None:
    path = folder / names.PARTITION_METADATA
    found = parse_metadata(storage.read_file(path)) if storage.exists(path) else None
    if found == topic_id:
        return
    if found is not None:
        raise StorageError(
            f"{folder} belongs to topic id {id_text(found)}, but {partition} has topic id {id_text(topic_id)}: "
            "move the folder away, or restore the catalog that goes with it"
        )
    for name in storage.list(folder):
        if name.endswith(names.LOG) and storage.file_size(folder / name):
            raise StorageError(
                f"{folder} has records but no readable {names.PARTITION_METADATA}, so it is not known whose they are: "
                f"restore that file (topic id {id_text(topic_id)}) or move the folder away"
            )
    storage.replace_file(path, encode_metadata(topic_id))


def _begin_epoch(storage: Storage, folder: Path, recovered: Recovered, leader_epoch: int) -> None:
    epochs = recovered.epochs
    if storage.is_read_only and epochs.latest >= 0:
        return  # nothing is appended in it
    epochs.assign(max(leader_epoch, epochs.latest + 1), recovered.next_offset)
    epochs.cut_start(recovered.log_start_offset)
    storage.replace_file(folder / names.LEADER_EPOCHS, epochs.encode())
    for name in (names.CLEAN_SHUTDOWN, names.FLUSH_FAILED):
        if storage.exists(folder / name):
            storage.unlink(folder / name)
    # One sync for all: the mark is gone and the epoch is there before the first append.
    storage.fsync_folder(folder)


def close_clean(log: PartitionLog) -> None:
    """Everything to the disk, and the mark that says so. Raises OSError."""
    assert not log.flushing, "finish or fail the flush first"
    active = log.segments[-1]
    active.time_index.maybe_append(active.max_timestamp, active.max_timestamp_offset - active.base_offset)
    flush = log.begin_flush(force_recovery_point=True)
    assert flush is not None
    flush.closing = True
    flush.reservation = None
    if active.reserved_end:
        flush.ended.append((active.file, active.size_bytes))
    flush.run()
    log.finish_flush(flush, 0)
    if flush.point_error is not None:
        raise flush.point_error


def save_damage(log: PartitionLog, data: bytes) -> None:
    """Remember what is damaged, for the next owner too. On an I/O thread. Raises OSError."""
    log.storage.replace_file(log.folder / names.DAMAGE, data)
    log.storage.fsync_folder(log.folder)
