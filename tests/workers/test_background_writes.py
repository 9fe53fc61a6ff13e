"""Disk work that nobody waits for: how much of it runs at once, and what comes of it."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kbroker.config import LogConfig
from kbroker.errors import NotLeaderOrFollower
from kbroker.log.freeing import PIECE_BYTES
from kbroker.log.log import PartitionLog
from kbroker.log.retention import Deletion
from kbroker.shm.control_page import ControlPage
from kbroker.types import TopicPartition
from kbroker.workers.background_writes import BackgroundWrites
from kbroker.workers.disk_probe import DiskProbes
from kbroker.workers.freed_space import PAUSE_MS, RETRY_MS, FreedSpace
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.loop import Loop
from kbroker.workers.partition import Partition

from ..log.batches import batch
from ..log.disks import FailingDisk


class ManualThreads(IoThreads):
    """I/O threads that do a piece of work when the test says so."""

    def __init__(self) -> None:
        self.queue: deque[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = deque()

    def submit(
        self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None], *, wakes: bool = True
    ) -> None:
        del wakes
        self.queue.append((work, done))

    def run_one(self) -> None:
        work, done = self.queue.popleft()
        try:
            result = work()
        except OSError as error:
            done(None, error)
        else:
            done(result, None)


class ManualLoop(Loop):
    """A loop whose timers the test runs."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[tuple[int, Callable[[], None]]] = []

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Any:
        self.timers.append((delay_ms, callback))


@pytest.fixture
def io() -> ManualThreads:
    return ManualThreads()


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def partitions(tmp_path: Path, disk: FailingDisk) -> Iterator[list[Partition]]:
    made = []
    for number in range(4):
        name = TopicPartition("t", number)
        log = PartitionLog.open(tmp_path / str(name), name, bytes(16), LogConfig(), 1, 9_000, disk)
        made.append(Partition(name, log, ControlPage.create(1, 1)))
    yield made
    for partition in made:
        partition.log.abandon()


def fill(partition: Partition, count: int = 9) -> None:
    for _ in range(count):
        partition.log.append(batch([bytes(1 << 18)]), 9_000, sync=False)


class Writes:
    """BackgroundWrites of a worker with four threads."""

    def __init__(self, io: ManualThreads) -> None:
        self.failed: list[Partition] = []
        self.flushed: list[Partition] = []
        self.background = BackgroundWrites(
            4,
            lambda partition, ended: partition.write_back(io, self.failed.append, ended),
            lambda partition, ended: partition.flush(io, lambda: 9_000, self.flushed.append, ended),
        )


def test_half_of_the_threads_at_most(io: ManualThreads, partitions: list[Partition]) -> None:
    writes = Writes(io)
    for partition in partitions:
        fill(partition)
        writes.background.want_flush(partition)
        writes.background.want_write_back(partition)
        writes.background.want_write_back(partition)
    most = 0
    while io.queue:
        most = max(most, len(io.queue))
        io.run_one()
    assert most == 2
    assert set(writes.flushed) == set(partitions)
    assert all(partition.log.synced_offset == 9 for partition in partitions)
    assert not any(partition.log.write_back_due for partition in partitions)


def test_what_has_nothing_to_do_takes_no_place(io: ManualThreads, partitions: list[Partition]) -> None:
    writes = Writes(io)
    for partition in partitions[:3]:
        writes.background.want_flush(partition)
        writes.background.want_write_back(partition)
    assert not io.queue
    fill(partitions[3])
    writes.background.want_flush(partitions[3])
    io.run_one()
    assert writes.flushed == [partitions[3]]


def test_who_leaves_waits_for_what_runs_and_holds_no_place(io: ManualThreads, partitions: list[Partition]) -> None:
    writes = Writes(io)
    left: list[Partition] = []
    for partition in partitions:
        fill(partition)
        writes.background.want_write_back(partition)
    for partition in partitions:
        partition.leave(False, NotLeaderOrFollower("moved"), partial(left.append, partition))
    assert left == partitions[2:], "the first two are under way"
    while io.queue:
        io.run_one()
    assert sorted(left, key=lambda partition: partition.partition) == partitions
    assert writes.failed == []


