from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent


class WorkerProcess:
    """A small worker in a process of its own; its commands are called as methods: `worker.append(topic="t", …)`."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.settings = settings
        self.path = str(folder / "shm.sock")
        self.start()

    def start(self) -> None:
        arguments = [f"{name}={value}" for name, value in self.settings.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.shm.small_worker", str(self.folder), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.call("pid")

    def call(self, name: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, arguments]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the worker died in {name}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["answer"]

    def send(self, name: str, **arguments: Any) -> None:
        """A command whose answer is not awaited: it kills the worker."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, arguments]) + "\n")
        self.process.stdin.flush()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda **arguments: self.call(name, **arguments)

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def wait(self) -> None:
        """Until it is gone."""
        self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """`make_worker({"log.segment.bytes": "…"})` starts a small worker in a folder; it is killed at the end."""
    made: list[WorkerProcess] = []

    def make(settings: dict[str, str] | None = None, folder: Path = tmp_path) -> WorkerProcess:
        made.append(WorkerProcess(folder, settings or {}))
        return made[-1]

    yield make
    for worker in made:
        if worker.process.returncode is None:
            worker.kill()


@pytest.fixture
def worker(make_worker: Callable[..., WorkerProcess]) -> WorkerProcess:
    """A small worker with an empty topic `t` of one partition."""
    made = make_worker({"log.segment.bytes": str(1 << 20)})
    made.create(topic="t")
    return made
