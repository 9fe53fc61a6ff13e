"""Nothing that a test run has started outlives it, however it ends: in order, by SIGTERM or by kill -9.

Whatever the run starts inherits a mark in its environment. A guard of its own session waits for the end of the run and
then kills all that bear the mark: brokers in sessions of their own, clients, Java. Run as a program this is the guard.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

MARK = "TEST_RUNS"
"""Variable with the marks of all runs within which a process was started."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
SWEEP_S = 20
QUIET_SWEEPS = 5
"""A process that is just being started is seen by the next look."""


class RunGuard:
    """Begins to watch over this process."""

    def __init__(self) -> None:
        mark = uuid.uuid4().hex
        environment = {name: value for name, value in os.environ.items() if name != MARK}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, mark, str(os.getpid())],
            stdin=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        os.environ[MARK] = f"{os.environ.get(MARK, '')}:{mark}"
        # Else kbroker's processes write their titles over the environment that they were started with.
        os.environ["SPT_NOENV"] = "1"

    def close(self) -> None:
        """The run is over: kill what is left."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has been killed
            self._process.stdin.write(b".")  # not only closed: what was forked may hold the pipe open
            self._process.stdin.close()
        self._process.wait(2 * SWEEP_S)


def end_by_signals() -> None:
    """Let SIGTERM end the run as Ctrl-C does, which takes down in order what it has started; and SIGINT too where a
    shell that ran it in the background has it ignored, as would all that it starts.

    What it forks has no mark of its own: it gets the signals' usual meaning back, and dies with the run.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *(ctypes.c_ulong(0),) * 3)


def marked(mark: str) -> list[int]:
    """Process ids of all that bear the mark."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (place / "environ").read_bytes():
                    found.append(int(place.name))
    return found


def main(mark: str, run: int) -> None:
    """Wait for the end of the run, then kill. A child that was forked may hold the pipe open longer than it lives."""
    while os.getppid() == run and not select.select([0], [], [], 1)[0]:
        pass
    deadline, quiet = time.monotonic() + SWEEP_S, 0
    while quiet < QUIET_SWEEPS and time.monotonic() < deadline:
        found = [pid for pid in marked(mark) if pid != run]
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        quiet = 0 if found else quiet + 1
        time.sleep(0.02)  # between two looks


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
