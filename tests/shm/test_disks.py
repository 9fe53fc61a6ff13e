"""Disks that fail and files that shrink under a reader: an error that says where, never a signal."""

from __future__ import annotations

import faulthandler
import fcntl
import mmap
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kbroker.errors import StorageError
from kbroker.shm import segment_file
from kbroker.shm.reader import ShmConnection
from kbroker.shm.segment_file import SegmentFile
from tests.shm.batches import check_batches, make_batch
from tests.shm.children import in_child, needs_root
from tests.shm.conftest import WorkerProcess

EXT4_IOC_SHUTDOWN = 0x8004587D
BATCH_BYTES = 100_000


@pytest.mark.parametrize("mapped", [True, False])
def test_a_file_that_shrinks_under_its_reader_is_an_error(worker: WorkerProcess, mapped: bool) -> None:
    worker.append(topic="t", count=1, size_bytes=BATCH_BYTES, batches=8)
    (file,) = (worker.folder / "t-0").glob("*.log")

    def read() -> str:
        with ShmConnection(worker.path, mapped=mapped) as connection:
            partition = connection.open("t", 0, 0)
            assert check_batches(partition.read(3 * BATCH_BYTES), 0) == 2
            os.truncate(file, 2 * (BATCH_BYTES + 61) + 5000)
            for _ in range(2):
                with pytest.raises(StorageError) as failed:
                    partition.read()
            assert partition.offset == 2
            os.truncate(file, 0)
            with pytest.raises(StorageError):
                partition.read(1)
            return str(failed.value)

    assert "t-0, segment 0: the file ends at" in in_child(read)


def test_a_damaged_length_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    good = make_batch(0, 1)
    for length in (-1, 0, 48, 2**31 - 1):
        path.write_bytes(good + good[:8] + struct.pack(">i", length) + good[12:])
        for hot in (True, False):
            file = SegmentFile(os.open(path, os.O_RDONLY), "t-0, segment 0")
            with pytest.raises(StorageError, match=f"no valid batch at position {len(good)}"):
                file.read(0, 2 * len(good), 2 * len(good) - 1, hot=hot)
            file.close()


def test_without_populate_or_address_space_pread_serves(worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    worker.append(topic="t", count=1, batches=5)
    for target, name, value in ((segment_file, "_populates", lambda: False), (segment_file, "Mapping", refuse)):
        with monkeypatch.context() as patched, ShmConnection(worker.path) as connection:
            patched.setattr(target, name, value)
            assert check_batches(connection.open("t", 0, 0).read(), 0) == 5


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of its own on a loop device."""
    image, place = tmp_path / "image", tmp_path / "mount"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 on a loop device here: {error}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def shut_down(place: Path) -> None:
    """From now on the file system refuses read(2) with EIO; pages that are mapped may still come."""
    fd = os.open(place, os.O_RDONLY)
    fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", 2))
    os.close(fd)


def lose_blocks(place: Path) -> None:
    """From now on the device has no block that could be read: every cold page is EIO."""
    os.truncate(place.parent / "image", 4096)


def drop_caches() -> None:
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


def read_until_it_fails(worker: WorkerProcess, fail: Callable[[], None], mapped: bool) -> tuple[int, str]:
    """Offset and error at which a reader ended whose disk failed under it after two batches."""
    with ShmConnection(worker.path, mapped=mapped) as connection:
        partition = connection.open("t", 0, 0)
        offset = check_batches(partition.read(3 * BATCH_BYTES), 0)
        drop_caches()
        fail()
        try:
            while data := partition.read(3 * BATCH_BYTES):
                offset = check_batches(data, offset)
        except StorageError as error:
            assert partition.offset == offset
            return offset, str(error)
        return offset, ""


@pytest.fixture
def worker_on_ext4(make_worker: Callable[..., WorkerProcess], ext4: Path) -> Iterator[WorkerProcess]:
    worker = make_worker({}, ext4)
    worker.create(topic="t")
    worker.append(topic="t", count=1, size_bytes=BATCH_BYTES, batches=100)
    yield worker
    worker.kill()


@needs_root
@pytest.mark.root
@pytest.mark.parametrize("mapped", [True, False])
def test_a_cold_page_on_a_failing_disk_is_an_error(worker_on_ext4: WorkerProcess, ext4: Path, mapped: bool) -> None:
    offset, said = in_child(lambda: read_until_it_fails(worker_on_ext4, lambda: lose_blocks(ext4), mapped))
    assert 2 <= offset < 100
    assert "t-0, segment 0: cannot read positions" in said
    assert "Input/output error" in said


@needs_root
@pytest.mark.root
@pytest.mark.usefixtures("worker_on_ext4")
def test_the_same_page_kills_who_just_touches_it(ext4: Path) -> None:
    """Else the test above would show nothing."""
    (path,) = (ext4 / "t-0").glob("*.log")

    def touch() -> int:
        faulthandler.disable()
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
            drop_caches()
            lose_blocks(ext4)
            return sum(mapping[::4096])

    with pytest.raises(AssertionError, match=f"signal {signal.SIGBUS.value}"):
        in_child(touch)


@needs_root
@pytest.mark.root
@pytest.mark.parametrize("mapped", [True, False])
def test_a_file_system_that_was_shut_down(worker_on_ext4: WorkerProcess, ext4: Path, mapped: bool) -> None:
    offset, said = in_child(lambda: read_until_it_fails(worker_on_ext4, lambda: shut_down(ext4), mapped))
    if offset < 100:
        assert "Input/output error" in said
