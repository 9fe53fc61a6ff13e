"""Real disks that a test may fill, stop and break. They need root."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_NO_LOG_FLUSH = 2  # without writing the journal: what a power cut leaves


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


class Disk:
    """A file system at `folder`."""

    def __init__(self, folder: Path, kind: str, source: str, options: str) -> None:
        self.folder = folder
        self._command = ("mount", "-t", kind, "-o", options, source, str(folder))
        folder.mkdir(exist_ok=True)
        self.mount()

    @property
    def data_dir(self) -> Path:
        """A folder on it for a broker's data."""
        return self.folder / "data"

    def mount(self) -> None:
        try:
            run(*self._command)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"cannot mount here: {getattr(error, 'stderr', error)!r}")

    def remount(self, options: str) -> None:
        run("mount", "-o", f"remount,{options}", str(self.folder))

    def unmount(self) -> None:
        run("umount", str(self.folder))

    def fill(self) -> Path:
        """Take all the space that is left, with one file; unlink it to give it back."""
        path = self.folder / "filler"
        with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
            for size in (1 << 16, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass
        return path

    def freeze(self) -> None:
        run("fsfreeze", "-f", str(self.folder))

    def thaw(self) -> None:
        run("fsfreeze", "-u", str(self.folder))

    def fail(self) -> None:
        """An ext4 that finds an error, and turns read-only (`errors=remount-ro`)."""
        for line in Path("/proc/mounts").read_text().splitlines():
            device, folder = line.split()[:2]
            if folder == str(self.folder):
                (Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error").write_text("a test")

    def die(self) -> None:
        """From now on every access fails; what was not synced is gone after `unmount` and `mount`."""
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    if shutil.which("mkfs.ext4") is None or shutil.which("fsfreeze") is None:
        pytest.skip("needs mkfs.ext4 and fsfreeze")


@contextlib.contextmanager
def memory_disk(folder: Path, size_mb: int) -> Iterator[Disk]:
    """A tmpfs."""
    need_root()
    disk = Disk(folder, "tmpfs", "tmpfs", f"size={size_mb}m")
    try:
        yield disk
    finally:
        run("umount", "-l", str(folder))


@contextlib.contextmanager
def ext4_disk(folder: Path, image: Path, size_mb: int, *options: str, mount: str = "") -> Iterator[Disk]:
    """An ext4 in a sparse file on a loop device; `options` are mkfs's, `mount` further ones of mount."""
    need_root()
    with image.open("wb") as file:
        file.truncate(size_mb << 20)
    run("mkfs.ext4", "-q", "-F", *options, str(image))
    disk = Disk(folder, "ext4", str(image), ",".join(filter(None, ("loop", mount))))
    try:
        yield disk
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            disk.thaw()
        run("umount", "-l", str(folder))
