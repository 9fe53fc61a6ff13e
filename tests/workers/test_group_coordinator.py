"""What stands around the groups' state machines: answers wait for the disk, a disk that fails, time, replay."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kbroker.catalog.catalog import Catalog
from kbroker.config import Config, GroupConfig, ServerConfig
from kbroker.groups import events
from kbroker.log.storage import File
from kbroker.workers import group_coordinator, offsets_log
from kbroker.workers.group_coordinator import GroupCoordinator
from kbroker.workers.loop import Loop

from ..log.disks import FailingDisk

PATIENCE_S = 20
NOT_AVAILABLE = 15


class HeldDisk(FailingDisk):
    """Its fdatasync waits while it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()
        self.syncs = 0

    def fdatasync(self, file: File) -> None:
        assert self.free.wait(PATIENCE_S)
        self.syncs += 1
        super().fdatasync(file)


class Rig:
    """A group coordinator on a loop that the test turns, over topic `t` of two partitions."""

    def __init__(
        self, folder: Path, disk: FailingDisk, topics: tuple[str, ...] = ("t",), memory_deaths: int = 0, **groups: Any
    ) -> None:
        self.loop = Loop()
        self.catalog = Catalog([1], 10, 10)
        for topic in topics:
            self.catalog.apply(self.catalog.create(topic, 2, {}, bytes(range(16))))
        settings = GroupConfig(initial_rebalance_delay_ms=0, min_session_timeout_ms=1, **groups)
        config = Config(server=ServerConfig(data_dir=str(folder)), groups=settings)
        self.groups = GroupCoordinator(config, self.catalog, self.loop, disk, memory_deaths)
        self.answers: list[tuple[str, Any]] = []

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.answers
            self.loop.turn(20)

    def token(self, name: str) -> Callable[[Any], None]:
        return lambda result: self.answers.append((name, result))

    def commit(self, name: str, offset: int, group: str = "g", partition: int = 0) -> None:
        place = events.OffsetToCommit("t", partition, offset)
        self.groups.ask(events.CommitOffsets(group, self.token(name), "", None, events.NO_GENERATION, (place,)))

    def fetch(self, name: str, group: str = "g") -> None:
        self.groups.ask(events.FetchOffsets(group, self.token(name), (("t", 0),)))

    def join(self, name: str, member_id: str = "", group: str = "g", session_ms: int = 10_000) -> None:
        self.groups.ask(
            events.JoinGroup(
                group, self.token(name), member_id, None, "c", "/h", "consumer", (("range", b"m"),), session_ms,
                session_ms, "id-1", requires_known_member_id=False,
            )
        )  # fmt: skip

    def take(self, count: int = 1) -> list[tuple[str, Any]]:
        """The next answers."""
        self.until(lambda: len(self.answers) >= count)
        found, self.answers = self.answers, []
        assert len(found) == count
        return found

    def offset(self, group: str = "g") -> int:
        self.fetch("offset", group)
        ((_, result),) = self.take()
        assert result.error_code == 0
        return int(result.offsets[0].offset)


@pytest.fixture
def disk() -> Iterator[HeldDisk]:
    found = HeldDisk()
    yield found
    found.free.set()


