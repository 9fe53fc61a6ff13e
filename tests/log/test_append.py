"""Append, visibility, group commit."""

from __future__ import annotations

import errno

import pytest

from kbroker.config import LogConfig
from kbroker.errors import (
    CorruptMessage,
    DuplicateSequence,
    InvalidProducerEpoch,
    InvalidRecord,
    InvalidTimestamp,
    MessageTooLarge,
    OutOfOrderSequence,
    StorageError,
)
from kbroker.log import LogPosition
from kbroker.records.batch import check_batches, patch_log_append_time, read_header
from kbroker.records.codec import iter_batches

from .batches import batch, flush, opened_anew, records
from .conftest import Open
from .disks import FailingDisk


def test_offsets_and_epoch_are_set(open_log: Open) -> None:
    log = open_log(leader_epoch=4)
    first = log.append(batch(3), 9_000, sync=False)
    second = log.append(bytes(batch(2) + batch(1)), 9_000, sync=False)
    assert (first.base_offset, first.next_offset, first.sync_needed, first.append_time_ms) == (0, 3, False, -1)
    assert (second.base_offset, second.next_offset, second.batch_offsets) == (3, 6, (3, 5))
    data = log.read(0, 1 << 20).read()
    headers = [read_header(one) for one in iter_batches(data)]
    assert [(h.base_offset, h.leader_epoch) for h in headers] == [(0, 4), (3, 4), (5, 4)]
    assert len(check_batches(data, 1 << 20)) == 3
    assert log.high_watermark == log.next_offset == 6
    assert log.size_bytes == len(data)


def test_a_read_only_buffer_is_not_touched(open_log: Open) -> None:
    log = open_log()
    log.append(batch(1), 9_000, sync=False)
    data = bytes(batch(1))
    kept = bytes(bytearray(data))
    log.append(memoryview(data), 9_000, sync=False)
    assert data == kept


def test_acks_all_is_hidden_until_synced(open_log: Open) -> None:
    log = open_log()
    log.append(batch(2), 9_000, sync=False)
    result = log.append(batch(3), 9_000, sync=True)
    log.append(batch(1), 9_000, sync=False)
    assert log.high_watermark == log.last_stable_offset == 2
    assert log.high_watermark_position == LogPosition(2, 0, len(batch(2)))
    assert len(records(log)) == 2
    assert len(records(log, up_to="log_end")) == 6
    assert result.sync_needed
    assert result.ack_offset > log.acknowledged_offset
    assert log.needs_sync
    work = log.begin_flush()
    assert work is not None
    assert log.begin_flush() is None, "one at a time"
    late = log.append(batch(1), 9_000, sync=True)
    work.run()
    log.finish_flush(work, 9_000)
    assert log.high_watermark == 6
    assert log.acknowledged_offset >= result.ack_offset
    assert log.acknowledged_offset < late.ack_offset
    flush(log)
    assert log.acknowledged_offset == log.high_watermark == 7
    assert (log.needs_sync, log.unsynced, log.begin_flush()) == (False, False, None)


def test_page_cache_acknowledges_at_once(open_log: Open) -> None:
    log = open_log(flush_acks_all="page-cache")
    result = log.append(batch(2), 9_000, sync=True)
    assert not result.sync_needed
    assert log.acknowledged_offset == log.high_watermark == 2
    assert log.unsynced


def test_log_append_time(open_log: Open) -> None:
    log = open_log(timestamp_type="LogAppendTime")
    assert log.append(batch(2), 12_345, sync=False).append_time_ms == 12_345
    assert [(r[1], r[2]) for r in records(log)] == [(12_345, 1)] * 2


def test_timestamps_too_far_ahead_are_refused_unless_the_broker_stamps(open_log: Open) -> None:
    log = open_log(timestamp_after_max_ms=500)
    with pytest.raises(InvalidTimestamp, match=r"9501 is after 9500.*message\.timestamp\.after\.max\.ms"):
        log.append(batch(2, timestamp_ms=9_500), 9_000, sync=False)
    assert log.append(batch(2, timestamp_ms=9_499), 9_000, sync=False).base_offset == 0
    log.configure(LogConfig(timestamp_after_max_ms=500, timestamp_type="LogAppendTime"))
    assert log.append(batch(2, timestamp_ms=99_000), 9_000, sync=False).base_offset == 2


def test_a_flush_is_due_after_so_many_records(open_log: Open) -> None:
    log = open_log(flush_messages=3)
    due = []
    for count in (2, 1):
        log.append(batch(count), 9_000, sync=False)
        due.append(log.flush_due)
    flush(log)
    assert [*due, log.flush_due] == [False, True, False]


