"""A log whose beginning is deleted on request: at once for readers, for good after the next flush."""

from __future__ import annotations

import pytest

from kbroker.errors import OffsetOutOfRange

from .batches import batch, flush, records
from .conftest import Open


def test_readers_see_the_new_start_at_once(open_log: Open) -> None:
    log = open_log()
    log.append(batch(5), 9_000, sync=False)
    log.append(batch(5), 9_000, sync=False)
    assert log.delete_records(3) == 3
    assert [record[0] for record in records(log)] == [3, 4, 5, 6, 7, 8, 9]
    assert log.read(3, 1).base_offset == 0, "batches are never divided"
    with pytest.raises(OffsetOutOfRange, match="offset 2 is not in 3"):
        log.read(2, 1)
    found = log.offset_for_timestamp(0)
    assert found is not None
    assert found[0] == 3
    assert log.delete_records(1) == 3, "it never goes back"
    assert log.epoch_end_offset(log.leader_epoch) == (log.leader_epoch, 10)


def test_nothing_past_the_high_watermark(open_log: Open) -> None:
    log = open_log()
    log.append(batch(5), 9_000, sync=False)
    log.append(batch(5), 9_000, sync=True)
    for offset in (-1, -2, 6, 10, 99):
        with pytest.raises(OffsetOutOfRange):
            log.delete_records(offset)
    assert log.delete_records(5) == 5
    assert log.log_start_offset == 5


@pytest.mark.parametrize("is_clean", [True, False])
def test_it_outlives_the_process(open_log: Open, is_clean: bool) -> None:
    log = open_log()
    log.append(batch(10), 9_000, sync=False)
    log.delete_records(10)
    assert log.durable_log_start_offset == 0
    flush(log)
    assert log.durable_log_start_offset == 10
    if is_clean:
        log.close(9_000)
    else:
        log.abandon()
    log = open_log()
    assert (log.log_start_offset, log.durable_log_start_offset, log.next_offset) == (10, 10, 10)
    assert records(log) == []
    assert log.append(batch(1), 9_000, sync=False).base_offset == 10


def test_a_flush_that_was_under_way_does_not_carry_it(open_log: Open) -> None:
    log = open_log()
    log.append(batch(10), 9_000, sync=False)
    work = log.begin_flush()
    assert work is not None
    log.delete_records(4)
    work.run()
    log.finish_flush(work, 0)
    assert log.durable_log_start_offset == 0
    flush(log)
    assert log.durable_log_start_offset == 4


def test_segments_before_it_go(open_log: Open) -> None:
    log = open_log(segment_bytes=1_000)
    for number in range(20):
        log.append(batch(5, timestamp_ms=9_000 + number), 9_000, sync=False)
    bases = list(log.bases)
    assert len(bases) > 3
    assert log.retain(9_000) == []
    log.delete_records(bases[2] - 1)
    assert [segment.base_offset for segment in log.drop_deleted()] == bases[:1]
    log.delete_records(100)
    assert [segment.base_offset for segment in log.retain(9_000)] == bases[1:-1], "the last one stays"
    assert (log.log_start_offset, log.bases) == (100, bases[-1:])


def test_what_is_old_does_not_go_with_it(open_log: Open) -> None:
    log = open_log(segment_bytes=1_000, retention_ms=1)
    for number in range(20):
        log.append(batch(5, timestamp_ms=9_000 + number), 9_000, sync=False)
    bases = list(log.bases)
    log.delete_records(bases[1])
    assert [segment.base_offset for segment in log.drop_deleted()] == bases[:1]
    assert log.bases == bases[1:]
    assert [segment.base_offset for segment in log.retain(100_000)] == bases[1:]
