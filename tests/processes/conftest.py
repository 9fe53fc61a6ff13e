"""Runs tests/processes/small_broker.py and waits on what it and its children say."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kbroker.wire.status import read_status

DEADLINE_S = 30
PROGRAM = Path(__file__).with_name("small_broker.py")


class RunningBroker:
    """A small broker in its own process; everything it says, on standard output or error, comes as lines."""

    def __init__(self, folder: Path, settings: dict[str, str], mains: dict[str, str], **popen: Any) -> None:
        self.folder = folder
        self.runtime_dir = folder / "data" / "run"
        self.config_file = folder / "kbroker.toml"
        self.settings = {"log.dir": str(folder / "data"), "workers": "2", "listeners": "", **settings}
        self.write_settings()
        self.lines: list[str] = []
        self._rest = b""
        wrapper = popen.pop("wrapper", [])
        command = [
            *wrapper,
            sys.executable,
            str(PROGRAM),
            str(self.config_file),
            *(f"{k}={v}" for k, v in mains.items()),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **popen)
        self.pid = self.process.pid

    def write_settings(self, **more: str) -> None:
        self.settings.update(more)
        self.config_file.write_text("".join(f'{name} = "{text}"\n' for name, text in self.settings.items()))

    def expect(self, pattern: str) -> re.Match[str]:
        """The next line that matches; fails when the broker ends or DEADLINE_S passes without it."""
        deadline = time.monotonic() + DEADLINE_S
        seen = len(self.lines)
        while True:
            line = self._next_line(deadline)
            if line is None:
                said = "\n".join(self.lines[seen:])
                code = self.process.poll()
                pytest.fail(f"no line matches {pattern!r} (exit code {code}); since then it said:\n{said}")
            if match := re.search(pattern, line):
                return match

    def expect_all(self, *patterns: str) -> None:
        """Lines that match each of the patterns, in any order."""
        left = set(patterns)
        while left:
            line = self.expect("|".join(left)).string
            left = {pattern for pattern in left if not re.search(pattern, line)}

    def _next_line(self, deadline: float) -> str | None:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        while b"\n" not in self._rest:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            chunk = os.read(fd, 1 << 16)
            if not chunk:
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        self.lines.append(line.decode())
        return self.lines[-1]

    def rest(self) -> list[str]:
        """All lines up to the end of the broker."""
        deadline = time.monotonic() + DEADLINE_S
        while self._next_line(deadline) is not None:
            pass
        return self.lines

    def ready(self) -> RunningBroker:
        self.expect("^READY")
        return self

    def status(self) -> dict[str, Any]:
        return read_status(self.runtime_dir)

    def child(self, name: str) -> dict[str, Any]:
        return next(p for p in self.status()["processes"] if p["name"] == name)

    def child_pidfds(self) -> list[int]:
        return [os.pidfd_open(p["pid"]) for p in self.status()["processes"] if p["pid"]]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code; everything it said is in `lines`."""
        self.rest()
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


def wait_for_end(pidfds: list[int]) -> None:
    """Wait until all these processes have ended."""
    for fd in pidfds:
        assert select.select([fd], [], [], DEADLINE_S)[0], "a process did not end"
        os.close(fd)


StartBroker = Callable[..., RunningBroker]


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[StartBroker]:
    brokers: list[RunningBroker] = []

    def start(settings: dict[str, str] | None = None, **mains: Any) -> RunningBroker:
        popen = {name: mains.pop(name) for name in ("env", "pass_fds", "wrapper") if name in mains}
        broker = RunningBroker(tmp_path, settings or {}, mains, **popen)
        brokers.append(broker)
        return broker

    yield start
    for broker in brokers:
        broker.close()


@pytest.fixture(autouse=True)
def _no_systemd_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "RUNTIME_DIRECTORY", "JOURNAL_STREAM"):
        monkeypatch.delenv(name, raising=False)
