"""Rolling, reading across segments, look-ups, retention, deletion."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kbroker.config import LogConfig
from kbroker.errors import OffsetOutOfRange, StartError, StorageError
from kbroker.log import PartitionLog
from kbroker.log.epochs import LeaderEpochs
from kbroker.log.index import OffsetIndex, TimeIndex
from kbroker.records.batch import write_crc

from .batches import PARTITION, TOPIC_ID, batch, delete_due, flush, records, remove
from .conftest import Open
from .disks import FailingDisk


def fill(log: PartitionLog, count: int = 40, step_ms: int = 10) -> None:
    for number in range(count):
        log.append(batch(5, timestamp_ms=1_000 + number * step_ms), 9_000, sync=False)


def test_rolls_by_size(open_log: Open) -> None:
    log = open_log(segment_bytes=1_000)
    fill(log)
    assert len(log.segments) > 5
    assert all(segment.size_bytes <= 1_000 for segment in log.segments)
    assert [r[0] for r in records(log)] == list(range(200))
    assert [r[0] for r in records(log, max_bytes=0)] == list(range(200)), "one batch at least"


def test_rolls_by_timestamp_and_by_clock(open_log: Open) -> None:
    log = open_log(segment_ms=100)
    log.append(batch(1, timestamp_ms=1_000), 9_000, sync=False)
    log.append(batch(1, timestamp_ms=1_100), 9_000, sync=False)
    assert len(log.segments) == 1
    log.append(batch(1, timestamp_ms=1_101), 9_000, sync=False)
    assert log.bases == [0, 2]
    assert not log.maybe_roll(9_100)
    assert log.maybe_roll(9_101)
    assert not log.maybe_roll(99_999), "an empty segment stays"
    assert log.bases == [0, 2, 3]


def test_every_offset_is_found(open_log: Open) -> None:
    log = open_log(segment_bytes=2_000, index_interval_bytes=200)
    fill(log)
    for reopened in (False, True):
        if reopened:
            log.close(9_000)
            log = open_log()
        for offset in range(200):
            found = log.read(offset, 100)
            assert found.base_offset == offset - offset % 5
            assert found.next_offset > offset
        assert log.read(200, 100).size_bytes == 0
        for offset in (-1, 201):
            with pytest.raises(OffsetOutOfRange, match=r"0 … 200") as caught:
                log.read(offset, 100)
            assert (caught.value.earliest, caught.value.next_offset) == (0, 200)


def test_segment_for(open_log: Open) -> None:
    log = open_log()
    log.append(batch(5), 9_000, sync=False)
    log.roll(9_000)
    first, last = log.segment_for(2), log.segment_for(5)
    assert (first.base_offset, first.closed, first.next_base_offset) == (0, True, 5)
    assert (last.base_offset, last.closed, last.next_base_offset, last.size_bytes) == (5, False, None, 0)
    assert first.path.stat().st_size == first.size_bytes
    assert log.high_watermark_position == (5, 5, 0)


@pytest.mark.parametrize("codec", [0, 4])
def test_look_up_by_timestamp(open_log: Open, codec: int) -> None:
    log = open_log(segment_bytes=1_500, index_interval_bytes=200)
    stamps = []
    for number in range(50):
        at = 1_000 + (number * 37) % 400
        log.append(batch(3, timestamp_ms=at, codec=codec, size_bytes=60), 9_000, sync=False)
        stamps += [at, at + 1, at + 2]
    for wanted in range(990, 1_410, 3):
        expected = next(((n, at) for n, at in enumerate(stamps) if at >= wanted), None)
        assert log.offset_for_timestamp(wanted) == expected
    log.append(batch(1, timestamp_ms=5_000), 9_000, sync=True)
    assert log.offset_for_timestamp(4_000) is None, "not shown yet"


@pytest.mark.parametrize("codec", [0, 4])
def test_a_look_up_ends_where_its_bound_is_reached(open_log: Open, codec: int) -> None:
    """Headers that lie cost no more than that; from the offset that is said nothing is missed."""
    log = open_log(decompressed_bytes_max=1 << 20, message_max_bytes=1 << 24)
    for _ in range(10):
        sent = batch(10_000, timestamp_ms=1_000, codec=codec, size_bytes=20)
        sent[35:43] = (90_000).to_bytes(8, "big")
        write_crc(sent, 0, len(sent))
        log.append(sent, 90_000, sync=False)
    found = log.offset_for_timestamp(50_000)
    assert found in ((20_000, 90_000), (30_000, 90_000)), "the first batch that was not looked into"
    assert log.offset_for_timestamp(1_500) == (500, 1_500)
    assert log.offset_for_timestamp(90_001) is None


def test_retention_by_size_and_time(open_log: Open) -> None:
    log = open_log(segment_bytes=1_000, retention_bytes=2_500, retention_ms=-1, delete_delay_ms=500)
    fill(log)
    held = log.read(0, 1 << 20)
    removed = log.retain(10_000)
    remove(log, 10_000)
    assert removed
    assert log.size_bytes >= 2_500
    assert log.log_start_offset == log.segments[0].base_offset == removed[-1].next_base_offset
    with pytest.raises(OffsetOutOfRange):
        log.read(0, 100)
    assert delete_due(log, 10_499) == 0
    assert delete_due(log, 10_500) == 3 * len(removed) - 1, "what is still read stays"
    assert len(held.read()) == held.size_bytes, "a slice outlives its segment"
    del held
    assert delete_due(log, 10_500) == 1
    assert records(log)[0][0] == log.log_start_offset
    log.configure(LogConfig(segment_bytes=1_000, retention_ms=1_000))
    log.retain(1_000 + 39 * 10 + 4 + 1_001)
    remove(log, 10_000)
    assert log.log_start_offset == log.next_offset == 200, "all were too old; the active one rolled first"
    log.close(9_000)
    again = open_log()
    assert (again.log_start_offset, again.next_offset) == (200, 200)
    assert not list(log.folder.glob("*-delete"))


@pytest.mark.parametrize(("policy", "left"), [(("delete",), 1), (("compact", "delete"), 1), (("compact",), 4), ((), 4)])
def test_only_the_policy_delete_takes_segments_by_age_and_size(
    open_log: Open, policy: tuple[str, ...], left: int
) -> None:
    log = open_log(segment_bytes=1_000, retention_bytes=0, retention_ms=1, cleanup_policy=policy)
    for n in range(4):
        log.append(batch(5, timestamp_ms=1_000 + n, size_bytes=150), 9_000, sync=False)
        flush(log)
    log.retain(9_500)
    assert (len(log.segments), log.log_start_offset > 0) == (left, left == 1)


def test_retention_keeps_what_is_not_shown(open_log: Open) -> None:
    log = open_log(segment_bytes=1_000, retention_bytes=0)
    log.append(batch(5), 9_000, sync=True)
    fill(log)
    assert log.retain(10_000) == []
    flush(log)
    assert log.retain(10_000)


def test_leftovers_are_tidied(open_log: Open, folder: Path) -> None:
    log = open_log()
    fill(log, 3)
    log.close(9_000)
    for name in ("x.tmp", "00000000000000000000.log.swap", "00000000000000000099.index"):
        (folder / name).write_bytes(b"?")
    (folder / "00000000000000000000.log.deleted").write_bytes(b"?")
    (folder / "somebody's notes").write_bytes(b"?")
    log = open_log()
    assert delete_due(log, 9_000) == 1
    left = {path.name for path in folder.iterdir()}
    assert "somebody's notes" in left
    assert not {n for n in left if n.endswith((".tmp", ".swap", ".deleted"))}
    assert "00000000000000000099.index" not in left


def test_one_owner(open_log: Open, folder: Path) -> None:
    log = open_log()
    with pytest.raises(StartError, match="locked by another process"):
        open_log()
    log.close(9_000)
    with pytest.raises(StorageError, match="belongs to topic id AAECAwQFBgcICQoLDA0ODw"):
        open_log(topic_id=bytes(16))
    log = open_log()
    fill(log, 1)
    log.close(9_000)
    (folder / "partition.metadata").unlink()
    with pytest.raises(StorageError, match="not known whose"):
        open_log()


def test_epochs_rise(open_log: Open) -> None:
    log = open_log(leader_epoch=3)
    fill(log, 2)
    log.abandon()
    log = open_log()
    assert log.leader_epoch == 4
    log.abandon()
    log = open_log(leader_epoch=9)
    fill(log, 1)
    assert [log.epoch_end_offset(epoch) for epoch in (2, 3, 4, 8, 9, 10)] == [
        (2, 0), (3, 10), (3, 10), (3, 10), (9, 15), (-1, -1),
    ]  # fmt: skip
    log.close(9_000)


def test_delete_renames_first(open_log: Open, folder: Path) -> None:
    log = open_log()
    fill(log, 1)
    log.close(9_000)
    gone = PartitionLog.delete(folder)
    assert gone.name.startswith("orders-3.")
    assert gone.name.endswith("-delete")
    assert not folder.exists()
    PartitionLog.purge(gone)
    assert not gone.exists()


def test_modes(open_log: Open, folder: Path) -> None:
    umask = os.umask(0)
    try:
        log = open_log()
        log.close(9_000)
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}


def test_a_read_only_folder_says_so(folder: Path, disk: FailingDisk) -> None:
    disk.failing["fdatasync"] = 30  # EROFS
    with pytest.raises(StorageError, match="Read-only file system"):
        PartitionLog.open(folder, PARTITION, TOPIC_ID, LogConfig(), 0, 9_000, disk)


def test_cold_reads_are_marked(open_log: Open) -> None:
    log = open_log(segment_bytes=2_000)
    log.hot_window_bytes = 1_000
    fill(log)
    assert log.read(0, 100).cold
    assert not log.read(195, 100).cold


def test_damaged_indexes_parse_to_none() -> None:
    assert OffsetIndex.parse(bytes(7), 100) is None
    assert OffsetIndex.parse(bytes(16), 100) is None, "does not rise"
    assert OffsetIndex.parse(b"\0\0\0\5\0\0\0\144", 100) is None, "past the end"
    assert TimeIndex.parse(bytes(13)) is None
    assert TimeIndex.parse(bytes(24)) is None
    assert LeaderEpochs.parse(b"0\n2\n0 0\n") is None
    assert LeaderEpochs.parse(b"0\n2\n1 0\n0 5\n") is None
    assert LeaderEpochs.parse(b"1\n0\n") is None
