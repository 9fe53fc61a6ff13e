"""The demo's two consumer processes, seen from the parent."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any, Self

from tests.demo.broker import DemoFailed

ROOT = Path(__file__).parent.parent.parent


class ReaderProcess:
    """One of them. A thread takes what it says; `records` is how many it has read so far."""

    def __init__(self, server: str, topic: str, partitions: list[int], environment: dict[str, str]) -> None:
        numbers = ",".join(map(str, partitions))
        self.name = f"the reader of partitions {numbers}"
        self.records = 0
        self._said: Queue[dict[str, Any]] = Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.demo.reader", server, topic, numbers],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            facts = json.loads(line)
            self.records = facts.get("records", self.records)
            if facts.keys() & {"ready", "done", "error"}:
                self._said.put(facts)
        self._said.put({"error": "it ended early"})

    def wait_for(self, what: str, timeout_s: float) -> dict[str, Any]:
        """What it says when it is `ready` or `done`."""
        try:
            facts = self._said.get(timeout=timeout_s)
        except Empty:
            raise DemoFailed(f"{self.name} was not {what} within {timeout_s:.0f} s ({self.records} read)") from None
        if "error" in facts or what not in facts:
            raise DemoFailed(f"{self.name}: {facts.get('error', facts)}")
        return facts

    def tell_ends(self, ends: dict[str, int]) -> None:
        """Where each partition ends."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; wait_for says why
            self._process.stdin.write(json.dumps(ends) + "\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """End it, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._thread.join(5)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class Readers:
    """A context with the two processes, each with half of the partitions."""

    def __init__(self, server: str, topic: str, partition_count: int, environment: dict[str, str]) -> None:
        self._make = [(server, topic, list(range(first, partition_count, 2)), environment) for first in range(2)]
        self.all: list[ReaderProcess] = []

    def __enter__(self) -> Self:
        try:
            for arguments in self._make:
                self.all.append(ReaderProcess(*arguments))
            for reader in self.all:
                reader.wait_for("ready", 20)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End both."""
        for reader in self.all:
            reader.stop()

    @property
    def records(self) -> int:
        """Records read so far, by both."""
        return sum(reader.records for reader in self.all)