def test_a_producer_may_not_claim_log_append_time(open_log: Open) -> None:
    data = batch(2)
    patch_log_append_time(data, check_batches(data, 1 << 20)[0], 5)
    with pytest.raises(InvalidTimestamp, match="LogAppendTime"):
        open_log().append(data, 9_000, sync=False)


def test_refused_batches_leave_no_trace(open_log: Open) -> None:
    log = open_log(message_max_bytes=200)
    with pytest.raises(MessageTooLarge):
        log.append(batch(50), 9_000, sync=False)
    with pytest.raises(CorruptMessage):
        log.append(batch(1) + batch(1)[:-3], 9_000, sync=False)
    transactional = batch(1, producer_id=1)
    transactional[22] |= 0x10
    with pytest.raises(CorruptMessage):
        log.append(transactional, 9_000, sync=False)
    assert (log.next_offset, log.size_bytes, len(log.producers)) == (0, 0, 0)


def test_a_full_disk_is_cut_back(open_log: Open, disk: FailingDisk) -> None:
    log = open_log()
    log.append(batch(2), 9_000, sync=False)
    size = log.segments[-1].path.stat().st_size
    disk.space = 50
    with pytest.raises(StorageError, match="No space left"):
        log.append(batch(2, producer_id=4), 9_000, sync=True)
    assert log.segments[-1].path.stat().st_size == size
    disk.space = None
    assert log.append(batch(2, producer_id=4), 9_000, sync=False).base_offset == 2
    assert len(records(log)) == 4


def test_a_write_that_cannot_be_taken_back_fails_the_log(open_log: Open, disk: FailingDisk) -> None:
    log = open_log()
    disk.space, disk.failing = 50, {"truncate": errno.EIO}  # a part of it fits
    with pytest.raises(StorageError):
        log.append(batch(1), 9_000, sync=False)
    disk.space, disk.failing = None, {}
    with pytest.raises(StorageError, match="taken back"):
        log.append(batch(1), 9_000, sync=False)
    log = opened_anew(log, 9_000)
    assert log.append(batch(1), 9_000, sync=False).base_offset == 0


def test_a_write_of_nothing_leaves_nothing_to_take_back(open_log: Open, disk: FailingDisk) -> None:
    """As on a file system that has turned read-only: the log goes on when it takes writes again."""
    log = open_log()
    disk.failing = {"pwrite": errno.EROFS, "truncate": errno.EROFS}
    with pytest.raises(StorageError, match="Read-only file system"):
        log.append(batch(1), 9_000, sync=False)
    assert log.failed is None
    disk.failing = {}
    assert log.append(batch(1), 9_000, sync=False).base_offset == 0


