"""A disk without space for the small files: records that are on it are acknowledged all the same."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kbroker.errors import StorageError

from .batches import batch, flush, records
from .conftest import Open
from .disks import FailingDisk


class NoSpaceForSmallFiles(FailingDisk):
    """While `is_full` nothing new is put in place."""

    is_full = False

    def replace_file(self, path: Path, data: bytes) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().replace_file(path, data)


@pytest.fixture
def disk() -> NoSpaceForSmallFiles:
    return NoSpaceForSmallFiles()


@pytest.mark.parametrize("end", ["killed", "closed"])
def test_no_space_for_a_recovery_point_is_no_failed_sync(open_log: Open, disk: NoSpaceForSmallFiles, end: str) -> None:
    log = open_log(recovery_point_batches=100, index_interval_bytes=0)
    for number in range(150):
        log.append(batch(1, producer_id=3, sequence=number), 9_000, sync=True)
    log.delete_records(0)
    disk.is_full = True
    work = log.begin_flush()
    assert work is not None
    assert work.recovery_point is not None
    work.run()
    log.finish_flush(work, 9_000)
    assert work.point_error is not None
    assert log.failed is None
    assert log.acknowledged_offset == 150
    assert not log.flush_due, "it is not tried at once again"
    assert not (log.folder / "flush-failed").exists()
    for number in range(150, 160):
        log.append(batch(1, producer_id=3, sequence=number), 9_000, sync=True)
    disk.is_full = False
    log.want_recovery_point()
    flush(log)
    if end == "closed":
        log.close(9_000)
    log.abandon()
    log = open_log(index_interval_bytes=0)
    assert not log.recovery.rebuilt_indexes
    assert not log.recovery.set_aside
    assert len(records(log)) == 160
    assert [log.read(offset, 1).base_offset for offset in range(160)] == list(range(160))
    assert log.append(batch(1, producer_id=3, sequence=159), 9_000, sync=True).duplicate


def test_a_close_without_space_is_told_and_recovered_from(open_log: Open, disk: NoSpaceForSmallFiles) -> None:
    log = open_log()
    log.append(batch(10), 9_000, sync=True)
    disk.is_full = True
    with pytest.raises(StorageError, match=r"cannot close cleanly: .*No space left"):
        log.close(9_000)
    disk.is_full = False
    log = open_log()
    assert not log.recovery.clean
    assert len(records(log)) == 10


def test_deleted_records_wait_for_a_durable_beginning(open_log: Open, disk: NoSpaceForSmallFiles) -> None:
    log = open_log()
    log.append(batch(10), 9_000, sync=True)
    flush(log)
    disk.is_full = True
    log.delete_records(4)
    flush(log)
    assert log.durable_log_start_offset == 0
    disk.is_full = False
    log.want_recovery_point()
    flush(log)
    assert log.durable_log_start_offset == 4
