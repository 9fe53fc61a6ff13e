"""What /proc says of a process: its state, its memory, its processor time."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SIGKILL_BIT = 1 << 8
_READ_BYTES_MAX = 1 << 14
VMSTAT_BYTES_MAX = 1 << 16


def _read(path: str, bytes_max: int = _READ_BYTES_MAX) -> str:
    # Not open(): this runs ten times a second on an idle broker.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, bytes_max).decode("utf-8", "replace")
    except OSError:  # it ended meanwhile
        return ""
    finally:
        os.close(fd)


def _stat_fields(path: str) -> list[str]:
    # The name in parentheses may hold anything; what follows its last parenthesis is plain.
    return _read(path).rpartition(")")[2].split()


def state_of(pid: int) -> str:
    """State letter of the main thread: R, S, D (waits for a disk), T (stopped), Z …; empty when there is no process."""
    return next(iter(_stat_fields(f"/proc/{pid}/stat")), "")


def waits_for_disk(pid: int) -> bool:
    """Whether the kernel holds the process in a wait that even SIGKILL does not end.

    True when its main thread waits so, or sleeps while another thread does: SIGKILL ends all threads or none.
    """
    main = state_of(pid)
    if main == "D":
        return True
    if main != "S":
        return False
    try:
        threads = [entry.name for entry in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return False
    return any(_stat_fields(f"/proc/{pid}/task/{tid}/stat")[:1] == ["D"] for tid in threads)


def is_dying(pid: int) -> bool:
    """Whether the process is gone, a zombie, or has SIGKILL on its way."""
    if state_of(pid) in ("", "Z", "X"):
        return True
    for line in _read(f"/proc/{pid}/status").splitlines():
        name, _, value = line.partition(":")
        if name in ("SigPnd", "ShdPnd") and int(value.strip() or "0", 16) & _SIGKILL_BIT:
            return True
    return False


def memory_of(pid: int) -> tuple[int, int]:
    """Resident bytes, and how many of them are its own (RssAnon: neither files nor shared memory). Zeros when gone."""
    fields = _read(f"/proc/{pid}/statm").split()
    if len(fields) < 3:
        return 0, 0
    resident, shared = int(fields[1]), int(fields[2])
    return resident * _PAGE_BYTES, (resident - shared) * _PAGE_BYTES


def cpu_s_of(pid: int) -> float:
    """Seconds of processor time, user and system, that it has used."""
    fields = _stat_fields(f"/proc/{pid}/stat")
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S if len(fields) > 12 else 0.0


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since the machine started; 0: it does not say."""
    for line in _read("/proc/vmstat", VMSTAT_BYTES_MAX).splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0