class TestProducers:
    def test_a_duplicate_gets_its_first_offsets(self, open_log: Open) -> None:
        log = open_log()
        log.append(batch(5), 9_000, sync=False)
        first = log.append(batch(2, producer_id=7, sequence=0), 9_000, sync=False)
        for n in range(1, 5):
            log.append(batch(2, producer_id=7, sequence=2 * n), 9_000, sync=False)
        again = log.append(batch(2, producer_id=7, sequence=0), 9_000, sync=True)
        assert again.duplicate
        assert (again.base_offset, again.next_offset) == (first.base_offset, first.next_offset)
        assert again.ack_offset > log.acknowledged_offset, "acks=1 at first: not on the disk yet"
        assert log.needs_sync
        flush(log)
        assert log.acknowledged_offset >= again.ack_offset
        assert log.next_offset == 15

    def test_sequences(self, open_log: Open) -> None:
        log = open_log()
        log.append(batch(2, producer_id=7), 9_000, sync=False)
        with pytest.raises(OutOfOrderSequence, match="3 follows 1; 2 is expected"):
            log.append(batch(2, producer_id=7, sequence=3), 9_000, sync=False)
        for n in range(1, 7):
            log.append(batch(2, producer_id=7, sequence=2 * n), 9_000, sync=False)
        with pytest.raises(DuplicateSequence):
            log.append(batch(2, producer_id=7, sequence=0), 9_000, sync=False)

    def test_epochs(self, open_log: Open) -> None:
        log = open_log()
        log.append(batch(2, producer_id=7, producer_epoch=1), 9_000, sync=False)
        with pytest.raises(InvalidProducerEpoch, match="too late"):
            log.append(batch(2, producer_id=7, producer_epoch=0, sequence=2), 9_000, sync=False)
        with pytest.raises(OutOfOrderSequence, match="0 is expected"):
            log.append(batch(2, producer_id=7, producer_epoch=2, sequence=2), 9_000, sync=False)
        log.append(batch(2, producer_id=7, producer_epoch=2, sequence=0), 9_000, sync=False)

    def test_an_unknown_producer_may_begin_anywhere(self, open_log: Open) -> None:
        assert open_log().append(batch(2, producer_id=7, sequence=40), 9_000, sync=False).base_offset == 0

    def test_sequences_wrap_around(self, open_log: Open) -> None:
        log = open_log()
        log.append(batch(4, producer_id=7, sequence=2**31 - 3), 9_000, sync=False)
        log.append(batch(1, producer_id=7, sequence=1), 9_000, sync=False)
        assert log.append(batch(4, producer_id=7, sequence=2**31 - 3), 9_000, sync=False).duplicate
        log.abandon()

    def test_several_batches_partly_repeated(self, open_log: Open) -> None:
        log = open_log()
        a, b = batch(2, producer_id=7, sequence=0), batch(3, producer_id=7, sequence=2)
        log.append(bytes(a), 9_000, sync=False)
        log.append(batch(1), 9_000, sync=False)
        result = log.append(bytes(a + b), 9_000, sync=False)
        assert (result.duplicate, result.batch_offsets, result.next_offset) == (False, (0, 3), 6)
        again = log.append(bytes(a + b), 9_000, sync=False)
        assert (again.duplicate, again.batch_offsets, again.next_offset) == (True, (0, 3), 6)
        with pytest.raises(InvalidRecord, match="before repeated"):
            log.append(batch(1) + a, 9_000, sync=False)

    def test_state_outlives_close_and_crash(self, open_log: Open) -> None:
        for end in ("close", "crash", "flushed crash"):
            log = open_log()
            start = log.next_offset
            for n in range(6):
                log.append(batch(1, producer_id=50 + start, sequence=n), 9_000, sync=False)
            if end == "close":
                log.close(9_000)
            elif end == "flushed crash":
                flush(log, force=True)
            log.abandon()
            log = open_log()
            assert log.recovery.clean == (end == "close")
            for n in range(1, 6):
                again = log.append(batch(1, producer_id=50 + start, sequence=n), 9_000, sync=False)
                assert (again.duplicate, again.base_offset) == (True, start + n)
            log.abandon()

    def test_silent_producers_are_forgotten(self, open_log: Open) -> None:
        log = open_log(producer_id_expiration_ms=1_000)
        log.append(batch(1, producer_id=1), 9_000, sync=False)
        log.append(batch(1, producer_id=2), 9_900, sync=False)
        log.retain(10_001)
        assert log.producers.get(1) is None
        assert log.producers.get(2) is not None


class TestFailedFlush:
    def test_nothing_more_is_acknowledged_until_repaired(self, open_log: Open, disk: FailingDisk) -> None:
        log = open_log()
        log.append(batch(2, producer_id=3), 9_000, sync=True)
        flush(log)
        log.append(batch(2, producer_id=3, sequence=2), 9_000, sync=True)
        reader = log.read(0, 1 << 20)
        work = log.begin_flush()
        assert work is not None
        disk.failing["fdatasync"] = errno.EIO
        with pytest.raises(OSError, match="Input/output"):
            work.run()
        log.fail_flush(work, OSError(errno.EIO, "Input/output error"))
        disk.failing = {}
        assert log.begin_flush() is None
        assert log.acknowledged_offset == 2
        with pytest.raises(StorageError, match="failed to sync"):
            log.append(batch(1), 9_000, sync=False)
        assert len(records(log)) == 2, "reads go on"
        inode = log.segments[0].path.stat().st_ino
        epoch = log.leader_epoch
        log = opened_anew(log, 9_000)
        assert log.segments[0].path.stat().st_ino != inode, "in a new file"
        assert log.leader_epoch > epoch
        assert log.acknowledged_offset == log.high_watermark == 4
        assert len(reader.read()) == reader.size_bytes
        assert log.append(batch(2, producer_id=3, sequence=2), 9_000, sync=True).duplicate
        assert not (log.folder / "flush-failed").exists()

    def test_the_next_owner_knows(self, open_log: Open, disk: FailingDisk) -> None:
        log = open_log()
        log.append(batch(2), 9_000, sync=True)
        work = log.begin_flush()
        assert work is not None
        disk.failing_once.add("fdatasync")
        with pytest.raises(OSError, match="Input/output") as raised:
            work.run()
        log.fail_flush(work, raised.value)
        inode = log.segments[0].path.stat().st_ino
        log.close(9_000)
        log = open_log()
        assert not log.recovery.clean
        assert log.segments[0].path.stat().st_ino != inode
        assert len(records(log)) == 2
        log.close(9_000)
        assert open_log().recovery.clean
