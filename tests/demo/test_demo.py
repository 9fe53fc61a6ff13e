"""The demo itself, with little text: that it passes, and that it leaves nothing behind, Ctrl-C or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent
SOME_BYTES = 8 << 20

pytestmark = pytest.mark.slow


def start(size_bytes: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.demo", str(size_bytes)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "DEMO_STARTED_BY": str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_behind() -> list[psutil.Process]:
    """Processes that inherited the mark that `start` puts into the environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DEMO_STARTED_BY") == str(os.getpid()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_small_demo_passes() -> None:
    with start(SOME_BYTES) as demo:
        out, err = demo.communicate(timeout=100)
    assert demo.returncode == 0, out + err
    assert "demo: all well" in out
    assert "recovery: kill -9 to first new acknowledgement" in out
    assert left_behind() == []


def test_ctrl_c_in_the_middle_leaves_nothing() -> None:
    with start(4 * SOME_BYTES) as demo:
        assert demo.stdout is not None
        folder = Path(demo.stdout.readline().partition("ipc://")[2].strip()).parent.parent
        assert "text go in" in demo.stdout.readline()
        assert folder.is_dir()
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=60)
    assert demo.returncode == 130, err
    assert err == "demo: interrupted; nothing is left running\n"
    assert left_behind() == []
    assert not folder.exists()
