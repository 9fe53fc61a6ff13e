"""The examples run as they stand, one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kbroker.testing import Broker

EXAMPLES = Path(__file__).parents[2] / "clients" / "examples"


def run(broker: Broker, name: str) -> str:
    environment = {**os.environ, "KBROKER_SERVER": broker.server}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_examples(broker: Broker) -> None:
    assert "greetings-0 offset 9" in run(broker, "produce.py")
    assert "0 9 b'en' hello 9\nread through shm" in run(broker, "consume.py")
    assert "10 records" in run(broker, "batches.py")
    assert "topics now:" in run(broker, "admin.py")
    assert "hello 9" in run(broker, "asyncio_clients.py")


# "worker_pool.py" is run by test_groups.py: it needs a broker with short sessions.


def test_every_example_is_run() -> None:
    text = Path(__file__).read_text()
    assert all(f'"{example.name}"' in text for example in EXAMPLES.glob("*.py"))
