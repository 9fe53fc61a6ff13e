"""Flushes by the kernel's asynchronous I/O and by threads: the same to whoever asks for them."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kbroker.config import LogConfig
from kbroker.errors import KbrokerError, StorageError
from kbroker.log.log import PartitionLog
from kbroker.log.storage import DISK, File, Storage
from kbroker.shm.control_page import ControlPage
from kbroker.types import TopicPartition
from kbroker.workers import disk_syncs
from kbroker.workers.disk_syncs import IN_FLIGHT_MAX, DiskSyncs
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.loop import Loop
from kbroker.workers.partition import AckWaiter, Partition

from ..log.batches import batch
from ..log.disks import FailingDisk

TURNS_MAX = 300


class SlowKernel:
    """In place of KernelSync: what is begun ends when the test says so."""

    def __init__(self, in_flight_max: int) -> None:
        assert in_flight_max == IN_FLIGHT_MAX
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.begun: list[tuple[File, int]] = []
        self.refuses: OSError | None = None
        self._ended: list[tuple[int, OSError | None]] = []

    def begin(self, file: File, key: int) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.begun.append((file, key))

    def end(self, error: OSError | None = None) -> None:
        self._ended.append((self.begun.pop(0)[1], error))
        os.eventfd_write(self.event_fd, 1)

    def outcomes(self) -> list[tuple[int, OSError | None]]:
        os.eventfd_read(self.event_fd)
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        os.close(self.event_fd)


class NoKernel:
    """In place of KernelSync, in a sandbox."""

    def __init__(self, _in_flight_max: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


class Disk:
    """A loop with all that takes part in a flush, and partitions of one folder."""

    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        self.io = IoThreads(self.loop, 2, "io")
        self.syncs = DiskSyncs(self.loop, self.io)
        self.answers: list[tuple[int, KbrokerError | None]] = []
        self._folder = folder
        self._partitions: list[Partition] = []

    @property
    def kernel(self) -> Any:
        return self.syncs._kernel

    def partition(self, storage: Storage = DISK) -> Partition:
        """A new one, with nothing left to do but its next appends."""
        name = TopicPartition("t", len(self._partitions))
        folder = self._folder / str(name)
        log = PartitionLog.open(folder, name, bytes(16), LogConfig(), 1, 9_000, storage=storage)
        partition = Partition(name, log, ControlPage.create(1, 1))
        self._partitions.append(partition)
        first = log.begin_flush(force_recovery_point=True)
        assert first is not None
        first.run()
        log.finish_flush(first, 9_000)
        return partition

    def append(self, partition: Partition) -> None:
        """Append a batch with acks=all; how that ended comes to `answers`."""
        result = partition.append(batch(1), 9_000, True)
        number = partition.partition
        partition.answer_when_synced(
            AckWaiter(result.ack_offset, 1 << 60, lambda error: self.answers.append((number, error)))
        )

    def flush(self, partition: Partition) -> None:

        def flushed(partition: Partition) -> None:
            partition.publish()

        partition.flush(self.syncs, lambda: 9_000, flushed)

    def turn_until_answered(self, count: int) -> None:
        for _ in range(TURNS_MAX):
            if len(self.answers) >= count:
                return
            self.loop.turn(100)
        raise AssertionError("not answered")

    def close(self) -> None:
        self.io.close(10)
        self.syncs.close()
        for partition in self._partitions:
            partition.log.abandon()
        self.loop.close()


@pytest.fixture(params=["kernel", "threads"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    if request.param == "threads":
        monkeypatch.setattr(disk_syncs, "KernelSync", NoKernel)
    disk = Disk(tmp_path)
    assert (disk.kernel is None) == (request.param == "threads")
    yield disk
    disk.close()


@pytest.fixture
def slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.setattr(disk_syncs, "KernelSync", SlowKernel)
    disk = Disk(tmp_path)
    yield disk
    disk.close()


def test_an_answer_follows_the_sync(disk: Disk) -> None:
    partition = disk.partition()
    for count in (1, 2, 3):
        disk.append(partition)
        partition.publish()
        assert partition.log.high_watermark == count - 1
        disk.flush(partition)
        disk.turn_until_answered(count)
        assert partition.log.high_watermark == count
    assert disk.answers == [(0, None)] * 3


def test_more_at_a_time_than_the_kernel_takes(disk: Disk) -> None:
    partitions = [disk.partition() for _ in range(IN_FLIGHT_MAX + 20)]
    for partition in partitions:
        disk.append(partition)
        disk.flush(partition)
    disk.turn_until_answered(len(partitions))
    assert sorted(disk.answers) == [(number, None) for number in range(len(partitions))]
    assert disk.syncs.stalled_ms() == disk.io.stalled_ms() == 0


def test_no_asynchronous_io_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk_syncs, "KernelSync", NoKernel)
    with caplog.at_level(logging.INFO):
        disk = Disk(tmp_path)
        partition = disk.partition()
        disk.append(partition)
        disk.flush(partition)
        disk.turn_until_answered(1)
        disk.close()
    said = [record.getMessage() for record in caplog.records if record.name == disk_syncs.__name__]
    assert len(said) == 1
    assert "Operation not permitted" in said[0]


def test_what_the_kernel_does_not_take_a_thread_does(slow_disk: Disk) -> None:
    partition = slow_disk.partition()
    for count, code in ((1, errno.EAGAIN), (2, errno.EINVAL)):
        slow_disk.kernel.refuses = OSError(code, os.strerror(code))
        slow_disk.append(partition)
        slow_disk.flush(partition)
        slow_disk.turn_until_answered(count)
    assert slow_disk.kernel.begun == []
    assert slow_disk.answers == [(0, None)] * 2


def test_a_thread_does_what_is_more_than_one_sync(slow_disk: Disk) -> None:
    partition = slow_disk.partition()
    partition.append(batch(1), 9_000, False)
    partition.delete_records(1, 1 << 60, lambda _error: None)  # the log start goes to the disk with a recovery point
    slow_disk.append(partition)
    slow_disk.flush(partition)
    slow_disk.turn_until_answered(1)
    assert slow_disk.kernel.begun == []


def test_a_storage_of_its_own_sees_its_syncs(slow_disk: Disk) -> None:
    storage = FailingDisk()
    partition = slow_disk.partition(storage)
    slow_disk.append(partition)
    slow_disk.flush(partition)
    slow_disk.turn_until_answered(1)
    assert slow_disk.kernel.begun == []


def test_one_flush_of_a_partition_at_a_time(slow_disk: Disk) -> None:
    partition = slow_disk.partition()
    slow_disk.append(partition)
    slow_disk.flush(partition)
    slow_disk.append(partition)
    slow_disk.flush(partition)
    assert len(slow_disk.kernel.begun) == 1
    slow_disk.kernel.end()
    slow_disk.turn_until_answered(1)
    assert slow_disk.answers == [(0, None)], "what came after it had begun waits for the next"
    slow_disk.flush(partition)
    slow_disk.kernel.end()
    slow_disk.turn_until_answered(2)


def test_after_an_error_nothing_more_is_acknowledged(slow_disk: Disk) -> None:
    broken, well = slow_disk.partition(), slow_disk.partition()
    for partition in (broken, well):
        slow_disk.append(partition)
        slow_disk.flush(partition)
    slow_disk.append(broken)
    slow_disk.kernel.end(OSError(errno.EIO, os.strerror(errno.EIO)))
    slow_disk.kernel.end()
    slow_disk.turn_until_answered(3)
    assert slow_disk.answers[-1] == (1, None)
    for number, error in slow_disk.answers[:2]:
        assert number == 0
        assert isinstance(error, StorageError)
        assert "Input/output error" in str(error)
    assert "Input/output error" in str(broken.log.failed)
    slow_disk.flush(broken)
    assert slow_disk.kernel.begun == []
    with pytest.raises(StorageError):
        slow_disk.append(broken)
    assert broken.log.high_watermark == 0


def test_who_leaves_waits_for_the_sync_and_its_file_stays_open(slow_disk: Disk) -> None:
    partition = slow_disk.partition()
    slow_disk.append(partition)
    slow_disk.flush(partition)
    left: list[bool] = []
    partition.leave(False, StorageError("moved"), lambda: left.append(True))
    assert left == []
    assert slow_disk.kernel.begun[0][0].fd >= 0
    slow_disk.kernel.end()
    slow_disk.loop.turn(1000)
    assert left == [True]


def test_how_long_the_oldest_is_under_way(slow_disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    assert slow_disk.syncs.stalled_ms() == 0
    for started_s in (100.0, 103.0):
        now_s = started_s
        partition = slow_disk.partition()
        slow_disk.append(partition)
        slow_disk.flush(partition)
    now_s = 104.5
    assert slow_disk.syncs.stalled_ms() == 4500
    slow_disk.kernel.end()
    slow_disk.turn_until_answered(1)
    assert slow_disk.syncs.stalled_ms() == 1500
    slow_disk.kernel.end()
    slow_disk.turn_until_answered(2)
    assert slow_disk.syncs.stalled_ms() == 0
