"""The demo's broker, and `kbroker` commands run against it."""

from __future__ import annotations

import subprocess
import sys

import psutil

from kbroker.testing.broker import Broker

LOG_SHOWN = 2000


class DemoFailed(Exception):
    """Something is off; the message says what."""


class DemoBroker(Broker):
    """A broker in a temporary folder: gone again when the demo is, whatever happens."""

    def kbroker(self, *arguments: str) -> str:
        """Run a `kbroker` command against this broker, which must succeed; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "kbroker", *arguments],
            env={**self.environment, "KBROKER_SERVER": self.server},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise DemoFailed(f"`kbroker {' '.join(arguments)}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def drain(self) -> None:
        """Stop the broker in order: it must end with 0 and leave no process."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        code = self.stop()
        if code:
            raise DemoFailed(f"the broker ended with {code}: {self.log[-LOG_SHOWN:]}")
        _, alive = psutil.wait_procs(children, timeout=2)
        if alive:
            raise DemoFailed(f"the broker left processes behind: {alive}")
