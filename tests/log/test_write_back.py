"""The disk begins with what is appended in small steps, so that no sync finds a wave before it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kbroker.log import PartitionLog
from kbroker.log.storage import File
from kbroker.log.write_back import STEP_BYTES

from .batches import batch, flush
from .conftest import Open
from .disks import FailingDisk


class Recording(FailingDisk):
    """Remembers what was started."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[tuple[str, int, int]] = []

    def start_writing(self, file: File, position: int, size_bytes: int) -> None:
        super().start_writing(file, position, size_bytes)
        self.started.append((file.path.name, position, position + size_bytes))


@pytest.fixture
def disk() -> Recording:
    return Recording()


def grow(log: PartitionLog, size_bytes: int) -> None:
    """Append batches of 256 KiB until the active segment has so many bytes, starting what is due as a worker does."""
    while log.segments[-1].size_bytes < size_bytes:
        log.append(batch([bytes(1 << 18)]), 9_000, sync=False)
        work = log.begin_write_back()
        if work is not None:
            work.run()


def test_each_step_is_started_once(open_log: Open, disk: Recording) -> None:
    log = open_log()
    grow(log, 9 << 20)
    name = log.segments[0].path.name
    starts = [start for _, start, _ in disk.started]
    ends = [end for _, _, end in disk.started]
    assert {one for one, _, _ in disk.started} == {name}
    assert starts == [0, *ends[:-1]], "all of it, without a gap"
    assert all(STEP_BYTES <= end - start < STEP_BYTES + (1 << 19) for _, start, end in disk.started)
    assert log.segments[0].size_bytes - ends[-1] < STEP_BYTES
    assert log.synced_offset == 0, "it promises nothing"


def test_what_a_flush_takes_needs_no_start(open_log: Open) -> None:
    log = open_log()
    for _ in range(8):
        for _ in range(2):
            log.append(batch([bytes(1 << 18)]), 9_000, sync=True)
        assert not log.write_back_due
        flush(log)
    assert log.begin_write_back() is None


def test_a_new_segment_begins_anew_and_a_reopened_log_goes_on(open_log: Open, disk: Recording) -> None:
    log = open_log()
    grow(log, 3 << 20)
    log.roll(9_000)
    disk.started.clear()
    grow(log, 3 << 20)
    assert disk.started[0][:2] == (log.segments[1].path.name, 0)
    size_bytes = log.segments[1].size_bytes
    log.close(9_000)
    log = open_log()
    assert not log.write_back_due
    disk.started.clear()
    grow(log, 6 << 20)
    assert disk.started[0][1] == size_bytes


def test_a_disk_that_cannot_is_as_a_failed_sync(open_log: Open, disk: Recording) -> None:
    log = open_log()
    disk.failing["start_writing"] = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        grow(log, 3 << 20)
    assert (log.folder / "flush-failed").exists(), "the next owner must know"


def test_a_file_that_cannot_be_started_is_no_harm(disk: Recording) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    disk.start_writing(File(reading, Path("pipe")), 0, 1)