def test_a_write_back_that_fails_is_as_a_failed_sync(
    io: ManualThreads, partitions: list[Partition], disk: FailingDisk
) -> None:
    writes = Writes(io)
    fill(partitions[0])
    disk.failing["start_writing"] = errno.EIO
    writes.background.want_write_back(partitions[0])
    io.run_one()
    assert writes.failed == [partitions[0]]
    assert "Input/output error" in str(partitions[0].log.failed)


def test_a_disk_is_tried_until_it_takes_something(
    io: ManualThreads, partitions: list[Partition], disk: FailingDisk
) -> None:
    taken: list[Partition] = []

    def take(partition: Partition) -> None:
        partition.take_again()
        taken.append(partition)

    probes = DiskProbes(io, disk, take)
    disk.failing["pwrite"] = errno.ENOSPC
    for partition in partitions[:3]:
        partition.refuse("no space", 100_000)
        probes.want(partition)
        probes.want(partition)
    for _ in range(3):
        assert len(io.queue) == 1, "one for all of them"
        io.run_one()
        assert not io.queue
        probes.look_again()
        probes.look_again()
    partitions[0].leave(False, NotLeaderOrFollower("moved"), lambda: None)
    partitions[1].take_again()  # by an append
    disk.failing = {}
    while io.queue:
        io.run_one()
    probes.look_again()
    while io.queue:
        io.run_one()
    assert taken == [partitions[2]]
    assert not any("probe" in path.name for path in partitions[2].log.folder.iterdir())


def deletion(folder: Path, number: int, pieces: int = 3) -> Deletion:
    path = folder / f"{number:020d}.log.deleted"
    with path.open("wb") as file:
        file.truncate(pieces * PIECE_BYTES)
    return Deletion(0, path)


def test_space_comes_back_with_pauses_that_a_backlog_shortens(
    tmp_path: Path, io: ManualThreads, disk: FailingDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "disk_room", lambda _file: (100 << 30, 50 << 30))
    loop = ManualLoop()
    freed = FreedSpace(loop, io, disk)
    freed.free_files(deletion(tmp_path, number) for number in range(20))
    pauses = []
    while io.queue:
        assert len(io.queue) == 1
        io.run_one()
        while loop.timers:
            delay_ms, go_on = loop.timers.pop()
            pauses.append(delay_ms)
            go_on()
    assert not os.listdir(tmp_path)
    assert pauses[0] == 2
    assert pauses[-1] == PAUSE_MS
    assert len(pauses) == 2 * 20
    monkeypatch.setattr(disk, "disk_room", lambda _file: (100 << 30, 1 << 20))
    freed.free_files([deletion(tmp_path, 1)])
    while io.queue:
        io.run_one()
    assert not loop.timers, "there is no space to be had elsewhere"
    loop.close()


def test_what_cannot_be_removed_is_tried_again_and_holds_nothing_up(
    tmp_path: Path, io: ManualThreads, disk: FailingDisk, caplog: pytest.LogCaptureFixture
) -> None:
    loop = ManualLoop()
    freed = FreedSpace(loop, io, disk)
    folder = tmp_path / "t-0.0123456789abcdef0123456789abcdef-delete"
    (folder / "somebody's").mkdir(parents=True)
    freed.free_folder(folder)
    freed.free_files([deletion(tmp_path, 1, pieces=1)])
    for _ in range(3):
        while io.queue:
            io.run_one()
        ((delay_ms, again),) = loop.timers
        assert delay_ms == RETRY_MS
        loop.timers.clear()
        again()
    assert os.listdir(tmp_path) == [folder.name]
    assert caplog.text.count("cannot be removed") == 1
    (folder / "somebody's").rmdir()
    while io.queue:
        io.run_one()
    assert not folder.exists()
    loop.close()
