"""The scrub: finds what a disk has changed, costs next to nothing, leaves the page cache and the loop alone."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kbroker.config import LogConfig
from kbroker.log import names
from kbroker.log.damage import CORRUPT, Damage, KnownDamage
from kbroker.log.log import PartitionLog
from kbroker.log.scrub import READ_BYTES, SegmentCheck
from kbroker.log.storage import Storage
from kbroker.shm.control_page import ControlPage
from kbroker.types import TopicPartition
from kbroker.workers import scrubbing
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.loop import Loop
from kbroker.workers.page_cache import PageCache
from kbroker.workers.partition import Partition
from kbroker.workers.scrubbing import GentleStorage, Scrub

from ..log.batches import TOPIC_ID, batch
from ..log.disks import FailingDisk

NAME = TopicPartition("orders", 3)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[PartitionLog]:
    """Three segments of 20 batches with five records each."""
    config = LogConfig(segment_bytes=1 << 20)
    log = PartitionLog.open(tmp_path / "orders-3", NAME, TOPIC_ID, config, 1, 9_000)
    for number in range(60):
        if number in (20, 40):
            log.roll(9_000)
        log.append(batch(5, timestamp_ms=1_000 + number, size_bytes=500), 9_000, sync=False)
    yield log
    log.abandon()


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def check(log: PartitionLog, number: int, storage: Storage | None = None) -> list[Damage] | None:
    segment = log.segments[number]
    end = log.next_offset if number + 1 == len(log.segments) else log.bases[number + 1]
    made = SegmentCheck(storage or Storage(), segment.path, segment.base_offset, segment.size_bytes, end)
    return made.run(lambda _size_bytes: True)


def test_a_sound_segment(opened: PartitionLog) -> None:
    assert [check(opened, number) for number in range(3)] == [[], [], []]


@pytest.mark.parametrize("byte", [0, 10, 16, 20, 30, 400])
@pytest.mark.parametrize(("at", "first"), [(0, 100), (7, 135), (19, 195)])
def test_a_changed_byte_is_found_with_its_offsets(opened: PartitionLog, at: int, first: int, byte: int) -> None:
    segment = opened.segments[1]
    flip(segment.path, at * (segment.size_bytes // 20) + byte)
    found = check(opened, 1)
    assert found is not None
    assert [(one.kind, one.first_offset, one.next_offset) for one in found] == [(CORRUPT, first, first + 5)]
    assert segment.path.name in found[0].what


def test_what_is_missing_or_cannot_be_read_is_found(opened: PartitionLog) -> None:
    segment = opened.segments[1]
    with segment.path.open("r+b") as file:
        file.truncate(segment.size_bytes // 2 + 1)
    found = check(opened, 1)
    assert found is not None
    assert [(one.first_offset, one.next_offset) for one in found] == [(150, 200)]
    disk = FailingDisk()
    disk.failing["pread"] = errno.EIO
    found = check(opened, 0, disk)
    assert found is not None
    assert [(one.first_offset, one.next_offset) for one in found] == [(0, 100)]
    assert "Input/output error" in found[0].what
    segment.path.unlink()
    found = check(opened, 1)
    assert found is not None
    assert [(one.first_offset, one.next_offset) for one in found] == [(100, 200)]


def test_it_gives_others_a_turn_and_can_be_given_up(opened: PartitionLog) -> None:
    segment = opened.segments[0]
    asked: list[int] = []

    def pause(size_bytes: int) -> bool:
        asked.append(size_bytes)
        return False

    made = SegmentCheck(Storage(), segment.path, 0, segment.size_bytes, 100)
    assert made.run(pause) is None
    assert len(asked) == 1
    assert asked[0] <= READ_BYTES + segment.size_bytes


def test_a_large_damaged_place_gives_others_a_turn_too(tmp_path: Path) -> None:
    log = PartitionLog.open(tmp_path / "orders-3", NAME, TOPIC_ID, LogConfig(), 1, 9_000)
    log.append(batch(1), 9_000, sync=False)
    first_bytes = log.size_bytes
    for _ in range(3):
        log.append(batch(1, size_bytes=1_000_000), 9_000, sync=False)
    segment = log.segments[0]
    with segment.path.open("r+b") as file:
        file.seek(first_bytes)
        file.write(b"\x02" * (segment.size_bytes - first_bytes))
    asked: list[int] = []

    def pause(size_bytes: int) -> bool:
        asked.append(size_bytes)
        return len(asked) < 3

    made = SegmentCheck(Storage(), segment.path, 0, segment.size_bytes, log.next_offset)
    assert made.run(pause) is None
    assert max(asked) <= READ_BYTES
    found = SegmentCheck(Storage(), segment.path, 0, segment.size_bytes, log.next_offset).run(lambda _: True)
    assert found is not None
    assert [(one.first_offset, one.next_offset) for one in found] == [(1, 4)]
    log.abandon()


@pytest.mark.parametrize("record_bytes", [20, 4_000])
def test_it_costs_next_to_nothing(tmp_path: Path, record_bytes: int) -> None:
    """CPU for what it reads in a second at the default rate, the smallest batches and usual ones."""
    log = PartitionLog.open(tmp_path / "orders-3", NAME, TOPIC_ID, LogConfig(), 1, 9_000)
    one = batch(1 if record_bytes == 20 else 10, size_bytes=record_bytes)
    for _ in range(3_000):
        log.append(bytes(one), 9_000, sync=False)
    segment = log.segments[0]
    charged = 0

    def pause(size_bytes: int) -> bool:
        nonlocal charged
        charged += size_bytes
        return True

    made = SegmentCheck(Storage(), segment.path, 0, segment.size_bytes, log.next_offset)
    begun_s = time.thread_time()
    assert made.run(pause) == []
    seconds = charged / LogConfig().scrub_bytes_per_second
    assert (time.thread_time() - begun_s) / seconds < 0.02, "at most 2 % of a processor, on a busy machine"
    log.abandon()


def test_what_was_not_in_the_page_cache_is_not_there_afterwards(opened: PartitionLog) -> None:
    segment = opened.segments[0]
    fd = os.open(segment.path, os.O_RDONLY)
    try:
        os.fsync(segment.file.fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        cache = PageCache()
        if cache.has(fd, 0, segment.size_bytes) is not False:
            pytest.skip("this file system keeps what it is told to forget")
        assert check(opened, 0, GentleStorage()) == []
        assert not any(cache.has(fd, at, 1) for at in range(0, segment.size_bytes, mmap.PAGESIZE))
        os.pread(fd, segment.size_bytes, 0)
        assert check(opened, 0, GentleStorage()) == []
        assert cache.has(fd, 0, segment.size_bytes), "what others have read stays"
    finally:
        os.close(fd)


class Running:
    """A scrub of one partition on a loop of its own; `found` ends the loop."""

    def __init__(self, log: PartitionLog, rate: int) -> None:
        self.loop = Loop()
        self.io = IoThreads(self.loop, 1, "io")
        self.partition = Partition(NAME, log, ControlPage.create(1, 1))
        self.rate = rate
        self.found: list[Damage] = []
        self.turns = 0
        call_soon_threadsafe = self.loop.call_soon_threadsafe

        def counted(callback: Callable[[], None]) -> None:
            self.turns += 1
            call_soon_threadsafe(callback)

        self.loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        self.scrub = Scrub(self.loop, {NAME: self.partition}, lambda: self.rate, self._note)

    def _note(self, partition: Partition, found: list[Damage]) -> None:
        self.found += found
        partition.note_damage(found, self.io)
        self.loop.stop()

    def run(self, most_ms: int = 20_000) -> None:
        timer = self.loop.call_later(most_ms, self.loop.stop)
        self.loop.run()
        timer.cancel()

    def end(self) -> None:
        self.scrub.end()
        self.io.close(5)


def test_it_finds_what_nobody_has_read(opened: PartitionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "FIRST_PASS_MS", 10)
    flip(opened.segments[1].path, 5_000)
    running = Running(opened, 1 << 30)
    running.scrub.start()
    running.run()
    running.end()
    (found,) = running.found
    assert 100 <= found.first_offset < 200
    assert opened.damage.pending == [found]
    assert running.turns <= 4, "a turn of the loop for each segment, whatever its size, and one to remember"
    assert opened.refusal is None
    saved = KnownDamage.parse((opened.folder / names.DAMAGE).read_bytes())
    assert saved is not None
    assert saved.pending == [found], "the folder knows it too"


def test_a_reader_that_stops_has_its_segment_looked_at_at_once(opened: PartitionLog) -> None:
    flip(opened.segments[1].path, 16)  # the first batch's magic
    running = Running(opened, 0)  # no passes
    with pytest.raises(Exception, match="no valid batch"):
        opened.read(100, 1)
    assert opened.suspects == {100}
    running.scrub.suspect(running.partition)
    running.run()
    (found,) = running.found
    assert (found.first_offset, found.next_offset) == (100, 105)
    with pytest.raises(Exception, match="no valid batch"):
        opened.read(100, 1)
    running.scrub.suspect(running.partition)
    assert not running.scrub._suspects, "who reads again and again has it looked at once"
    running.end()


def test_suspects_begin_no_second_series_of_passes(opened: PartitionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "FIRST_PASS_MS", 1)
    monkeypatch.setattr(scrubbing, "PASS_PAUSE_MS", 50)
    running = Running(opened, 1 << 30)
    begun: list[int] = []
    begin_pass = running.scrub._begin_pass

    def counted() -> None:
        begun.append(running.loop.now_ms())
        begin_pass()

    monkeypatch.setattr(running.scrub, "_begin_pass", counted)
    running.scrub.start()
    for number in range(20):
        opened.suspects.add(opened.bases[number % 3])
        running.scrub.suspect(running.partition)
    running.run(220)
    running.end()
    assert 1 <= len(begun) <= 6


def test_a_slow_pass_makes_way_for_a_suspect_and_for_the_end(
    opened: PartitionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "FIRST_PASS_MS", 1)
    flip(opened.segments[2].path, 10)
    running = Running(opened, 1)  # a byte in a second
    running.scrub.start()

    def suspect() -> None:
        opened.suspects.add(200)
        running.scrub.suspect(running.partition)

    running.loop.call_later(50, suspect)
    running.run()
    assert [found.first_offset for found in running.found] == [200]
    begun_s = time.monotonic()
    running.end()
    assert time.monotonic() - begun_s < 1


def test_nothing_is_said_of_a_partition_that_went_meanwhile(opened: PartitionLog) -> None:
    flip(opened.segments[1].path, 5_000)
    running = Running(opened, 1 << 30)
    serving = {NAME: running.partition}
    running.scrub = Scrub(running.loop, serving, lambda: 1 << 30, running._note)
    opened.suspects.add(100)
    running.scrub.suspect(running.partition)
    serving.clear()
    running.run(300)
    running.end()
    assert running.turns == 1
    assert not running.found
