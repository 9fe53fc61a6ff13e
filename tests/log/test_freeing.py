"""The space of deleted files comes back piece by piece, and nobody who has one open is cut short."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kbroker.errors import StorageError
from kbroker.log import PartitionLog
from kbroker.log.freeing import PIECE_BYTES, free_at_once, free_file, free_folder, free_soon
from kbroker.log.storage import DISK, File

from .batches import batch, flush, remove
from .conftest import Open
from .disks import FailingDisk

MIB = 1 << 20
SIZE = 5 * PIECE_BYTES + 1


class Recording(FailingDisk):
    """Remembers to what it has cut files, and what it has unlinked."""

    def __init__(self) -> None:
        super().__init__()
        self.did: list[object] = []

    def truncate(self, file: File, size_bytes: int) -> None:
        super().truncate(file, size_bytes)
        self.did.append(size_bytes)

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.did.append(path.name)


@pytest.fixture
def disk() -> Recording:
    return Recording()


def segment_file(folder: Path) -> Path:
    path = folder / "00000000000000000000.log.deleted"
    path.write_bytes(bytes(SIZE))
    return path


def test_a_file_goes_in_pieces(tmp_path: Path, disk: Recording) -> None:
    path = segment_file(tmp_path)
    steps = list(free_file(disk, path))
    assert disk.did == [path.name, *(SIZE - n * PIECE_BYTES for n in range(1, 6))]
    assert len(steps) == 5
    assert not path.exists()
    free_at_once(free_file(disk, path), path)  # once more does no harm


def test_a_small_file_is_unlinked(tmp_path: Path, disk: Recording) -> None:
    path = tmp_path / "00000000000000000000.log"
    path.write_bytes(bytes(100))
    assert list(free_file(disk, path)) == []
    assert disk.did == [path.name]


def test_a_nearly_full_disk_wants_no_pause(tmp_path: Path, disk: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    for room, expected in (((100 << 30, 4 << 30), {True}), ((100 << 30, 6 << 30), {False}), ((2 << 30, MIB), {True})):
        monkeypatch.setattr(disk, "disk_room", lambda _file, room=room: room)
        assert set(free_file(disk, segment_file(tmp_path))) == expected


@pytest.mark.parametrize("how", ["open", "mapped"])
def test_what_another_process_reads_is_never_cut(tmp_path: Path, disk: Recording, how: str) -> None:
    path = segment_file(tmp_path)
    program = (
        "import mmap, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); size = os.fstat(fd).st_size\n"
        "kept = mmap.mmap(fd, size, prot=mmap.PROT_READ) if sys.argv[2] == 'mapped' else None\n"
        "if kept: os.close(fd)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(len(kept[:]) if kept else len(os.pread(fd, size, 0)), flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        free_at_once(free_file(disk, path), path)
        assert disk.did == [path.name]
        out, _ = reader.communicate("go on\n", timeout=20)
        assert out == f"{SIZE}\n"


def test_a_folder_goes_with_everything_in_it(open_log: Open, disk: Recording, folder: Path) -> None:
    log = open_log()
    log.append(batch(1), 9_000, sync=False)
    log.close(9_000)
    (folder / "00000000000000000000.log.1.corrupt").write_bytes(bytes(SIZE))
    gone = PartitionLog.delete(folder)
    log.let_go()
    disk.did.clear()
    free_at_once(free_folder(disk, gone), gone)
    assert not gone.exists()
    assert SIZE - PIECE_BYTES in disk.did


def test_a_small_folder_goes_at_once_and_a_large_one_is_begun(tmp_path: Path, disk: Recording) -> None:
    folder = tmp_path / "t-0-delete"
    folder.mkdir()
    (folder / "00000000000000000000.log").write_bytes(bytes(PIECE_BYTES + 1))
    assert free_soon(disk, folder) is None
    assert not folder.exists()
    folder.mkdir()
    segment_file(folder)
    disk.did.clear()
    rest = free_soon(disk, folder)
    assert rest is not None
    assert disk.did[-1] == SIZE - 4 * PIECE_BYTES, "not all of it at once"
    free_at_once(rest, folder)
    assert not folder.exists()


def open_paths() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


def test_a_log_that_lets_go_has_no_file_open_whoever_holds_what(open_log: Open, folder: Path) -> None:
    """Neither a slice, nor an unfinished flush, nor a segment that retention has taken out keeps any space."""
    log = open_log(segment_bytes=1 << 20, retention_bytes=1 << 20)
    for _ in range(8):
        log.append(batch([bytes(1 << 18)]), 9_000, sync=False)
        flush(log)
    piece = log.read(0, MIB)
    log.append(batch(1), 9_000, sync=True)
    work = log.begin_flush()
    log.retain(9_000)
    remove(log, 9_000)
    log.append(batch([bytes(1 << 18)] * 3), 9_000, sync=False)
    log.retain(9_000)
    assert log.to_remove
    assert any(str(folder) in path for path in open_paths())
    log.let_go()
    assert not [path for path in open_paths() if str(folder) in path]
    with pytest.raises(StorageError, match="bytes too early"):
        piece.read()
    del work


def test_letting_go_frees_no_descriptor_number(tmp_path: Path) -> None:
    """Another thread may be about to read by it: it must not read a file that has got this number meanwhile."""
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    file = DISK.open(path)
    number = file.fd
    file.let_go()
    assert file.fd == number
    other = DISK.open(path)
    assert other.fd != number
    assert DISK.pread(file, 3, 0) == b""
    assert not os.get_inheritable(number)
    file.close()
    file.let_go()
    other.close()
