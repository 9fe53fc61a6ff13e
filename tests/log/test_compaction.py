"""Compaction: what stays, what goes, and what a crash in the middle leaves."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbroker.config import LogConfig
from kbroker.errors import StorageError
from kbroker.log import PartitionLog, compaction, names
from kbroker.log.compaction import Cleanings, Compaction, Rules
from kbroker.records.batch import read_header
from kbroker.records.codec import BatchBuilder, iter_batches

from .batches import PARTITION, TOPIC_ID, flush, records, remove
from .conftest import Open
from .disks import FailingDisk

DAY_MS = 86_400_000
NOW_MS = 10 * DAY_MS
ALWAYS = Rules(min_cleanable_dirty_ratio=-1.0)


def put(log: PartitionLog, pairs: list[tuple[bytes, bytes | None]], *, producer: int = -1, sequence: int = -1) -> None:
    builder = BatchBuilder(
        0, 1 << 24, producer_id=producer, producer_epoch=0 if producer >= 0 else -1, base_sequence=sequence
    )
    for key, value in pairs:
        assert builder.append(NOW_MS, key, value)
    log.append(builder.build(), NOW_MS, sync=True)


def roll(log: PartitionLog) -> None:
    flush(log)
    log.roll(NOW_MS)
    flush(log)


def place(done: Compaction, log: PartitionLog, now_ms: int) -> None:
    placing = done.begin_placing(log)
    placing.run()
    placing.finish(log, now_ms)


def compact(log: PartitionLog, rules: Rules = ALWAYS, now_ms: int = NOW_MS) -> Compaction | None:
    found = compaction.begin(log, compaction.read_cleanings(log), rules, now_ms)
    if found is not None:
        found.run(lambda: None)
        place(found, log, now_ms)
    return found


def pairs(log: PartitionLog) -> list[tuple[int, bytes | None, bytes | None]]:
    return [(record[0], record[3], record[4]) for record in records(log)]


def covered(log: PartitionLog) -> list[tuple[int, int]]:
    """The offsets that each batch covers."""
    found, offset = [], log.log_start_offset
    while (part := log.read(offset, 1 << 30)).size_bytes:
        for batch in iter_batches(part.read()):
            header = read_header(batch)
            found.append((header.base_offset, header.next_offset))
        offset = part.next_offset
    return found


def test_the_last_record_of_each_key_stays_at_its_offset(open_log: Open) -> None:
    log = open_log()
    put(log, [(b"a", b"1"), (b"b", b"1"), (b"a", b"2")])
    put(log, [(b"c", b"1")])
    roll(log)
    put(log, [(b"a", b"3")])
    roll(log)
    put(log, [(b"b", b"2")])  # in the active segment: not looked at yet
    flush(log)
    assert compact(log) is not None
    assert pairs(log) == [(1, b"b", b"1"), (3, b"c", b"1"), (4, b"a", b"3"), (5, b"b", b"2")]
    assert log.next_offset == 6
    assert log.bases == [0, 5]
    # No gap: whoever reads from an offset that is gone gets the batch that covers it.
    assert covered(log)[0][0] == 0
    assert all(a[1] == b[0] for a, b in zip(covered(log), covered(log)[1:], strict=False))
    for offset in range(6):
        assert log.read(offset, 1).size_bytes


def test_a_segment_of_which_nothing_is_left_is_an_empty_batch(open_log: Open) -> None:
    log = open_log()
    put(log, [(b"a", b"x" * 600)])
    roll(log)
    put(log, [(b"a", b"2")])
    roll(log)
    log.configure(LogConfig(segment_bytes=100))  # so that they are not made one
    compact(log)
    assert pairs(log) == [(1, b"a", b"2")]
    assert covered(log) == [(0, 1), (1, 2)]


def test_the_lags_hold_it_back_and_hasten_it(open_log: Open) -> None:
    log = open_log()
    young = Rules(min_cleanable_dirty_ratio=0.0, min_compaction_lag_ms=1000)
    late = Rules(min_cleanable_dirty_ratio=1.0, max_compaction_lag_ms=5000)
    put(log, [(b"a", b"1"), (b"a", b"2")])
    roll(log)
    assert compact(log, young, NOW_MS + 999) is None
    assert compact(log, young, NOW_MS + 1000) is not None
    assert pairs(log) == [(1, b"a", b"2")]
    put(log, [(b"a", b"3")])
    roll(log)
    made_ms = log.segments[1].created_ms
    assert compact(log, late, made_ms + 4999) is None
    assert compact(log, late, made_ms + 5000) is not None
    assert pairs(log) == [(2, b"a", b"3")]
    assert compact(log, late, made_ms + 50_000) is None  # nothing is dirty


def test_a_clock_that_was_set_back_does_not_hold_it_up(open_log: Open) -> None:
    log = open_log()
    put(log, [(b"a", b"1"), (b"a", b"2")])
    roll(log)
    assert compact(log, Rules(), NOW_MS - DAY_MS) is not None
    assert pairs(log) == [(1, b"a", b"2")]


def test_it_waits_until_enough_is_dirty(open_log: Open) -> None:
    log = open_log()
    half = Rules(min_cleanable_dirty_ratio=0.5)
    put(log, [(b"a", b"x" * 1000)])
    assert compact(log, half) is None  # the active segment does not count
    roll(log)
    assert compact(log, half) is not None
    assert compact(log, half) is None
    put(log, [(b"b", b"x" * 500)])
    roll(log)
    assert compact(log, half) is None
    put(log, [(b"c", b"x" * 600)])
    roll(log)
    assert compact(log, half) is not None


def test_a_tombstone_goes_when_everybody_has_had_the_time_to_see_it(open_log: Open) -> None:
    log = open_log()
    put(log, [(b"a", b"1"), (b"b", b"1")])
    put(log, [(b"a", None)])
    roll(log)
    compact(log)
    assert pairs(log) == [(1, b"b", b"1"), (2, b"a", None)]
    compact(log, now_ms=NOW_MS + DAY_MS - 1)
    assert pairs(log)[-1] == (2, b"a", None)
    compact(log, now_ms=NOW_MS + DAY_MS)
    assert pairs(log) == [(1, b"b", b"1")]
    assert covered(log)[-1][1] == 3


def test_more_keys_than_memory_is_given_for(open_log: Open) -> None:
    log = open_log()
    for turn in range(3):
        for key in range(20):
            put(log, [(b"%d" % key, b"%d" % turn)])
        roll(log)
    few = Rules(min_cleanable_dirty_ratio=-1.0, keys_max=7)
    last = 0
    while (found := compact(log, few)) is not None and found.clean_until < 60:
        assert found.clean_until > last
        last = found.clean_until
    assert [value for _, _, value in pairs(log)][-20:] == [b"2"] * 20
    assert {key: value for _, key, value in pairs(log)} == {b"%d" % key: b"2" for key in range(20)}


def test_an_idempotent_producer_may_go_on_and_repeat_its_last_batch(open_log: Open) -> None:
    log = open_log()
    put(log, [(b"a", b"1"), (b"b", b"1")], producer=7, sequence=0)
    put(log, [(b"a", b"2")], producer=7, sequence=2)
    put(log, [(b"a", b"3"), (b"b", b"2")])
    roll(log)
    compact(log)
    assert pairs(log) == [(3, b"a", b"3"), (4, b"b", b"2")]
    assert (2, 3) in covered(log)  # its last batch, empty
    log.close(NOW_MS)
    os.unlink(log.folder / names.RECOVERY_POINT)  # so that what is known of producers comes from the log
    log = open_log()
    again = BatchBuilder(0, 1 << 20, producer_id=7, producer_epoch=0, base_sequence=2)
    again.append(NOW_MS, b"a", b"2")
    assert log.append(again.build(), NOW_MS, sync=True).duplicate
    put(log, [(b"c", b"1")], producer=7, sequence=3)


def test_a_log_that_was_compacted_is_opened_as_it_was(open_log: Open, folder: Path) -> None:
    log = open_log()
    for turn in range(50):
        put(log, [(b"%d" % (turn % 5), b"%d" % turn * 200), (b"own-%d" % turn, b"x")])
        if turn % 10 == 9:
            roll(log)
    compact(log)
    found, bases, end = pairs(log), log.bases, log.next_offset
    log.close(NOW_MS)
    for name in os.listdir(folder):
        if name.endswith((".index", ".timeindex", "recovery-point", "clean-shutdown")):
            os.unlink(folder / name)
    log = open_log()
    assert not log.recovery.set_aside
    assert (pairs(log), log.bases, log.next_offset) == (found, bases, end)
    for offset in range(end):
        assert log.read(offset, 1).next_offset > offset


def test_a_disk_that_fails_leaves_the_log_as_it_was(open_log: Open, disk: FailingDisk) -> None:
    log = open_log()
    put(log, [(b"a", b"1"), (b"a", b"2")])
    roll(log)
    disk.space = 30
    with pytest.raises(StorageError, match="cannot be compacted"):
        compact(log)
    assert len(pairs(log)) == 2
    disk.space = None
    compact(log)
    assert pairs(log) == [(1, b"a", b"2")]


def test_damage_is_not_compacted_away(open_log: Open, folder: Path) -> None:
    log = open_log()
    put(log, [(b"a", b"1" * 100), (b"a", b"2")])
    roll(log)
    with (folder / "00000000000000000000.log").open("r+b") as file:
        file.seek(90)
        file.write(b"!")
    with pytest.raises(StorageError, match="wrong CRC"):
        compact(log)
    assert log.bases == [0, 2]


def test_readers_keep_what_they_have(open_log: Open) -> None:
    log = open_log()
    put(log, [(b"a", b"1")])
    put(log, [(b"a", b"2")])
    roll(log)
    part = log.read(0, 1 << 20)
    before = part.read()
    compact(log)
    assert part.read() == before


def test_retention_may_be_faster(open_log: Open, folder: Path) -> None:
    log = open_log()
    for turn in range(3):
        put(log, [(b"a", b"%d" % turn)])
        roll(log)
    found = compaction.begin(log, compaction.read_cleanings(log), ALWAYS, NOW_MS)
    assert found is not None
    found.run(lambda: None)
    log.configure(LogConfig(retention_bytes=0))
    log.retain(NOW_MS)
    remove(log, NOW_MS)
    place(found, log, NOW_MS)
    assert not [name for name in os.listdir(folder) if name.endswith((names.SWAP, names.CLEANED))]


def test_the_checkpoint_stays_small_and_is_not_believed_when_damaged() -> None:
    cleanings = Cleanings([])
    for number in range(1000):
        cleanings = cleanings.add(number, NOW_MS + number * 600_000, DAY_MS)
        assert cleanings.first_dirty_offset == number
        assert len(cleanings.entries) < 25
        due = cleanings.tombstones_until(NOW_MS + number * 600_000, DAY_MS)
        assert due <= max(0, number - 144)
        assert due >= number - 144 - 12
    data = cleanings.encode()
    assert Cleanings.parse(data) == cleanings
    assert Cleanings.parse(data[:-3]) == Cleanings([])
    assert Cleanings.parse(b"") == Cleanings([])


KEYS = st.binary(min_size=0, max_size=2)
Content = list[tuple[bytes, bytes | None]]
BATCHES = st.lists(
    st.tuples(
        st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3)), min_size=1, max_size=5),
        st.sampled_from(["", "", "", "roll", "compact", "later", "reopen"]),
        st.booleans(),
    ),
    max_size=30,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=120)
@given(BATCHES)
def test_the_last_value_of_each_key_is_there_and_offsets_rise(batches: list[tuple[Content, str, bool]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / str(PARTITION)
        config = LogConfig(segment_bytes=400, index_interval_bytes=60)
        now_ms = NOW_MS

        def opened() -> PartitionLog:
            return PartitionLog.open(folder, PARTITION, TOPIC_ID, config, 0, now_ms)

        log = opened()
        last: dict[bytes, tuple[int, bytes | None]] = {}
        written: dict[int, tuple[bytes, bytes | None]] = {}
        sequence = 0
        for content, then, idempotent in batches:
            offset = log.next_offset
            put(log, content, producer=3 if idempotent else -1, sequence=sequence if idempotent else -1)
            sequence += len(content) * idempotent
            for number, (key, value) in enumerate(content):
                last[key] = offset + number, value
                written[offset + number] = key, value
            flush(log)
            if then in ("roll", "compact", "later"):
                roll(log)
            if then == "later":
                now_ms += DAY_MS
            if then in ("compact", "later"):
                compact(log, now_ms=now_ms)
            if then == "reopen":
                log.close(now_ms)
                log = opened()
        found = pairs(log)
        offsets = [offset for offset, _, _ in found]
        assert offsets == sorted(set(offsets))
        assert all(written[offset] == (key, value) for offset, key, value in found)
        there = set(offsets)
        for offset, value in last.values():
            assert offset in there or value is None
        for start in range(log.log_start_offset, log.next_offset):
            part = log.read(start, 1)
            assert part.base_offset <= start < part.next_offset
        log.close(now_ms)


class _Died(BaseException):
    pass


class DyingDisk(FailingDisk):
    """The process ends before the change of that number; later changes are not made either."""

    def __init__(self, dies_at: int) -> None:
        super().__init__()
        self.left = dies_at

    def _maybe(self, operation: str) -> None:
        if operation in ("pread",):
            return
        self.left -= 1
        if self.left < 0:
            raise _Died

    def rename(self, old: Path, new: Path) -> None:
        self._maybe("rename")
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self._maybe("unlink")
        super().unlink(path)


@pytest.mark.slow
def test_a_crash_at_any_step_loses_nothing(tmp_path: Path) -> None:
    expected: dict[bytes | None, bytes | None] = {}
    for dies_at in range(200):
        folder = tmp_path / str(dies_at) / "orders-3"
        folder.parent.mkdir()
        disk = DyingDisk(1_000_000)
        config = LogConfig(segment_bytes=1_300)
        log = PartitionLog.open(folder, PARTITION, TOPIC_ID, config, 0, NOW_MS, disk)
        for turn in range(24):
            put(log, [(b"%d" % (turn % 5), b"%d" % turn * 50), (b"own-%d" % turn, b"x")])
            flush(log)
            if turn % 4 == 3:
                roll(log)
        before = pairs(log)
        expected = {key: value for _, key, value in before}
        disk.left = dies_at
        try:
            compact(log)
            died = False
        except _Died:
            died = True
        log.abandon()
        log = PartitionLog.open(folder, PARTITION, TOPIC_ID, config, 0, NOW_MS)
        assert not log.recovery.set_aside, dies_at
        found = pairs(log)
        assert {key: value for _, key, value in found} == expected, dies_at
        assert set(found) <= set(before)
        assert log.next_offset == 48
        assert not [name for name in os.listdir(folder) if name.endswith((names.SWAP, names.CLEANED))]
        compact(log)
        assert {key: value for _, key, value in pairs(log)} == expected, dies_at
        log.abandon()
        if not died:
            assert dies_at > 30
            return
    raise AssertionError("it never came to its end")
