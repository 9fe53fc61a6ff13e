"""The log against a list: appends, reads, flushes, rolls, retention, crashes and power cuts in any order."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kbroker.config import LogConfig
from kbroker.errors import OffsetOutOfRange
from kbroker.log import PartitionLog
from kbroker.records.batch import read_header

from ..log.batches import PARTITION, TOPIC_ID, batch, delete_due, flush, opened_anew, records, remove
from ..log.disks import ForgetfulDisk

pytestmark = pytest.mark.slow


class LogModel(RuleBasedStateMachine):
    """`model` has (offset, value, timestamp) of every record that the log must have."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="kbroker-model-"))
        self.folder = self.root / "orders-3"
        self.disk = ForgetfulDisk()
        self.config = LogConfig(
            segment_bytes=1_500, index_interval_bytes=300, recovery_point_batches=7, retention_bytes=3_000
        )
        self.model: list[tuple[int, bytes, int]] = []
        self.deleted = 0  # the log's start was raised to it, on the disk
        self.synced = 0  # everything before it was acknowledged with acks=all or flushed
        self.sequence = 0
        self.sent: list[tuple[int, int, int, int]] = []  # producer batches: sequence, count, base offset, end
        self.epoch = -1
        self.number = 0
        self.now_ms = 1_000_000
        self.log = self._open()

    def _open(self) -> PartitionLog:
        log = PartitionLog.open(self.folder, PARTITION, TOPIC_ID, self.config, 0, self.now_ms, self.disk)
        assert log.leader_epoch > self.epoch
        self.epoch = log.leader_epoch
        return log

    @initialize()
    def start(self) -> None:
        assert self.log.next_offset == 0

    @rule(count=st.integers(1, 30), sync=st.booleans(), step=st.integers(-50, 100), codec=st.sampled_from([0, 0, 4]))
    def append(self, count: int, sync: bool, step: int, codec: int) -> None:
        self.now_ms += step
        values = [b"%d-%d" % (self.number, n) for n in range(count)]
        self.number += 1
        base = self.log.next_offset
        result = self.log.append(batch(values, timestamp_ms=self.now_ms, codec=codec), self.now_ms, sync=sync)
        assert (result.base_offset, result.next_offset, result.duplicate) == (base, base + count, False)
        self.model += [(base + n, value, self.now_ms + n) for n, value in enumerate(values)]

    @rule(count=st.integers(1, 9), sync=st.booleans())
    def append_idempotent(self, count: int, sync: bool) -> None:
        values = [b"p%d-%d" % (self.sequence, n) for n in range(count)]
        data = batch(values, timestamp_ms=self.now_ms, producer_id=5, sequence=self.sequence)
        result = self.log.append(bytes(data), self.now_ms, sync=sync)
        assert not result.duplicate
        self.sent.append((self.sequence, count, result.base_offset, result.next_offset))
        self.model += [(result.base_offset + n, value, self.now_ms + n) for n, value in enumerate(values)]
        self.sequence += count

    @rule(counts=st.lists(st.integers(1, 9), min_size=2, max_size=6), sync=st.booleans())
    def append_together(self, counts: list[int], sync: bool) -> None:
        """As a worker does it: one by one when it may not be done together, because of a full segment."""
        before = self.log.next_offset
        sent, model, base, sequence = [], [], before, self.sequence
        requests = []
        for count in counts:
            values = [b"p%d-%d" % (sequence, n) for n in range(count)]
            requests.append(memoryview(batch(values, timestamp_ms=self.now_ms, producer_id=5, sequence=sequence)))
            sent.append((sequence, count, base, base + count))
            model += [(base + n, value, self.now_ms + n) for n, value in enumerate(values)]
            base += count
            sequence += count
        if self.log.append_together(requests, self.now_ms, sync=sync) is None:
            assert self.log.next_offset == before
            for request in requests:
                assert not self.log.append(request, self.now_ms, sync=sync).duplicate
        self.sent += sent
        self.model += model
        self.sequence = sequence

    @rule(back=st.integers(1, 5))
    def append_again(self, back: int) -> None:
        if len(self.sent) < back:
            return
        sequence, count, base, end = self.sent[-back]
        values = [b"p%d-%d" % (sequence, n) for n in range(count)]
        data = batch(values, timestamp_ms=self.now_ms, producer_id=5, sequence=sequence)
        result = self.log.append(data, self.now_ms, sync=True)
        assert (result.duplicate, result.base_offset, result.next_offset) == (True, base, end)
        if end > self.synced:
            assert result.ack_offset > self.log.acknowledged_offset

    @rule(force=st.booleans())
    def flush(self, force: bool) -> None:
        flush(self.log, force=force)
        self.synced = self.log.next_offset
        assert self.log.high_watermark == self.log.next_offset

    @rule()
    def failed_flush(self) -> None:
        work = self.log.begin_flush()
        if work is None:
            return
        self.log.fail_flush(work, OSError("as if fdatasync failed"))
        self.log = opened_anew(self.log, self.now_ms)
        assert self.log.leader_epoch > self.epoch
        self.epoch = self.log.leader_epoch
        self.synced = self.log.next_offset
        assert self.log.acknowledged_offset == self.log.next_offset

    @rule()
    def roll(self) -> None:
        self.log.roll(self.now_ms)

    @rule()
    def retain(self) -> None:
        self.log.retain(self.now_ms)
        remove(self.log, self.now_ms)
        delete_due(self.log, self.now_ms)
        start = self.log.log_start_offset
        self.model = [record for record in self.model if record[0] >= start]

    @rule(back=st.integers(0, 50))
    def delete_records(self, back: int) -> None:
        offset = max(0, self.log.high_watermark - back)
        start = self.log.delete_records(offset)
        assert start == self.log.log_start_offset >= offset
        flush(self.log)
        self.synced = self.log.next_offset
        assert self.log.durable_log_start_offset == start
        self.deleted = start
        self.model = [record for record in self.model if record[0] >= start]

    @invariant()
    def what_was_deleted_stays_so(self) -> None:
        assert self.log.log_start_offset >= self.deleted

    @rule(offset=st.integers(0, 2_000), max_bytes=st.integers(0, 3_000))
    def read(self, offset: int, max_bytes: int) -> None:
        log = self.log
        try:
            found = log.read(offset, max_bytes)
        except OffsetOutOfRange:
            assert not log.log_start_offset <= offset <= log.next_offset
            return
        # Where a power cut has left a gap, the next record that there is comes.
        first = next((at for at, _, _ in self.model if offset <= at < log.high_watermark), None)
        if first is None:
            assert found.size_bytes == 0
            return
        data = found.read()
        assert read_header(data).base_offset == found.base_offset <= first < found.next_offset
        assert len(data) <= max_bytes or len(data) == read_header(data).size_bytes
        assert found.next_offset <= log.high_watermark

    @rule(timestamp=st.integers(-300, 1_500))
    def look_up(self, timestamp: int) -> None:
        wanted = 1_000_000 + timestamp
        shown = [r for r in self.model if r[0] < self.log.high_watermark]
        expected = next(((offset, at) for offset, _, at in shown if at >= wanted), None)
        assert self.log.offset_for_timestamp(wanted) == expected

    @rule()
    def close_and_open(self) -> None:
        self.log.close(self.now_ms)
        self.log = self._open()
        assert self.log.recovery.clean
        self.synced = self.log.next_offset

    @rule()
    def crash(self) -> None:
        """kill -9: the page cache stays."""
        end = self.log.next_offset
        self.log.abandon()
        self.log = self._open()
        assert self.log.next_offset == end
        self.synced = self.log.next_offset

    @rule(seed=st.integers(0, 2**32))
    def power_cut(self, seed: int) -> None:
        self.log.abandon()
        del self.log
        self.disk.lose_power(self.folder, random.Random(seed))
        self.log = self._open()
        end = self.log.next_offset
        assert end >= self.synced, "acknowledged records are gone"
        offsets = {record[0] for record in records(self.log)}
        start = self.log.log_start_offset
        assert all(r[0] in offsets for r in self.model if start <= r[0] < self.synced)
        self.model = [record for record in self.model if record[0] in offsets]
        self._forget_producer()
        self.synced = end

    def _forget_producer(self) -> None:
        """What the log knows of the producer now decides how it may go on."""
        known = self.log.producers.get(5)
        if known is None:
            self.sequence, self.sent = 0, []
            return
        self.sequence = known.batches[-1].last_sequence + 1
        self.sent = [
            (k.first_sequence, k.last_offset - k.base_offset + 1, k.base_offset, k.last_offset + 1)
            for k in known.batches
        ]

    @invariant()
    def shows_the_model(self) -> None:
        log = self.log
        assert log.log_start_offset <= log.high_watermark <= log.next_offset
        got = [(r[0], r[4], r[1]) for r in records(log, max_bytes=700)]
        assert got == [record for record in self.model if record[0] < log.high_watermark]

    def teardown(self) -> None:
        self.log.abandon()
        shutil.rmtree(self.root)


LogModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLogModel = LogModel.TestCase
