"""Real crashes: power cuts on ext4, a full disk, kill -9. What was acknowledged is there afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.config import LogConfig
from kbroker.errors import StorageError
from kbroker.log import PartitionLog

from ..log.batches import PARTITION, TOPIC_ID, batch, flush, opened_anew, records

pytestmark = pytest.mark.slow

CONFIG = LogConfig(segment_bytes=40_000, recovery_point_batches=40)
_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_NO_LOG_FLUSH = 2  # without writing the journal: what a power cut leaves


def open_log(folder: Path, config: LogConfig = CONFIG) -> PartitionLog:
    return PartitionLog.open(folder, PARTITION, TOPIC_ID, config, 0, 9_000)


def fill(log: PartitionLog) -> None:
    for _ in range(1_000):
        log.append(batch(100), 9_000, sync=False)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


class Disk:
    """A small ext4 in a file; `cut_power` loses what was not synced."""

    def __init__(self, root: Path) -> None:
        self.image = root / "disk.img"
        self.mount_point = root / "mnt"
        self.mount_point.mkdir()
        with self.image.open("wb") as file:
            file.truncate(48 << 20)
        run("mkfs.ext4", "-q", "-F", str(self.image))
        self.mount()

    def mount(self) -> None:
        run("mount", "-o", "loop", str(self.image), str(self.mount_point))

    def shut_down(self) -> None:
        fd = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def unmount(self) -> None:
        """A test beside this one may hold a copy of all mounts in a namespace of its own: until it ends, the file
        system is there, shut down, and would be mounted again as it is."""
        run("umount", str(self.mount_point))
        deadline = time.monotonic() + 60
        while subprocess.check_output(("losetup", "-j", str(self.image))):
            assert time.monotonic() < deadline, "the file system is still mounted somewhere"
            time.sleep(0.05)  # between two looks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs root and mkfs.ext4 for a loop device")
    try:
        made = Disk(tmp_path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop device here: {error.stderr!r}")
    yield made
    with contextlib.suppress(subprocess.CalledProcessError):
        made.unmount()


@pytest.mark.root
def test_power_cuts_keep_what_was_synced(disk: Disk) -> None:
    folder = disk.mount_point / "orders-3"
    expected: list[bytes] = []
    number = 0
    epoch = -1
    for cycle in range(12):
        log = open_log(folder)
        assert log.leader_epoch > epoch, "an epoch was used twice"
        epoch = log.leader_epoch
        values = [r[4] for r in records(log)]
        assert values[: len(expected)] == expected, "acknowledged records are gone or changed"
        expected = [value for value in values if value is not None]
        for _ in range(17 + cycle):
            value = b"%d" % number + b"x" * (number % 700)
            number += 1
            log.append(batch([value] * 3), 9_000, sync=True)
            expected += [value] * 3
        flush(log, force=cycle % 3 == 0)
        assert log.acknowledged_offset == log.next_offset
        for _ in range(cycle):
            log.append(batch([b"unsynced" * 50]), 9_000, sync=False)
        disk.shut_down()
        log.abandon()
        del log
        disk.unmount()
        disk.mount()


@pytest.mark.root
def test_a_dead_disk_acknowledges_nothing(disk: Disk) -> None:
    log = open_log(disk.mount_point / "orders-3")
    log.append(batch(3), 9_000, sync=True)
    flush(log)
    log.append(batch(3), 9_000, sync=True)
    work = log.begin_flush()
    assert work is not None
    disk.shut_down()
    reason = ""
    try:
        work.run()
    except OSError as error:  # not pytest.raises: its traceback would hold files open
        reason = str(error)
    assert "Input/output" in reason
    log.fail_flush(work, OSError(reason))
    assert log.acknowledged_offset == 3
    with pytest.raises(StorageError):
        log.append(batch(1), 9_000, sync=False)
    with pytest.raises(StorageError):
        opened_anew(log, 9_000)
    del log, work
    gc.collect()
    disk.unmount()
    disk.mount()
    again = open_log(disk.mount_point / "orders-3")
    assert len(records(again)) >= 3
    again.close(9_000)
    del again


@pytest.mark.root
def test_a_full_disk(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    try:
        run("mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no tmpfs here: {error.stderr!r}")
    try:
        log = open_log(tmp_path / "orders-3", LogConfig())
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(500_000))
        with pytest.raises(StorageError, match="No space left"):
            fill(log)
        end = log.next_offset
        assert [r[0] for r in records(log)] == list(range(end)), "reads go on"
        ballast.unlink()
        assert log.append(batch(7), 9_000, sync=False).base_offset == end
        assert len(records(log)) == end + 7, "nothing half written stays"
        log.close(9_000)
        del log
    finally:
        run("umount", str(tmp_path))


_APPENDER = """
import os
import sys
from pathlib import Path
from tests.crash.test_power_loss import PARTITION, batch, flush, open_log
log = open_log(Path(sys.argv[1]))
number = log.next_offset
os.write(1, b"up\\n")
sequence = 0
while True:
    log.append(batch([b"%d" % (number + n) for n in range(5)], producer_id=9, producer_epoch=log.leader_epoch,
                     sequence=sequence), 9_000, sync=True)
    flush(log)
    number += 5
    sequence += 5
    os.write(1, b"%d\\n" % log.acknowledged_offset)
"""


def test_kill_9_of_an_appending_process(tmp_path: Path) -> None:
    folder = tmp_path / "orders-3"
    root = Path(__file__).parents[2]
    for cycle in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", _APPENDER, str(folder)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        assert child.stdout is not None
        for _ in range(20 + 13 * cycle):
            line = child.stdout.readline()
            assert line
        child.send_signal(signal.SIGKILL)
        acknowledged = int((line + child.stdout.read()).split()[-1])
        child.stdout.close()
        child.wait()
        log = open_log(folder)
        assert log.next_offset >= acknowledged
        assert [r[4] for r in records(log)] == [b"%d" % n for n in range(log.next_offset)]
        known = log.producers.get(9)
        assert known is not None
        last = known.batches[-1]
        again = batch([b""] * 5, producer_id=9, producer_epoch=known.epoch, sequence=last.first_sequence)
        assert log.append(again, 9_000, sync=False).duplicate
        log.abandon()
        del log
