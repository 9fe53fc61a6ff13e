"""kbroker.testing: what a test run that is killed leaves behind."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

CALLER = """
from kbroker.testing import Broker
with Broker(workers=1) as broker:
    print(broker.pid("supervisor"), broker.folder, flush=True)
    input()
"""


@pytest.mark.slow
def test_a_broker_ends_with_the_process_that_runs_it() -> None:
    with subprocess.Popen([sys.executable, "-c", CALLER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        pid, folder = caller.stdout.readline().split()
        ended = os.pidfd_open(int(pid))
        caller.kill()
    try:
        assert select.select([ended], [], [], 10)[0], "the broker runs on"
    finally:
        os.close(ended)
    deadline = time.monotonic() + 10
    while Path(os.fsdecode(folder)).exists():
        assert time.monotonic() < deadline, "its folder is still there"
        time.sleep(0.01)  # between two looks
