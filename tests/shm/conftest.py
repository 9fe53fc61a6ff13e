from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.shm.small_worker import SmallWorker


class WorkerProcess:
    """A small worker in a process of its own; its commands are called as methods: `worker.append(topic="t", …)`."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.settings = settings
        self.path = str(folder / "shm.sock")
        self.start()

    def start(self) -> None:
        commands_read, commands_write = os.pipe()
        answers_read, answers_write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _be_worker(self.folder, self.settings, commands_read, answers_write)
        os.close(commands_read)
        os.close(answers_write)
        self._commands = os.fdopen(commands_write, "w")
        self._answers = os.fdopen(answers_read)
        self.running = True
        self.call("pid")

    def call(self, name: str, **arguments: Any) -> Any:
        self.send(name, **arguments)
        line = self._answers.readline()
        assert line, f"the worker died in {name}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["answer"]

    def send(self, name: str, **arguments: Any) -> None:
        """A command whose answer is not awaited: it kills the worker."""
        self._commands.write(json.dumps([name, arguments]) + "\n")
        self._commands.flush()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Until it is gone."""
        os.waitpid(self.pid, 0)
        self.running = False
        self._commands.close()
        self._answers.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda **arguments: self.call(name, **arguments)


def _be_worker(folder: Path, settings: dict[str, str], commands_fd: int, answers_fd: int) -> NoReturn:
    """What a forked child does. It shares nothing with its parent but standard output and error."""
    try:
        gc.freeze()  # the parent's sockets are not ours to close, nor its captured output to write
        logging.getLogger().handlers.clear()
        sys.stderr = os.fdopen(2, "w", closefd=False)
        keep = {0, 1, 2, commands_fd, answers_fd}
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd not in keep:
                with contextlib.suppress(OSError):
                    os.close(fd)
        SmallWorker(folder, settings).run(commands_fd, answers_fd)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """`make_worker({"log.segment.bytes": "…"})` starts a small worker in a folder; it is killed at the end."""
    made: list[WorkerProcess] = []

    def make(settings: dict[str, str] | None = None, folder: Path = tmp_path) -> WorkerProcess:
        made.append(WorkerProcess(folder, settings or {}))
        return made[-1]

    yield make
    for worker in made:
        if worker.running:
            worker.kill()


@pytest.fixture
def worker(make_worker: Callable[..., WorkerProcess]) -> WorkerProcess:
    """A small worker with an empty topic `t` of one partition."""
    made = make_worker({"log.segment.bytes": str(1 << 20)})
    made.create(topic="t")
    return made
