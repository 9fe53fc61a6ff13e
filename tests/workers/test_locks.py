from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from kbroker.errors import StartError
from kbroker.workers import locks
from kbroker.workers.locks import FolderLock, ProcessesLock, make_folder
from kbroker.workers.meta_properties import check_ours
from kbroker.workers.process import new_incarnation


def test_a_held_folder_names_folder_and_holder(tmp_path: Path) -> None:
    held = FolderLock(tmp_path, ".lock", "data")
    with pytest.raises(StartError, match=rf"data folder {tmp_path} is in use .*process {os.getpid()}"):
        FolderLock(tmp_path, ".lock", "data")
    held.close()
    FolderLock(tmp_path, ".lock", "data").close()


def test_a_holder_that_died_is_known(tmp_path: Path) -> None:
    first = FolderLock(tmp_path, ".lock", "data")
    assert not first.holder_died
    first.remember_incarnation(99)
    kept = (tmp_path / ".lock").read_bytes()
    first.close()
    (tmp_path / ".lock").write_bytes(kept)
    second = FolderLock(tmp_path, ".lock", "data")
    assert second.holder_died
    assert second.incarnation == 99
    second.close()
    third = FolderLock(tmp_path, ".lock", "data")
    assert not third.holder_died
    third.close()


def test_incarnations_rise_though_the_clock_went_back() -> None:
    future = 1 << 60
    assert new_incarnation(future) == future + 1
    assert new_incarnation(0) > 1_700_000_000_000


@pytest.mark.parametrize("text", [b"", b"\0\0\0", b"not a number\n", b"12", b"-5 -5"])
def test_a_damaged_lock_file_does_no_harm(tmp_path: Path, text: bytes) -> None:
    (tmp_path / ".lock").write_bytes(text)
    lock = FolderLock(tmp_path, ".lock", "data")
    assert lock.incarnation == 0
    lock.close()


def test_the_holder_dies_while_we_wait(tmp_path: Path) -> None:
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        FolderLock(tmp_path, ".lock", "data")
        os.write(tell, b"x")
        os.kill(os.getpid(), 9)
    os.read(ready, 1)
    lock = FolderLock(tmp_path, ".lock", "data")
    assert lock.holder_died
    os.waitpid(pid, 0)
    lock.close()
    os.close(ready)
    os.close(tell)


def test_the_lock_of_all_processes_waits_for_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HOLDER_DYING_WAIT_MS", 30)
    first = ProcessesLock(tmp_path)
    share = os.dup(first.fd)  # as a fork shares it
    first.close()
    second = ProcessesLock(tmp_path)
    assert not second.held
    second.close()
    os.close(share)
    third = ProcessesLock(tmp_path)
    assert third.held
    third.close()


def test_locks_are_close_on_exec(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, ".lock", "data")
    assert lock._fd is not None
    assert fcntl.fcntl(lock._fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    lock.close()


def test_a_lock_on_a_read_only_disk_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FolderLock(tmp_path, ".lock", "data").close()
    # As `_open_lock` does where the file system is read-only.
    monkeypatch.setattr(locks, "_open_lock", lambda path: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    lock = FolderLock(tmp_path, ".lock", "data")
    for incarnation in (5, 6, 7):
        lock.remember_incarnation(incarnation)
    lock.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/.lock cannot be written: Read-only file system"
    ]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=f"cannot create the data folder {tmp_path}/file/data: Not a directory"):
        make_folder(tmp_path / "file" / "data", "data")


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_a_folder_of_another_user_says_whose_rights_are_missing(tmp_path: Path, mode: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    for place in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        place.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(StartError, match=r"data folder .* for user 65534: run as the folder's owner, or give it"):
            claimed(folder)
    finally:
        os.seteuid(0)


def claimed(folder: Path) -> FolderLock:
    check_ours(folder)
    return FolderLock(folder, ".lock", "data")
