"""Syncs that the kernel does by itself: begun, told of, refused."""

from __future__ import annotations

import errno
import os
import platform
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.log import kernel_sync
from kbroker.log.kernel_sync import KernelSync
from kbroker.log.storage import DISK, File

from ..broker.disks import ext4_disk

IN_FLIGHT_MAX = 8
DEADLINE_S = 30


@pytest.fixture
def kernel() -> Iterator[KernelSync]:
    try:
        kernel = KernelSync(IN_FLIGHT_MAX)
    except OSError as error:
        pytest.skip(f"none to be had here: {error}")
    yield kernel
    kernel.close()


def written(path: Path) -> File:
    file = DISK.open(path, create=True)
    DISK.pwrite_all(file, bytes(10_000), 0)
    return file


def outcomes(kernel: KernelSync, count: int) -> dict[int, OSError | None]:
    """The next `count` of them."""
    found: dict[int, OSError | None] = {}
    while len(found) < count:
        assert select.select([kernel.event_fd], [], [], DEADLINE_S)[0], "the kernel does not answer"
        found.update(kernel.outcomes())
    return found


def test_success(kernel: KernelSync, tmp_path: Path) -> None:
    file = written(tmp_path / "file")
    for key in (1, 2, 2**63):
        kernel.begin(file, key)
        assert outcomes(kernel, 1) == {key: None}


def test_many_in_flight_and_one_too_many(kernel: KernelSync, tmp_path: Path) -> None:
    files = [written(tmp_path / str(number)) for number in range(IN_FLIGHT_MAX)]
    for _ in range(3):
        for key, file in enumerate(files):
            kernel.begin(file, key)
        with pytest.raises(BlockingIOError):
            kernel.begin(files[0], 99)
        assert outcomes(kernel, IN_FLIGHT_MAX) == dict.fromkeys(range(IN_FLIGHT_MAX))


@pytest.mark.root
@pytest.mark.slow
def test_the_error_of_a_disk_that_died(kernel: KernelSync, tmp_path: Path) -> None:
    with ext4_disk(tmp_path / "disk", tmp_path / "image", 16) as disk:
        files = [written(disk.folder / "file"), written(tmp_path / "file")]
        disk.die()
        for key, file in enumerate(files):
            kernel.begin(file, key)
        found = outcomes(kernel, 2)
        error = found[0]
        assert error is not None
        assert error.errno == errno.EIO
        assert found[1] is None, "the other disk is well"
        files[0].close()


def test_what_cannot_be_synced_so_is_refused(kernel: KernelSync, tmp_path: Path) -> None:
    closed = written(tmp_path / "file")
    closed.close()
    reader, writer = os.pipe()
    pipe = File(writer, Path("pipe"))
    for file, code in ((closed, errno.EBADF), (pipe, errno.EINVAL)):
        for _ in range(2 * IN_FLIGHT_MAX):
            with pytest.raises(OSError, match=os.strerror(code)) as raised:
                kernel.begin(file, 1)
            assert raised.value.errno == code
    os.close(reader)
    # What was refused takes no room.
    test_many_in_flight_and_one_too_many(kernel, tmp_path)


def test_closing_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    kernel = KernelSync(IN_FLIGHT_MAX)
    for key in range(IN_FLIGHT_MAX - 1):
        kernel.begin(written(tmp_path / str(key)), key)
    kernel.close()
    with pytest.raises(OSError, match="Invalid argument"):
        kernel.begin(written(tmp_path / "late"), 1)


def test_a_machine_whose_calls_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    with pytest.raises(OSError, match="Function not implemented"):
        KernelSync(IN_FLIGHT_MAX)


def test_a_kernel_that_has_none_left() -> None:
    assert platform.machine() in kernel_sync._CALLS
    with pytest.raises(OSError, match=r"Invalid argument|Resource temporarily unavailable"):
        KernelSync(1 << 30)  # far above fs.aio-max-nr
