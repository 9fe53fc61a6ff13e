"""What was on the disk and is not there: told with its offsets, nothing is appended until somebody accepts it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kbroker.config import LogConfig
from kbroker.errors import PolicyViolation
from kbroker.log import PartitionLog, names
from kbroker.log.damage import CORRUPT, DAMAGED, KEPT_MAX, LOST, UNKNOWN, Damage, KnownDamage, Repair

from .batches import PARTITION, TOPIC_ID, batch, delete_due, flush, records, remove
from .disks import UnsyncedDisk

CONFIG = LogConfig(segment_bytes=1_000, index_interval_bytes=200)
BATCH_RECORDS = 5


def opened(folder: Path, *, had_log: bool = True, repair: Repair = Repair.NONE) -> PartitionLog:
    return PartitionLog.open(
        folder, PARTITION, TOPIC_ID, CONFIG, 0, 9_000, UnsyncedDisk(), had_log=had_log, repair=repair
    )


def log_of(folder: Path, end: str = "close") -> list[int]:
    """A log of several segments, ended in order or killed after a flush. Returns the base offsets of its segments."""
    log = opened(folder, had_log=False)
    for number in range(24):
        log.append(batch(BATCH_RECORDS, timestamp_ms=1_000 + number), 9_000, sync=False)
    flush(log, force=True)
    if end == "close":
        log.close(9_000)
    log.abandon()
    assert len(log.bases) > 4
    return log.bases


def path_of(folder: Path, base_offset: int) -> Path:
    return names.numbered(folder, base_offset, names.LOG)


def cut(path: Path, size_bytes: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size_bytes)


Harm = Callable[[Path, list[int]], tuple[int, int]]


def cut_last_in_the_middle(folder: Path, bases: list[int]) -> tuple[int, int]:
    path = path_of(folder, bases[-1])
    cut(path, path.stat().st_size - 30)
    return 115, 120


def empty_last(folder: Path, bases: list[int]) -> tuple[int, int]:
    cut(path_of(folder, bases[-1]), 0)
    return bases[-1], 120


def remove_last(folder: Path, bases: list[int]) -> tuple[int, int]:
    path_of(folder, bases[-1]).unlink()
    return bases[-1], 120


def cut_closed_in_the_middle(folder: Path, bases: list[int]) -> tuple[int, int]:
    path = path_of(folder, bases[1])
    cut(path, path.stat().st_size - 30)
    return bases[2] - 5, bases[2]


def cut_closed_between_batches(folder: Path, bases: list[int]) -> tuple[int, int]:
    path = path_of(folder, bases[1])
    batches = (bases[2] - bases[1]) // BATCH_RECORDS
    cut(path, path.stat().st_size * (batches - 2) // batches)
    return bases[2] - 10, bases[2]


def empty_closed(folder: Path, bases: list[int]) -> tuple[int, int]:
    cut(path_of(folder, bases[1]), 0)
    return bases[1], bases[2]


def remove_closed(folder: Path, bases: list[int]) -> tuple[int, int]:
    path_of(folder, bases[1]).unlink()
    return bases[1], bases[2]


def remove_first(folder: Path, bases: list[int]) -> tuple[int, int]:
    path_of(folder, bases[0]).unlink()
    return 0, bases[1]


def zero_closed_tail(folder: Path, bases: list[int]) -> tuple[int, int]:
    path = path_of(folder, bases[1])
    size = path.stat().st_size
    batches = (bases[2] - bases[1]) // BATCH_RECORDS
    cut(path, size * (batches - 1) // batches)
    cut(path, size)
    return bases[2] - 5, bases[2]


def remove_all_segments(folder: Path, _bases: list[int]) -> tuple[int, int]:
    for path in folder.glob("*.log"):
        path.unlink()
    return 0, 120


def remove_all_but_the_epochs(folder: Path, _bases: list[int]) -> tuple[int, int]:
    for path in folder.iterdir():
        if path.name not in (names.LEADER_EPOCHS, names.PARTITION_METADATA):
            path.unlink()
    return 0, UNKNOWN


def remove_all(folder: Path, _bases: list[int]) -> tuple[int, int]:
    for path in folder.iterdir():
        path.unlink()
    return 0, UNKNOWN


HARMS: list[Harm] = [
    cut_last_in_the_middle, empty_last, remove_last, cut_closed_in_the_middle, cut_closed_between_batches,
    empty_closed, remove_closed, remove_first, zero_closed_tail, remove_all_segments, remove_all,
    remove_all_but_the_epochs,
]  # fmt: skip


@pytest.mark.parametrize("end", ["close", "kill"])
@pytest.mark.parametrize("harm", HARMS)
def test_a_loss_is_told_and_stops_writes_until_it_is_accepted(folder: Path, harm: Harm, end: str) -> None:
    bases = log_of(folder, end)
    had = {path.name: path.read_bytes() for path in folder.glob("*.log")}
    first, following = harm(folder, bases)
    gone = set(range(first, 120 if following == UNKNOWN else following))
    damaged = {path.read_bytes() for path in folder.glob("*.log") if path.read_bytes() not in had.values()} - {b""}
    for reopening in ("close", "kill", "last"):
        log = opened(folder)
        found = [(entry.kind, entry.first_offset, entry.next_offset) for entry in log.recovery.found]
        assert found == ([(LOST, first, following)] if reopening == "close" else []), "told once in the log"
        assert [entry[:3] for entry in log.damage.loss] == [(LOST, first, following)]
        assert [record[0] for record in records(log)] == [offset for offset in range(120) if offset not in gone]
        for append in (log.append, log.append_together):
            if append == log.append:
                with pytest.raises(PolicyViolation, match=rf"offsets {first} (to {following - 1}|and on).*accept-loss"):
                    log.append(batch(1), 9_000, sync=True)
            else:
                assert log.append_together([memoryview(batch(1)), memoryview(batch(1))], 9_000, sync=True) is None
        if reopening == "close":
            log.close(9_000)
        log.abandon()
    kept = {path.read_bytes() for path in folder.glob("*.corrupt")}
    if harm is not cut_closed_between_batches:  # what is left of that one is whole
        assert damaged <= kept, "what was damaged is set aside"

    log = opened(folder, repair=Repair.PAST_CORRUPTION)
    assert log.refusal is not None, "a loss must be accepted by name"
    log.close(9_000)
    log = opened(folder, repair=Repair.ACCEPT_LOSS)
    assert log.refusal is None
    assert not log.damage.pending
    expected = 0 if following == UNKNOWN else 120
    assert log.append(batch(1), 9_000, sync=False).base_offset == expected, "no offset is given twice"
    log.close(9_000)
    log = opened(folder)
    assert (log.refusal, log.recovery.found, log.recovery.clean) == (None, [], True)
    assert records(log)[-1][0] == expected
    assert {path.read_bytes() for path in folder.glob("*.corrupt")} >= kept
    log.close(9_000)


@pytest.mark.parametrize("name", [names.RECOVERY_POINT, names.CLEAN_SHUTDOWN, names.LEADER_EPOCHS, "*.snapshot", "*"])
@pytest.mark.parametrize("harm", [cut_last_in_the_middle, remove_closed, remove_last])
def test_one_fact_is_enough(folder: Path, harm: Harm, name: str) -> None:
    bases = log_of(folder)
    first, following = harm(folder, bases)
    for path in folder.glob("*index" if name == "*" else name):
        path.unlink()
    log = opened(folder)
    assert [entry[:3] for entry in log.damage.loss] == [(LOST, first, following)]
    assert log.next_offset == 120
    log.close(9_000)


def test_nothing_is_lost_of_a_log_that_retention_has_cut(folder: Path) -> None:
    for end in ("close", "kill", "kill before it is written down"):
        log = opened(folder, had_log=False)
        for number in range(24):
            log.append(batch(BATCH_RECORDS, timestamp_ms=1_000 + number), 9_000, sync=False)
        flush(log, force=True)
        log.configure(LogConfig(segment_bytes=1_000, index_interval_bytes=200, retention_bytes=2_000, retention_ms=-1))
        assert log.retain(9_000)
        remove(log, 9_000)
        if end != "kill before it is written down":
            delete_due(log, 9_000_000)
            flush(log)
        if end == "close":
            log.close(9_000)
        log.abandon()
        start, next_offset = log.log_start_offset, log.next_offset
        log = opened(folder)
        assert (log.refusal, log.recovery.found) == (None, [])
        assert (log.log_start_offset, log.next_offset) == (start, next_offset)
        log.abandon()


def test_a_log_that_never_had_a_record_has_lost_none(folder: Path) -> None:
    opened(folder, had_log=False).abandon()
    for path in folder.glob("*.log"):
        path.unlink()
    log = opened(folder)
    assert (log.refusal, log.next_offset) == (None, 0)
    log.close(9_000)


def test_a_gap_behind_the_recovery_point_is_told_and_stops_nobody(folder: Path) -> None:
    """A power cut may take what no sync has carried to the disk."""
    log = opened(folder, had_log=False)
    flush(log, force=True)
    for number in range(24):
        log.append(batch(BATCH_RECORDS, timestamp_ms=1_000 + number), 9_000, sync=False)
    log.abandon()
    first, following = empty_closed(folder, log.bases)
    log = opened(folder)
    assert [entry[:3] for entry in log.recovery.found] == [(DAMAGED, first, following)]
    assert log.append(batch(1), 9_000, sync=False).base_offset == 120
    log.close(9_000)
    log = opened(folder)
    assert [entry[:3] for entry in log.damage.pending] == [(DAMAGED, first, following)]
    log.close(9_000)
    assert not opened(folder, repair=Repair.PAST_CORRUPTION).damage.pending


def test_a_gap_that_an_older_version_has_left_stops_nobody(folder: Path) -> None:
    bases = log_of(folder)
    path_of(folder, bases[1]).rename(folder / f"{bases[1]:020d}.log.corrupt")
    log = opened(folder)
    assert log.refusal is None
    assert [entry[:3] for entry in log.recovery.found] == [(DAMAGED, bases[1], bases[2])]
    log.close(9_000)
    path_of(folder, bases[3]).unlink()
    assert opened(folder).refusal is not None, "that version is gone: every gap is told from now on"


class DyingDisk(UnsyncedDisk):
    """The process dies at the `dies_at`-th change of a name."""

    def __init__(self, dies_at: int) -> None:
        super().__init__()
        self.left = dies_at

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)

    def link(self, old: Path, new: Path) -> None:
        self._step()
        super().link(old, new)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)


@pytest.mark.parametrize("harm", [cut_last_in_the_middle, cut_closed_in_the_middle, zero_closed_tail, empty_closed])
def test_a_loss_is_told_whenever_recovery_dies(folder: Path, harm: Harm) -> None:
    bases = log_of(folder)
    first, following = harm(folder, bases)
    harmed = folder.with_name("harmed")
    folder.rename(harmed)
    for dies_at in range(30):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(harmed, folder)
        disk = DyingDisk(dies_at)
        try:
            PartitionLog.open(folder, PARTITION, TOPIC_ID, CONFIG, 0, 9_000, disk).abandon()
        except KeyboardInterrupt:
            assert disk.left < 0
        log = opened(folder)
        assert [entry[:3] for entry in log.damage.loss] == [(LOST, first, following)], dies_at
        assert log.next_offset == 120
        log.abandon()
        if disk.left >= 0:
            return
    raise AssertionError("recovery does not end")


def test_repair_goes_past_what_is_corrupt(folder: Path) -> None:
    bases = log_of(folder)
    path = path_of(folder, bases[1])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    log = opened(folder)
    assert not log.damage.entries, "nobody looks at every byte at a start"
    log.damage.add(Damage(CORRUPT, bases[1], bases[1] + 5, "a reader said so"))
    log.close(9_000)
    log = opened(folder, repair=Repair.PAST_CORRUPTION)
    (found,) = log.recovery.found
    assert (found.kind, found.next_offset - found.first_offset) == (DAMAGED, BATCH_RECORDS)
    assert [path.read_bytes() for path in folder.glob("*.corrupt")] == [bytes(content)]
    assert not log.damage.pending
    gap = set(range(found.first_offset, found.next_offset))
    assert [record[0] for record in records(log)] == [offset for offset in range(120) if offset not in gap]
    assert log.read(found.first_offset, 1).base_offset == found.next_offset, "readers jump over"
    assert log.append(batch(1), 9_000, sync=False).base_offset == 120
    log.close(9_000)
    assert opened(folder).recovery.clean


def test_repairing_a_sound_log_changes_nothing(folder: Path) -> None:
    log_of(folder)
    before = {path.name: path.read_bytes() for path in folder.glob("*.log")}
    log = opened(folder, repair=Repair.ACCEPT_LOSS)
    assert (log.recovery.found, log.recovery.set_aside) == ([], [])
    assert {path.name: path.read_bytes() for path in folder.glob("*.log")} == before
    log.close(9_000)


def test_damaged_memory_of_damage_is_no_reason_to_forget_it(folder: Path) -> None:
    bases = log_of(folder)
    remove_closed(folder, bases)
    opened(folder).close(9_000)
    path = folder / names.DAMAGE
    path.write_bytes(path.read_bytes().replace(b"pending", b"accepted"))
    log = opened(folder)
    assert log.refusal is not None
    assert list(folder.glob("damage.corrupt"))
    log.close(9_000)
    assert opened(folder, repair=Repair.ACCEPT_LOSS).refusal is None


def test_what_is_known_of_damage() -> None:
    known = KnownDamage()
    assert known.add(Damage(DAMAGED, 10, 20, "a  line\nof text"))
    assert not known.add(Damage(LOST, 12, 15, "inside"))
    assert known.add(Damage(LOST, 20, 30, "next to it"))
    assert known.covers(10, 30)
    assert not known.covers(10, 31)
    again = KnownDamage.parse(known.encode())
    assert again is not None
    assert [entry.what for entry in again.entries] == ["a line of text", "next to it"]
    assert KnownDamage.parse(known.encode()[:-3]) is None
    for number in range(KEPT_MAX + 50):
        known.add(Damage(DAMAGED, 100 + 10 * number, 101 + 10 * number, "rot"))
    assert len(known.entries) == KEPT_MAX
    assert known.entries[-1].next_offset == 101 + 10 * (KEPT_MAX + 49)
    assert known.entries[-1].what == "rot; and more places"
    known.accept(Repair.PAST_CORRUPTION)
    assert [entry.first_offset for entry in known.pending] == [20]
    known.accept(Repair.ACCEPT_LOSS)
    known.cut_start(10_000)
    assert not known.entries
