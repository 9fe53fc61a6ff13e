"""A test run that is ended leaves no broker running, nor anything else that it has started."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SMALL_RUN = """
import os, subprocess, sys, threading
from pathlib import Path
from tests.cli.served import serve
from kbroker.testing import Broker

def test_that_never_ends(tmp_path: Path) -> None:
    away = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    holder = os.fork()  # a child that holds every pipe of the run open
    if holder == 0:
        threading.Event().wait()
    with Broker(workers=1) as broker, serve(tmp_path / "served") as served:
        pids = [away.pid, holder, broker.process.pid, served.process.pid, broker.pid("worker-0")]
        with open(os.environ["SAY"], "w") as say:
            print(*pids, broker.folder, file=say)
        threading.Event().wait()
"""


def is_readable(descriptor: int, timeout_s: float) -> bool:
    """Whether it is, within that time. Whatever its number: a test run may have more than select(2) takes."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ended_by", "spread"),
    [(signal.SIGTERM, []), (signal.SIGKILL, []), (signal.SIGINT, []), (signal.SIGTERM, ["-n", "1"])],
)
def test_what_a_run_has_started_ends_with_it(tmp_path: Path, ended_by: signal.Signals, spread: list[str]) -> None:
    (tmp_path / "test_small.py").write_text(SMALL_RUN)
    said = tmp_path / "said"
    os.mkfifo(said)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-q", *spread]
    with subprocess.Popen(
        # As a shell without job control runs it in the background.
        ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *command, "test_small.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SAY": str(said)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as run:
        with open(os.open(said, os.O_RDONLY | os.O_NONBLOCK)) as report:
            assert is_readable(report.fileno(), 60)
            line = report.readline().split()
        assert line, run.communicate()[0].decode()
        *pids, folder = line
        ends = [os.pidfd_open(int(pid)) for pid in pids]
        run.send_signal(ended_by)
        for pid, end in zip(pids, ends, strict=True):
            assert is_readable(end, 30), f"process {pid} runs on"
            os.close(end)
        run.wait(60)
    deadline = time.monotonic() + 20
    while Path(folder).exists():
        assert time.monotonic() < deadline, "its folder is still there"
        time.sleep(0.02)  # between two looks
