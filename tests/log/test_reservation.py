"""Space set aside behind a growing segment: nobody sees it, and it is given back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kbroker.log import PartitionLog, reservation
from kbroker.log.reservation import Reservation, give_back
from kbroker.log.storage import DISK

from .batches import batch, flush, records
from .conftest import Open
from .disks import FailingDisk

MIB = 1 << 20


@pytest.fixture
def small_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 4 MiB are large enough already."""
    monkeypatch.setattr(reservation, "_LEAST_BYTES", MIB)
    file = DISK.open(tmp_path / "probe", create=True)
    try:
        DISK.reserve(file, 0, MIB)
    except OSError as error:
        pytest.skip(f"no space can be set aside here: {error}")


def fill(log: PartitionLog, size_bytes: int) -> None:
    """Append batches of 256 KiB until the log has so many bytes."""
    while log.size_bytes < size_bytes:
        log.append(batch([bytes(1 << 18)]), 9_000, sync=False)


def spare_bytes(path: Path) -> int:
    """Bytes on the disk behind the file's end."""
    stat = os.stat(path)
    return stat.st_blocks * 512 - stat.st_size


@pytest.mark.parametrize(
    ("size", "reserved_end", "segment", "expected"),
    [
        (0, 0, 1024, None),
        (63, 0, 1024, None),
        (64, 0, 1024, (64, 16)),
        (200, 0, 1024, (200, 50)),
        (600, 0, 1024, (600, 80)),
        (600, 680, 1024, None),
        (600, 665, 1024, None),
        (600, 664, 1024, (664, 16)),
        (600, 550, 1024, (600, 80)),
        (1000, 990, 1024, (1000, 24)),
        (1000, 1010, 1024, None),
        (600, 0, 256, None),
    ],
)
def test_how_much(size: int, reserved_end: int, segment: int, expected: tuple[int, int] | None, tmp_path: Path) -> None:
    """All in MiB."""
    file = DISK.open(tmp_path / "a", create=True)
    found = Reservation.ahead_of(file, size * MIB, reserved_end * MIB, segment * MIB)
    assert (found and (found.position // MIB, found.size_bytes // MIB)) == expected


@pytest.mark.usefixtures("small_steps")
def test_a_flush_sets_space_aside_that_nobody_sees(open_log: Open) -> None:
    log = open_log()
    fill(log, 3 * MIB)
    flush(log)
    path = log.segments[0].path
    assert spare_bytes(path) < MIB // 2
    fill(log, 6 * MIB)
    flush(log)
    assert spare_bytes(path) > MIB
    assert path.stat().st_size == log.size_bytes == sum(path.stat().st_size for path in log.folder.glob("*.log"))
    count = log.next_offset
    fill(log, 10 * MIB)
    assert log.next_offset > count
    assert [record[0] for record in records(log)] == list(range(log.next_offset))


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("end", ["roll", "close", "crash", "torn"])
def test_it_is_given_back(open_log: Open, end: str) -> None:
    log = open_log()
    fill(log, 6 * MIB)
    flush(log)
    path, size_bytes, next_offset = log.segments[0].path, log.size_bytes, log.next_offset
    assert spare_bytes(path) > MIB
    if end == "roll":
        log.roll(9_000)
        flush(log)
    elif end == "close":
        log.close(9_000)
    else:
        log.abandon()
        if end == "torn":
            with path.open("ab") as file:
                file.write(batch(5)[:-1])
        log = open_log()
        assert not log.recovery.clean
        assert bool(log.recovery.truncated_bytes) == (end == "torn")
        assert log.next_offset == next_offset
    assert path.stat().st_size == size_bytes
    assert spare_bytes(path) < MIB // 2


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_a_disk_that_refuses_is_no_harm(open_log: Open, disk: FailingDisk, error: int) -> None:
    disk.failing["reserve"] = error
    log = open_log()
    for size in (6, 12):
        fill(log, size * MIB)
        flush(log)
        assert log.synced_offset == log.next_offset
    assert spare_bytes(log.segments[0].path) < MIB // 2
    disk.failing["truncate"] = error
    give_back(disk, log.segments[0].file, log.size_bytes)


@pytest.mark.usefixtures("small_steps")
def test_a_disk_that_is_nearly_full_keeps_its_space(open_log: Open, disk: FailingDisk) -> None:
    disk.space = 512 * MIB
    log = open_log()
    fill(log, 6 * MIB)
    flush(log)
    assert spare_bytes(log.segments[0].path) < MIB // 2
