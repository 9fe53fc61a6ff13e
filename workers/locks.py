"""The locks that keep two brokers off the same folder, and what outlives a broker in the lock's file.

flock belongs to an open file, which a fork shares: children close the inherited descriptor before anything else, else
the folder would stay locked for as long as one of them lives. The exception is `ProcessesLock`, which is meant to last
as long as the last process of a broker.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from kbroker.errors import StartError
from kbroker.workers.proc_facts import is_dying

log = logging.getLogger(__name__)

DATA_LOCK = ".lock"
RUNTIME_LOCK = "runtime.lock"
PROCESSES_LOCK = ".processes.lock"

HOLDER_DYING_WAIT_MS = 5_000
HOLDER_ALIVE_WAIT_MS = 300
"""Also a living holder gets a moment: `kill -9` returns before the process is gone."""
_RETRY_MS = 10
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
"""What ProtectHome= of systemd hides."""


def make_folder(folder: Path, what: str) -> None:
    """Create a folder and its parents, mode 0750, durably. Raises StartError naming the folder and what it is for."""
    missing = []
    try:
        for place in (folder, *folder.parents):
            if place.exists():
                break
            missing.append(place)
        for place in reversed(missing):
            place.mkdir(mode=0o750, exist_ok=True)
            sync_folder(place.parent)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise StartError(f"cannot create the {what} folder {folder}: {why(error, folder)}") from None


def why(error: OSError, folder: Path, environment: Mapping[str, str] = os.environ) -> str:
    """What the system says of `folder`, and what to do where that is known."""
    is_service = "INVOCATION_ID" in environment  # systemd's
    if error.errno == errno.EROFS and is_service:
        return (
            f"{error.strerror}: a service may write only where its unit says so. `systemctl edit` the unit, and add "
            f"[Service] ReadWritePaths={folder}"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        if is_service and any(folder.is_relative_to(home) for home in HOMES):
            return (
                f"{error.strerror}: the unit's ProtectHome= hides it; choose a folder elsewhere, such as /srv/kbroker"
            )
        return f"{error.strerror} for user {os.geteuid()}: run as the folder's owner, or give it to this user (chown)"
    return error.strerror or str(error)


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class FolderLock:
    """A flock on `folder/name`, held by the supervisor. The file tells the holder's pid and its last incarnation."""

    def __init__(self, folder: Path, name: str, what: str) -> None:
        """Take the lock. Raises StartError naming the folder and the pid that holds it.

        Waits up to HOLDER_DYING_WAIT_MS when the holder is dead or dying.
        """
        path = self._path = folder / name
        try:
            self._fd: int | None = _open_lock(path)
        except OSError as error:
            raise StartError(f"cannot write to the {what} folder {folder}: {why(error, folder)}") from None
        begun = time.monotonic()
        while not _try_lock(self._fd):
            pid, _ = self._read()
            waited_ms = (time.monotonic() - begun) * 1000
            bound_ms = HOLDER_DYING_WAIT_MS if pid == 0 or is_dying(pid) else HOLDER_ALIVE_WAIT_MS
            if waited_ms >= bound_ms:
                os.close(self._fd)
                holder = f"process {pid}" if pid else "a process that has not told its pid"
                raise StartError(
                    f"the {what} folder {folder} is in use by another broker ({holder}); stop that one first, or "
                    "choose another folder"
                )
            time.sleep(_RETRY_MS / 1000)
        former_pid, self.incarnation = self._read()
        self.holder_died = former_pid != 0
        """The last holder did not close the lock: it was killed."""
        self._told = ""
        self._write(os.getpid())

    def remember_incarnation(self, incarnation: int) -> None:
        """Keep the newest incarnation for a successor, so that a clock set back cannot repeat one."""
        self.incarnation = incarnation
        self._write(os.getpid())

    def close(self) -> None:
        """Release the lock and take the pid out of the file."""
        if self._fd is not None:
            self._write(0)
            os.close(self._fd)
            self._fd = None

    def _read(self) -> tuple[int, int]:
        assert self._fd is not None
        numbers = os.pread(self._fd, 100, 0).split()
        pid, incarnation = (int(n) if n.isdigit() else 0 for n in [*numbers, b"", b""][:2])
        return pid, incarnation

    def _write(self, pid: int) -> None:
        assert self._fd is not None
        # Always the same length: one pwrite leaves either the old line or the new one. A disk that takes nothing must
        # not end the broker: then the clock alone sees to it that incarnations rise.
        try:
            os.pwrite(self._fd, b"%10d %20d\n" % (pid, self.incarnation), 0)
        except OSError as error:
            # EBADF: `_open_lock` could open it for reading only.
            why_not = os.strerror(errno.EROFS) if error.errno == errno.EBADF else error.strerror or str(error)
            if why_not != self._told:
                log.warning("%s cannot be written: %s", self._path, why_not)
            self._told = why_not
        else:
            self._told = ""


class ProcessesLock:
    """Held by every process of a broker through the descriptor that they inherit; free once the last one is gone.

    A successor waits for it, so that it finds no listener, socket or partition still held by a dying process.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock, waiting up to HOLDER_DYING_WAIT_MS; `held` tells whether it was free by then."""
        self.fd = _open_lock(folder / PROCESSES_LOCK)
        deadline = time.monotonic() + HOLDER_DYING_WAIT_MS / 1000
        self.held = _try_lock(self.fd)
        while not self.held and time.monotonic() < deadline:
            time.sleep(_RETRY_MS / 1000)
            self.held = _try_lock(self.fd)

    def close(self) -> None:
        """Close this process's share of the lock."""
        os.close(self.fd)


def _open_lock(path: Path) -> int:
    """A lock's file, made when it is not there. On a read-only file system one that is there can be locked as well."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path)) from None


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