@pytest.fixture
def make(tmp_path: Path, disk: HeldDisk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    monkeypatch.setattr(group_coordinator, "RETRY_MS", 20)
    made: list[Rig] = []

    def rig(**groups: Any) -> Rig:
        made.append(Rig(tmp_path, disk, **groups))
        return made[-1]

    yield rig
    disk.free.set()
    for one in made:
        one.groups.close()


def test_an_answer_waits_for_the_disk_and_none_overtakes_it(make: Callable[..., Rig], disk: HeldDisk) -> None:
    rig = make()
    disk.free.clear()
    rig.commit("commit", 5)
    rig.fetch("fetch")
    rig.fetch("other", "another")
    for _ in range(3):
        rig.loop.turn(10)
    assert [name for name, _ in rig.take()] == ["other"], "a group without records on their way does not wait"
    disk.free.set()
    (first, committed), (second, fetched) = rig.take(2)
    assert (first, committed.error_codes) == ("commit", (0,))
    assert (second, fetched.offsets[0].offset) == ("fetch", 5), "what it tells is on the disk"


def test_one_sync_for_all_that_came_in_a_turn(make: Callable[..., Rig], disk: HeldDisk) -> None:
    rig = make()
    before = disk.syncs
    for number in range(50):
        rig.commit("commit", number, f"g{number}")
    rig.take(50)
    assert disk.syncs == before + 1


@pytest.mark.parametrize("clean", [True, False])
def test_everything_is_there_again(make: Callable[..., Rig], clean: bool) -> None:
    rig = make()
    rig.commit("commit", 7)
    rig.take()
    rig.join("join")
    ((_, joined),) = rig.take()
    rig.groups.ask(events.SyncGroup("g", rig.token("sync"), joined.member_id, None, 1, None, None, ()))
    rig.take()
    if clean:
        rig.groups.close()
    else:
        assert rig.groups._offsets is not None
        rig.groups._offsets.log.abandon()
    again = make()
    assert again.offset() == 7
    again.groups.ask(events.Heartbeat("g", again.token("heartbeat"), joined.member_id, None, 1))
    ((_, heard),) = again.take()
    assert heard.error_code == 0


@pytest.mark.parametrize("fault", ["full", "fsync"])
def test_a_disk_that_fails_and_takes_records_again(make: Callable[..., Rig], disk: HeldDisk, fault: str) -> None:
    rig = make()
    rig.commit("commit", 1)
    rig.take()
    rig.join("join")
    rig.take()
    rig.join("parked", "id-1x", "g")  # unknown: refused at once
    assert rig.take()[0][1].error_code == 25
    if fault == "full":
        disk.space = 10
    else:
        disk.failing["fdatasync"] = errno.EIO
    rig.commit("lost", 2, "other")
    rig.fetch("too", "other")
    found = dict(rig.take(2))
    assert found["lost"].error_codes == (NOT_AVAILABLE,)
    assert found["too"].error_code == NOT_AVAILABLE, "it would have told what is not on the disk"
    rig.fetch("while it is away")
    assert rig.take()[0][1].error_code == NOT_AVAILABLE
    disk.space = None
    disk.failing.clear()

    def served() -> bool:
        rig.fetch("again", "other")
        return bool(rig.take()[0][1].error_code == 0)

    deadline = time.monotonic() + PATIENCE_S
    while not served():
        assert time.monotonic() < deadline
        rig.loop.turn(20)
    # After a failed sync it may be there or not, as after a request that timed out.
    assert rig.offset("other") in ((-1,) if fault == "full" else (-1, 2))
    assert rig.offset() == 1
    rig.commit("commit", 3, "other")
    assert rig.take()[0][1].error_codes == (0,)


def test_a_disk_that_is_full_from_the_beginning(make: Callable[..., Rig], disk: HeldDisk) -> None:
    disk.failing["pwrite"] = errno.ENOSPC
    rig = make()
    rig.commit("commit", 1)
    assert rig.take()[0][1].error_codes == (NOT_AVAILABLE,)
    assert rig.groups.listed((), ()) == NOT_AVAILABLE
    disk.failing.clear()
    rig.until(lambda: rig.groups.listed((), ()) == [])
    rig.commit("commit", 1)
    assert rig.take()[0][1].error_codes == (0,)


def test_an_outage_is_told_once_however_long_it_lasts(
    make: Callable[..., Rig], disk: HeldDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(group_coordinator, "RETRY_MAX_MS", 20)
    tries: list[Path] = []

    def lock_folder(folder: Path) -> None:
        tries.append(folder)
        disk._maybe("lock_folder")

    monkeypatch.setattr(disk, "lock_folder", lock_folder)
    disk.failing["lock_folder"] = errno.ENOSPC
    rig = make()
    rig.until(lambda: len(tries) > 4)
    disk.failing["lock_folder"] = errno.EROFS
    begun = len(tries)
    rig.until(lambda: len(tries) > begun + 4)
    told = [record.getMessage() for record in caplog.records if "cannot be served" in record.getMessage()]
    assert len(told) == 2
    assert "No space left on device; free space there, or delete topics" in told[0]
    assert "Read-only file system" in told[1]


def test_time_passes_for_a_member(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.join("join", session_ms=300)
    ((_, joined),) = rig.take()
    (group,) = rig.groups.listed((), ())  # type: ignore[misc]
    assert group.state == "CompletingRebalance"
    rig.until(lambda: rig.groups.listed((), ())[0].state == "Empty")  # type: ignore[index]
    rig.groups.ask(events.Heartbeat("g", rig.token("late"), joined.member_id, None, 1))
    assert rig.take()[0][1].error_code == 25


@pytest.mark.slow
def test_the_log_stays_bounded(make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets_log, "COMPACTION_PAUSE_S", 0)
    rig = make(offsets_segment_bytes=1 << 16)
    for number in range(60):
        for group in range(100):
            rig.commit("commit", number, f"group-{group}")
        rig.take(100)
    assert rig.groups._offsets is not None
    log = rig.groups._offsets.log
    rig.until(lambda: log.size_bytes < 200_000)
    assert log.next_offset == 6000
    rig.groups.close()
    again = make()
    assert [again.offset(f"group-{group}") for group in range(100)] == [59] * 100


@pytest.mark.parametrize("at", [30, 90], ids=["header", "records"])
def test_damage_costs_what_is_damaged_and_no_more(
    make: Callable[..., Rig], tmp_path: Path, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    rig = make(offsets_segment_bytes=1 << 16)
    rig.commit("commit", 1, "damaged")
    rig.take()
    rig.commit("commit", 1, "behind")
    rig.take()
    for number in range(3):
        for group in range(400):
            rig.commit("commit", number, f"group-{group}")
        rig.take(400)
    rig.groups.close()
    segment = min((tmp_path / "__consumer_offsets-0").glob("*.log"))
    with segment.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff\xff")
    again = make()
    assert [again.offset(f"group-{group}") for group in range(400)] == [2] * 400
    assert again.offset("damaged") == -1
    assert again.offset("behind") == 1, "what is good in the same segment is kept"
    assert "groups are read without them" in caplog.text
    ((what, why),) = again.groups.damage
    assert (what, "log repair" in why) == ("offsets 0 of __consumer_offsets-0", True)
    assert list(segment.parent.glob("*.corrupt"))


def test_topics_are_followed(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.commit("commit", 1)
    rig.take()
    topics = rig.groups.topics
    assert (topics.partition_count("t"), topics.name_of(bytes(range(16)))) == (2, "t")
    changes = rig.catalog.delete("t")
    rig.catalog.apply(changes)
    rig.groups.catalog_changed(changes)
    assert (topics.partition_count("t"), topics.name_of(bytes(range(16)))) == (None, None)
    rig.commit("gone", 1)
    assert rig.take()[0][1].error_codes == (3,)


def test_offsets_end_with_their_topic_even_if_a_crash_came_between(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.commit("commit", 5)
    rig.take()
    rig.groups.close()
    again = make(topics=())
    assert again.offset() == -1  # answered when that is on the disk
    again.groups.close()
    assert make().offset() == -1, "a topic made anew is another one"


def test_after_a_death_of_memory_groups_may_take_less_and_after_two_none_are_served(make: Callable[..., Rig]) -> None:
    rig = make(memory_max_bytes=200_000)
    for number in range(50):
        rig.commit("c", 7, group=f"g{number}")
        rig.take()
    rig.groups.close()
    reduced = make(memory_max_bytes=200_000, memory_deaths=1)
    new, left_out = reduced.groups.outages()
    assert new.what == "new groups"
    assert "took more memory than it may" in new.why
    assert left_out.what.endswith(" groups")
    assert 0 < int(left_out.what.split()[0]) < 50
    reduced.groups.close()
    none = make(memory_max_bytes=200_000, memory_deaths=2)
    (outage,) = none.groups.outages()
    assert outage.what == "groups"
    assert "worker.memory.max.bytes" in outage.why
    none.commit("c", 7, group="g1")
    ((_, result),) = none.take()
    assert set(result.error_codes) == {NOT_AVAILABLE}
    none.groups.close()
    after = make(memory_max_bytes=200_000)
    assert after.groups.outages() == []
    assert after.offset("g1") == 7
