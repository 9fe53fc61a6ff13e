"""The fakes themselves."""

import errno
import random
from pathlib import Path

import pytest

from .disks import FailingDisk, ForgetfulDisk


def test_failing_disk_fails_what_was_asked_for(tmp_path: Path) -> None:
    disk = FailingDisk()
    file = disk.open(tmp_path / "a", create=True)
    disk.space = 3
    assert disk.pwrite(file, b"hello", 0) == 3
    with pytest.raises(OSError, match="space") as caught:
        disk.pwrite(file, b"lo", 3)
    assert caught.value.errno == errno.ENOSPC
    disk.space = None
    disk.failing["fdatasync"] = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        disk.fdatasync(file)
    disk.failing.clear()
    disk.fdatasync(file)


def test_forgetful_disk_keeps_synced_bytes_and_names(tmp_path: Path) -> None:
    for seed in range(30):
        folder = tmp_path / str(seed)
        folder.mkdir()
        disk = ForgetfulDisk()
        file = disk.open(folder / "a", create=True)
        disk.pwrite_all(file, b"synced", 0)
        disk.fdatasync(file)
        disk.fsync_folder(folder)
        disk.pwrite_all(file, b"+tail", 6)
        disk.open(folder / "b", create=True)
        disk.rename(folder / "a", folder / "c")
        disk.lose_power(folder, random.Random(seed))
        assert [path.name for path in folder.iterdir()] == ["a"], "neither the new file nor the rename was synced"
        data = (folder / "a").read_bytes()
        assert data.startswith(b"synced")
        assert len(data) <= len(b"synced+tail")
