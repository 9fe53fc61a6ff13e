"""Several requests' batches by one write: as if they had been appended one by one, or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kbroker.config import LogConfig
from kbroker.errors import OutOfOrderSequence, StorageError
from kbroker.log import PartitionLog
from kbroker.records.batch import check_batches, read_header

from .batches import PARTITION, TOPIC_ID, batch, flush, opened_anew, records
from .conftest import Open
from .disks import FailingDisk


def views(*requests: bytes | bytearray) -> list[memoryview]:
    """Each where a client's bytes lie: in memory that may be patched."""
    return [memoryview(bytearray(request)) for request in requests]


def files(log: PartitionLog) -> dict[str, bytes]:
    """Name and content of every file with data, once all indexes are written."""
    flush(log, force=True)
    return {path.name: path.read_bytes() for path in log.folder.iterdir()}


def test_the_files_are_as_after_one_by_one(tmp_path: Path) -> None:
    requests = [batch(count, timestamp_ms=1_000 + 7 * count, size_bytes=900) for count in (3, 1, 9, 2, 30, 5)]
    requests += [batch(4, producer_id=9, sequence=0), batch(2, producer_id=9, sequence=4), batch(1, producer_id=3)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = (
        PartitionLog.open(tmp_path / name / "orders-3", PARTITION, TOPIC_ID, LogConfig(), 0, 9_000) for name in "ab"
    )
    single = [one.append(request, 9_000, sync=False).base_offset for request in requests]
    together = other.append_together(views(*requests), 9_000, sync=False)
    assert together is not None
    assert together.batch_offsets == tuple(single)
    assert (together.base_offset, together.next_offset) == (0, one.next_offset)
    assert (other.size_bytes, other.next_offset) == (one.size_bytes, one.next_offset)
    assert files(one) == files(other)


def test_they_are_hidden_together_until_they_are_synced(open_log: Open) -> None:
    log = open_log()
    log.append(batch(2), 9_000, sync=False)
    result = log.append_together(views(batch(3), batch(1)), 9_000, sync=True)
    assert result is not None
    assert (log.high_watermark, result.sync_needed, result.ack_offset) == (2, True, 6)
    flush(log)
    assert (log.high_watermark, log.acknowledged_offset) == (6, 6)


@pytest.mark.parametrize(
    "odd",
    [
        batch(1)[:-1] + b"?",
        batch(1) + batch(1),
        b"",
        batch(1, timestamp_ms=99_000),
        batch(2, producer_id=7, sequence=0),
        batch(2, producer_id=7, sequence=5),
        batch(800),
    ],
    ids=["crc", "two batches", "nothing", "timestamp", "repeated", "out of order", "too large for the segment"],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_with_anything_unusual_nothing_is_appended(open_log: Open, odd: bytes, place: int) -> None:
    log = open_log(timestamp_after_max_ms=50_000, segment_bytes=20_000)
    log.append(batch(2, producer_id=7, sequence=0), 9_000, sync=False)
    before = (log.size_bytes, log.next_offset, records(log), log.producers.snapshot())
    requests = views(batch(1, producer_id=8), batch(1, producer_id=7, sequence=2))
    requests[place:place] = views(odd)
    assert log.append_together(requests, 9_000, sync=True) is None
    assert (log.size_bytes, log.next_offset, records(log), log.producers.snapshot()) == before
    assert log.high_watermark == log.next_offset
    # The others go in one by one, as if nothing had been tried.
    del requests[place]
    assert [log.append(request, 9_000, sync=False).base_offset for request in requests] == [2, 3]


def test_what_the_disk_does_not_take_whole_is_cut_back(open_log: Open, disk: FailingDisk) -> None:
    log = open_log()
    log.append(batch(2), 9_000, sync=False)
    size = log.segments[-1].path.stat().st_size
    requests = views(batch(2, producer_id=4), batch(2, producer_id=4, sequence=2))
    disk.space = len(requests[0]) + 10
    assert log.append_together(requests, 9_000, sync=True) is None
    assert log.segments[-1].path.stat().st_size == size
    assert len(log.producers) == 0
    # By itself the first one fits.
    disk.space = len(requests[0])
    assert log.append(requests[0], 9_000, sync=False).base_offset == 2
    with pytest.raises(StorageError, match="No space left"):
        log.append(requests[1], 9_000, sync=False)
    disk.space = None
    assert log.append(requests[1], 9_000, sync=False).base_offset == 4


def test_a_short_write_is_ended(open_log: Open, disk: FailingDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log()
    whole = disk.pwritev
    monkeypatch.setattr(
        disk, "pwritev", lambda file, pieces, position: whole(file, [pieces[0], pieces[1][:9]], position)
    )
    assert log.append_together(views(batch(2), batch(3), batch(1)), 9_000, sync=False) is not None
    assert len(records(log)) == 6


def test_a_write_that_cannot_be_taken_back_fails_the_log(open_log: Open, disk: FailingDisk) -> None:
    log = open_log()
    disk.space, disk.failing = 50, {"truncate": errno.EIO}  # a part of it fits
    assert log.append_together(views(batch(1), batch(1)), 9_000, sync=False) is None
    disk.space, disk.failing = None, {}
    assert log.append_together(views(batch(1), batch(1)), 9_000, sync=False) is None
    with pytest.raises(StorageError, match="taken back"):
        log.append(batch(1), 9_000, sync=False)
    log = opened_anew(log, 9_000)
    assert log.append_together(views(batch(1), batch(1)), 9_000, sync=False) is not None


def test_the_brokers_clock_stamps_each(open_log: Open) -> None:
    log = open_log(timestamp_type="LogAppendTime")
    result = log.append_together(views(batch(2), batch(1)), 12_345, sync=False)
    assert result is not None
    assert result.append_time_ms == 12_345
    found = check_batches(log.segments[-1].path.read_bytes(), 1 << 20)
    assert [(facts.log_append_time, facts.max_timestamp) for facts in found] == [(True, 12_345)] * 2


def test_more_requests_than_the_kernel_takes_at_once(tmp_path: Path) -> None:
    log = PartitionLog.open(tmp_path / "orders-3", PARTITION, TOPIC_ID, LogConfig(), 0, 9_000)
    result = log.append_together(views(*[batch(1)] * 1_500), 9_000, sync=False)
    assert result is not None
    assert len(records(log)) == 1_500


def test_sequences_go_on_after_it(open_log: Open) -> None:
    log = open_log()
    assert log.append_together(views(*(batch(2, producer_id=7, sequence=2 * n) for n in range(7))), 9_000, sync=False)
    again = log.append(batch(2, producer_id=7, sequence=12), 9_000, sync=False)
    assert (again.duplicate, again.base_offset) == (True, 12)
    with pytest.raises(OutOfOrderSequence):
        log.append(batch(2, producer_id=7, sequence=16), 9_000, sync=False)
    header = read_header(log.segments[-1].path.read_bytes())
    assert header.leader_epoch == log.leader_epoch
