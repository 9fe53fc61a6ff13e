"""A reader in this process, a worker in another: append, read, roll, retention, deletion, death."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.errors import BrokerUnavailable, LogTruncated, OffsetOutOfRange, UnknownTopicOrPartition
from kbroker.shm import segment_file
from kbroker.shm.errors import ConnectionLost
from kbroker.shm.partition import ShmPartition
from kbroker.shm.reader import ShmConnection
from tests.shm.batches import check_batches
from tests.shm.conftest import WorkerProcess


@pytest.fixture(params=[True, False], ids=["mapped", "pread"])
def connection(
    worker: WorkerProcess, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ShmConnection]:
    """Both ways to the bytes pass the same tests."""
    monkeypatch.setattr(segment_file, "MAPPED_BYTES_MIN", 0)
    with ShmConnection(worker.path, mapped=request.param) as made:
        yield made


def read_all(partition: ShmPartition, max_bytes: int = 1 << 20) -> int:
    """Read until nothing new is there, checking every byte. Returns the next offset."""
    offset = partition.offset
    while data := partition.read(max_bytes):
        offset = check_batches(data, offset)
        assert partition.offset == offset
    return offset


def test_reads_what_is_appended_before_and_after(worker: WorkerProcess, connection: ShmConnection) -> None:
    worker.append(topic="t", count=3, batches=5)
    partition = connection.open("t", 0, 0)
    assert read_all(partition) == 15
    assert partition.read().tobytes() == b""
    worker.append(topic="t", count=1, batches=7)
    assert read_all(partition) == 22
    assert partition.facts().high_watermark == 22


def test_begins_with_the_batch_that_has_the_offset(worker: WorkerProcess, connection: ShmConnection) -> None:
    worker.append(topic="t", count=10, batches=4)
    partition = connection.open("t", 0, 25)
    assert check_batches(partition.read(100), 25) == 30
    assert partition.offset == 30
    partition.seek(7)
    assert read_all(partition) == 40
    partition.seek(40)
    assert partition.read().tobytes() == b""


@pytest.mark.parametrize("max_bytes", [1, 161, 162, 1000, 1 << 20])
def test_bounds_bytes_but_gives_one_batch_at_least(
    worker: WorkerProcess, connection: ShmConnection, max_bytes: int
) -> None:
    worker.append(topic="t", count=1, size_bytes=100, batches=20)
    partition = connection.open("t", 0, 0)
    data = partition.read(max_bytes)
    assert len(data) == max(161, min(20 * 161, max_bytes // 161 * 161))
    assert check_batches(data, 0) == len(data) // 161
    assert read_all(partition, max_bytes) == 20


def test_follows_rolls_and_reads_old_segments(worker: WorkerProcess, connection: ShmConnection) -> None:
    behind = connection.open("t", 0, 0)
    beside = connection.open("t", 0, 0)
    for count in (3, 4, 5):
        worker.append(topic="t", count=1, size_bytes=400_000, batches=count)
        assert read_all(beside) == worker.append(topic="t", count=1) - 1
        worker.roll(topic="t")
        assert read_all(beside) == beside.facts().high_watermark
    assert read_all(behind) == beside.offset == 15
    assert read_all(connection.open("t", 0, 6)) == 15


@pytest.mark.parametrize("index", ["good", "missing", "wrong", "not rising"])
def test_finds_offsets_in_closed_segments(worker: WorkerProcess, connection: ShmConnection, index: str) -> None:
    worker.append(topic="t", count=3, size_bytes=1000, batches=200)
    worker.roll(topic="t")
    worker.append(topic="t", count=3)
    path = worker.folder / "t-0" / "00000000000000000000.index"
    worker.write_indexes(topic="t")
    assert path.stat().st_size > 100
    if index == "missing":
        path.unlink()
    elif index == "wrong":
        path.write_bytes(bytes(reversed(path.read_bytes())) + b"half")
    elif index == "not rising":
        path.write_bytes(path.read_bytes()[:80] * 7)
    partition = connection.open("t", 0, 301)
    for offset in (301, 0, 1, 599, 12, 600, 450, 452, 602, 603):
        partition.seek(offset)
        assert read_all(partition, 3000) == 603
        assert read_all(connection.open("t", 0, offset), 70_000) == 603


def test_a_reader_goes_on_in_a_file_that_retention_unlinked(worker: WorkerProcess, connection: ShmConnection) -> None:
    worker.append(topic="t", count=2, batches=3)
    partition = connection.open("t", 0, 0)
    idle = connection.open("t", 0, 0)
    assert check_batches(partition.read(1), 0) == 2
    worker.roll(topic="t")
    worker.append(topic="t", count=2, batches=3)
    worker.roll(topic="t")
    assert worker.drop_oldest(topic="t", count=1) == 6
    assert check_batches(partition.read(1), 2) == 4
    assert read_all(partition) == 12
    assert worker.append(topic="t", count=1) == 13
    worker.roll(topic="t")
    assert worker.drop_oldest(topic="t", count=1) == 12
    # Its own file is there, the one after it is not.
    with pytest.raises(OffsetOutOfRange) as refused:
        read_all(idle)
    assert refused.value.earliest == 12
    assert idle.offset == 6


def test_an_offset_that_retention_took_is_out_of_range(worker: WorkerProcess, connection: ShmConnection) -> None:
    worker.append(topic="t", count=3)
    partition = connection.open("t", 0, 0)
    worker.roll(topic="t")
    worker.append(topic="t", count=3)
    assert worker.drop_oldest(topic="t", count=1) == 3
    with pytest.raises(OffsetOutOfRange) as refused:
        partition.seek(0)
    assert (refused.value.earliest, refused.value.next_offset) == (3, 6)
    partition.seek(3)
    assert read_all(partition) == 6
    for offset in (2, 7):
        with pytest.raises(OffsetOutOfRange) as refused:
            connection.open("t", 0, offset)
        assert (refused.value.earliest, refused.value.next_offset) == (3, 6)


def test_deletion_wakes_and_ends_a_reader(worker: WorkerProcess, connection: ShmConnection) -> None:
    worker.append(topic="t", count=1)
    partition = connection.open("t", 0, 1)
    assert connection.arm([partition])
    worker.delete(topic="t")
    assert connection.dispatch() == [partition]
    with pytest.raises(UnknownTopicOrPartition):
        partition.read()
    with pytest.raises(UnknownTopicOrPartition):
        connection.open("t", 0, 0)


def test_a_partition_that_its_worker_lets_go_is_read_to_its_end(
    worker: WorkerProcess, connection: ShmConnection
) -> None:
    worker.append(topic="t", count=2)
    partition = connection.open("t", 0, 0)
    worker.let_go(topic="t")
    assert check_batches(partition.read(), 0) == 2
    assert not connection.arm([partition])
    with pytest.raises(ConnectionLost):
        partition.read()


def test_wakes_once_and_at_once(worker: WorkerProcess, connection: ShmConnection) -> None:
    partition = connection.open("t", 0, 0)
    assert connection.arm([partition])
    assert connection.arm([partition])
    assert connection.dispatch() == []
    worker.append(topic="t", count=1, batches=3)
    assert connection.dispatch() == [partition]
    assert connection.dispatch() == []
    assert not connection.arm([partition])
    assert read_all(partition) == 3
    assert worker.facts()["armed"] == 0


def test_read_committed_ends_at_the_last_stable_offset(worker: WorkerProcess, connection: ShmConnection) -> None:
    worker.append(topic="t", count=1, batches=3)
    worker.hold_stable(topic="t", hold=True)
    worker.append(topic="t", count=1, batches=2)
    worker.roll(topic="t")
    worker.append(topic="t", count=1, batches=2)
    committed = connection.open("t", 0, 0, committed=True)
    plain = connection.open("t", 0, 0)
    beyond = connection.open("t", 0, 6, committed=True)
    assert read_all(committed) == 3
    assert read_all(plain) == 7
    assert beyond.read().tobytes() == b""
    assert connection.arm([committed, plain, beyond])
    worker.append(topic="t", count=1)
    assert connection.dispatch() == [plain]
    worker.hold_stable(topic="t", hold=False)
    assert set(connection.dispatch()) == {committed, beyond}
    assert read_all(committed) == read_all(plain) == read_all(beyond) == 8


def test_a_replaced_file_is_asked_for_anew(worker: WorkerProcess, connection: ShmConnection) -> None:
    worker.append(topic="t", count=1, batches=4)
    partition = connection.open("t", 0, 0)
    at_end = connection.open("t", 0, 4)
    assert check_batches(partition.read(1), 0) == 1
    assert worker.repair(topic="t") == 4
    worker.append(topic="t", count=1, batches=4)
    assert read_all(partition) == read_all(at_end) == 8


def test_records_that_a_repair_lost_are_noticed(worker: WorkerProcess, connection: ShmConnection) -> None:
    worker.append(topic="t", count=1, batches=4)
    partition = connection.open("t", 0, 0)
    assert read_all(partition) == 4
    assert worker.repair(topic="t", keep_bytes=2 * 161 + 10) == 2
    assert not connection.arm([partition])
    with pytest.raises(LogTruncated) as cut:
        partition.read()
    assert (cut.value.offset, cut.value.diverging_offset) == (4, 2)
    worker.append(topic="t", count=1, batches=4)
    partition.seek(2)
    assert read_all(partition) == 6


def test_many_partitions_wake_one_by_one(worker: WorkerProcess, connection: ShmConnection) -> None:
    for partition in range(1, 40):
        worker.create(topic="t", partition=partition)
    opened = [connection.open("t", partition, 0) for partition in range(40)]
    assert connection.arm(opened)
    for partition in (7, 30):
        worker.append(topic="t", count=1, partition=partition)
    assert {p.partition.partition for p in connection.dispatch()} == {7, 30}
    opened[8].close()
    worker.append(topic="t", count=1, partition=8)
    worker.append(topic="t", count=1, partition=9)
    assert connection.dispatch() == [opened[9]]
    assert not connection.arm([opened[9]])


def test_a_wake_that_comes_beside_an_answer_is_not_lost(worker: WorkerProcess, connection: ShmConnection) -> None:
    partition = connection.open("t", 0, 0)
    assert connection.arm([partition])
    worker.append(topic="t", count=1)
    connection.open("t", 0, 0).close()  # takes the wake from the socket
    assert not connection.arm([partition])
    assert read_all(partition) == 1
    assert connection.arm([partition])
    assert connection.dispatch() == [partition]
    worker.append(topic="t", count=1)
    assert connection.dispatch() == [partition]


def test_a_reader_whose_worker_died_at_a_roll_must_reconnect(worker: WorkerProcess) -> None:
    worker.append(topic="t", count=1)
    with ShmConnection(worker.path) as connection:
        partition = connection.open("t", 0, 0)
        worker.roll(topic="t")
        worker.append(topic="t", count=1)
        worker.kill()
        with pytest.raises(ConnectionLost):
            partition.read()
        assert partition.offset == 0
    worker.start()
    worker.create(topic="t")
    with ShmConnection(worker.path) as connection:
        assert read_all(connection.open("t", 0, 0)) == 2


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match="no worker answers"):
        ShmConnection(tmp_path / "none")


def test_a_worker_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    path = str(tmp_path / "deaf")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
        deaf.bind(path)
        deaf.listen(0)
        with pytest.raises(BrokerUnavailable, match="has not answered within"):
            ShmConnection(path, timeout_s=0.05)
        full = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for one in full:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(path)
        with pytest.raises(BrokerUnavailable, match="no worker answers"):
            ShmConnection(path, timeout_s=0.05)
        for one in full:
            one.close()


def test_reads_on_after_kill_and_restart(worker: WorkerProcess) -> None:
    worker.append(topic="t", count=2, batches=5)
    with ShmConnection(worker.path) as connection:
        partition = connection.open("t", 0, 0)
        assert check_batches(partition.read(100), 0) == 2
        worker.kill()
        # What was published is there.
        assert read_all(partition) == 10
        with pytest.raises(ConnectionLost):
            connection.dispatch()
        with pytest.raises(ConnectionLost):
            connection.arm([partition])
        epoch = partition.facts().leader_epoch
    worker.start()
    worker.create(topic="t")
    with ShmConnection(worker.path) as connection:
        partition = connection.open("t", 0, 10, epoch)
        assert partition.facts().leader_epoch > epoch
        worker.append(topic="t", count=2)
        assert read_all(partition) == 12


def test_a_log_that_was_cut_is_noticed(worker: WorkerProcess) -> None:
    worker.append(topic="t", count=1, batches=4)
    with ShmConnection(worker.path) as connection:
        partition = connection.open("t", 0, 0)
        assert read_all(partition) == 4
        epoch = partition.facts().leader_epoch
    worker.kill()
    file = next((worker.folder / "t-0").glob("*.log"))
    with file.open("r+b") as log:  # as a power cut does with what was not synced
        log.truncate(161 * 2)
    worker.start()
    worker.create(topic="t")
    worker.append(topic="t", count=1, batches=9)
    with ShmConnection(worker.path) as connection:
        with pytest.raises(LogTruncated) as cut:
            connection.open("t", 0, 4, epoch)
        assert cut.value.diverging_offset == 2
        assert read_all(connection.open("t", 0, 2, epoch)) == 11


def test_a_worker_killed_while_publishing_does_not_hang_its_readers(worker: WorkerProcess) -> None:
    worker.append(topic="t", count=1)
    with ShmConnection(worker.path) as connection:
        partition = connection.open("t", 0, 0)
        assert partition.facts().high_watermark == 1
        worker.send("die_while_publishing", topic="t")
        worker.wait()
        assert partition._page.snapshot() is None
        assert read_all(partition) == 1
        with pytest.raises(ConnectionLost):
            connection.arm([partition])


@pytest.mark.slow
def test_ten_thousand_opens_leak_nothing(worker: WorkerProcess, connection: ShmConnection) -> None:
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("\n")

    worker.append(topic="t", count=1)

    def open_and_close(count: int) -> None:
        for _ in range(count):
            partition = connection.open("t", 0, 0)
            assert partition.read()
            partition.close()

    open_and_close(50)
    before, worker_before = held(), worker.facts()
    open_and_close(10_000)
    descriptors, mappings = held()
    assert descriptors == before[0]
    assert mappings <= before[1] + 20  # the allocator's own come and go
    assert worker.facts() == worker_before
