"""The timestamps of segments are known after opening, as before: look-ups and compaction ask for them at once."""

from __future__ import annotations

import pytest

from kbroker.log import PartitionLog, compaction
from kbroker.log.compaction import Rules

from .batches import batch, flush
from .conftest import Open


def with_segments(log: PartitionLog) -> None:
    """Three segments; the largest timestamp of all, 5,000, is in the middle of the second."""
    for base_ms in (1_000, 4_990, 2_000):
        log.append(batch(1, timestamp_ms=base_ms), 9_000, sync=False)
        log.append(batch(1, timestamp_ms=base_ms + 10), 9_000, sync=False)
        log.append(batch(1, timestamp_ms=base_ms + 5), 9_000, sync=False)
        if base_ms != 2_000:
            log.roll(9_000)


def end(log: PartitionLog, how: str) -> None:
    if how in ("close", "without indexes", "empty indexes"):
        log.close(9_000)
    elif how == "flush and kill":
        flush(log, force=True)
    log.abandon()
    if how == "without indexes":
        for path in log.folder.glob("*index"):
            path.unlink()
    elif how == "empty indexes":
        for path in log.folder.glob("*index"):
            path.write_bytes(b"")


@pytest.mark.parametrize("how", ["close", "kill", "flush and kill", "without indexes", "empty indexes"])
def test_the_largest_timestamp_is_known(open_log: Open, how: str) -> None:
    log = open_log()
    with_segments(log)
    known = [(s.max_timestamp, s.max_timestamp_offset, s.rolling_timestamp) for s in log.segments]
    assert known == [(1_010, 1, 1_000), (5_000, 4, 4_990), (2_010, 7, 2_000)]
    for _ in range(2):
        end(log, how)
        log = open_log()
        assert [(s.max_timestamp, s.max_timestamp_offset, s.rolling_timestamp) for s in log.segments] == known
        assert log.offset_for_timestamp(max(s.max_timestamp for s in log.segments)) == (4, 5_000)


@pytest.mark.parametrize("how", ["close", "kill", "without indexes"])
def test_compaction_keeps_its_lag(open_log: Open, how: str) -> None:
    log = open_log()
    with_segments(log)
    flush(log, force=True)
    end(log, how)
    log = open_log()
    young = Rules(min_cleanable_dirty_ratio=0.0, min_compaction_lag_ms=1_000)
    assert compaction.begin(log, compaction.read_cleanings(log), young, 2_000) is None
    found = compaction.begin(log, compaction.read_cleanings(log), young, 2_010)
    assert found is not None
    assert len(found._sources) == 1, "the second segment is younger"
    assert compaction.begin(log, compaction.read_cleanings(log), young, 6_000) is not None


def test_a_compacted_segment_knows_it_too(open_log: Open) -> None:
    log = open_log()
    for n in range(2):
        log.append(batch([b"a", b"b"], timestamp_ms=3_000 + n), 9_000, sync=False)
    log.roll(9_000)
    log.append(batch([b"a", b"b"], timestamp_ms=3_000), 9_000, sync=False)
    log.roll(9_000)
    flush(log, force=True)
    done = compaction.begin(log, compaction.read_cleanings(log), Rules(min_cleanable_dirty_ratio=0.0), 9_000)
    assert done is not None
    done.run(lambda: None)
    placing = done.begin_placing(log)
    placing.run()
    placing.finish(log, 9_000)
    assert len(log.segments) == 2
    compacted = log.segments[0]
    assert compacted.max_timestamp >= 3_000
    log.close(9_000)
    again = open_log()
    assert again.segments[0].max_timestamp == compacted.max_timestamp


def test_a_segment_rolls_by_its_first_record_after_a_restart(open_log: Open) -> None:
    log = open_log(segment_ms=100)
    log.append(batch(1, timestamp_ms=1_000), 9_000, sync=False)
    log.close(9_000)
    log = open_log(segment_ms=100)
    log.append(batch(1, timestamp_ms=1_101), 9_000, sync=False)
    assert log.bases == [0, 1]
