"""A log on a disk that takes no writes: read as it is, nothing on the disk changes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kbroker.config import LogConfig
from kbroker.errors import StorageError
from kbroker.log import PartitionLog
from kbroker.log.read_only import ReadOnlyDisk, takes_no_writes

from .batches import PARTITION, TOPIC_ID, batch, flush, records
from .conftest import Open
from .disks import FailingDisk

MIB = 1 << 20


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def opened(folder: Path) -> PartitionLog:
    return PartitionLog.open_read_only(folder, PARTITION, TOPIC_ID, LogConfig(), 7, 9_000, "it is read-only")


@pytest.mark.parametrize("end", ["clean", "killed", "torn", "no indexes", "failed sync"])
def test_everything_is_read_and_nothing_written(open_log: Open, folder: Path, end: str) -> None:
    log = open_log(segment_bytes=1_000)
    for number in range(30):
        log.append(batch(5, timestamp_ms=1_000 + number), 9_000, sync=False)
        if number == 15:
            flush(log, force=True)
    expected = records(log)
    epoch = log.leader_epoch
    if end == "clean":
        log.close(9_000)
    log.abandon()
    if end == "torn":
        with log.segments[-1].path.open("ab") as file:
            file.write(batch(5)[:-1])
    elif end == "no indexes":
        for path in folder.glob("*index"):
            path.unlink()
    elif end == "failed sync":
        (folder / "flush-failed").write_text("?")
    before = contents(folder)
    again = opened(folder)
    assert records(again) == expected
    assert [again.read(offset, 100).base_offset for offset in range(0, 150, 5)] == list(range(0, 150, 5))
    assert again.leader_epoch == epoch, "nothing is appended in a new one"
    with pytest.raises(StorageError, match="it is read-only; records are refused"):
        again.append(batch(1), 9_000, sync=False)
    assert again.begin_flush(force_recovery_point=True) is None
    assert again.retain(10**15) == []
    again.close(9_000)
    assert contents(folder) == before
    log = open_log()
    assert records(log) == expected
    assert log.append(batch(1), 9_000, sync=True).base_offset == 150


def test_damage_is_not_repaired_in_memory(open_log: Open, folder: Path) -> None:
    """Readers by shared memory open the file by its name: they must not be told positions in another one."""
    log = open_log()
    for _ in range(3):
        log.append(batch(5), 9_000, sync=False)
    log.abandon()
    path = log.segments[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = contents(folder)
    with pytest.raises(StorageError, match="cannot be repaired here"):
        opened(folder)
    assert contents(folder) == before


@pytest.mark.parametrize(("number", "expected"), [(errno.EROFS, True), (errno.ENOSPC, True), (errno.EIO, False)])
def test_which_errors_are_no_obstacle_to_reading(
    open_log: Open, disk: FailingDisk, number: int, expected: bool
) -> None:
    open_log().close(9_000)
    disk.failing["pwrite"] = number
    with pytest.raises(StorageError) as raised:
        open_log()
    assert takes_no_writes(raised.value) is expected


def test_names_that_change_in_memory_only(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    disk = ReadOnlyDisk(tmp_path)
    disk.rename(tmp_path / "a", tmp_path / "b")
    disk.replace_file(tmp_path / "c", b"new")
    assert disk.list(tmp_path) == ["b", "c"]
    assert (disk.read_file(tmp_path / "b"), disk.read_file(tmp_path / "c")) == (b"abc", b"new")
    assert not disk.exists(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        disk.open_to_read(tmp_path / "a")
    disk.unlink(tmp_path / "b")
    disk.unlink(tmp_path / "c")
    with pytest.raises(FileNotFoundError):
        disk.unlink(tmp_path / "c")
    assert disk.list(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
