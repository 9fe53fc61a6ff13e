"""The demo's producer: sends every line, kills a worker on the way, sees how long its partitions are silent."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from kbroker import Producer
from kbroker.records.partitioner import partition_for_key
from tests.demo.broker import DemoFailed
from tests.demo.text import Text

CLOSE_S = 1.0


class Recovery:
    """A worker's death, and the first acknowledgement of a record that was sent after it to one of its partitions."""

    def __init__(self, pid: int, partitions: set[int]) -> None:
        self.pid = pid
        self.partitions = partitions
        self.killed_s = 0.0
        self.recovered_s = 0.0
        self.in_flight = 0
        self.over = threading.Event()

    def kill(self, in_flight: int) -> None:
        """kill -9, now."""
        self.in_flight = in_flight
        os.kill(self.pid, signal.SIGKILL)
        self.killed_s = time.monotonic()

    def acknowledged(self, _metadata: object) -> None:
        """Called for acknowledgements of records that were sent after the kill."""
        if not self.over.is_set():
            self.recovered_s = time.monotonic()
            self.over.set()

    @property
    def seconds(self) -> float:
        """From the kill to the acknowledgement."""
        return self.recovered_s - self.killed_s


class Interrupt:
    """Ctrl-C, put off while the producer is used: an exception out of a signal's handler could leave a call half done.

    `is_put_off`: the handler only sets `came`, and the writer ends between two calls.
    """

    is_put_off = False
    came = False


class Writer:
    """Sends a Text's lines, acks=all. `run` returns when every record was acknowledged."""

    def __init__(self, server: str, topic: str, partition_count: int, recovery: Recovery) -> None:
        self._topic = topic
        self._partition_count = partition_count
        self._recovery = recovery
        self._pending: deque[Any] = deque()
        self._watched: set[int] = set()
        self.producer = Producer(server=server, acks="all")
        self.sent = 0
        self.acknowledged = 0
        self.seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whatever went wrong: what is on its way need not arrive.
        self.producer.close(timeout=None if error is None else CLOSE_S)

    def run(self, text: Text, kill_at_bytes: int, advance: Callable[[int, int], None]) -> None:
        """Send everything; the worker is killed once `kill_at_bytes` were sent. Raises KeyboardInterrupt when told to
        end, DemoFailed."""
        started_s = time.monotonic()
        sent_bytes = 0
        send, topic, pending = self.producer.send, self._topic, self._pending
        killed = False
        for key, lines in text:
            futures = [send(topic, value=line, key=key) for line in lines]
            pending.extend(futures)
            self.sent += len(lines)
            size_bytes = sum(map(len, lines)) + len(lines)
            sent_bytes += size_bytes
            if not killed and sent_bytes >= kill_at_bytes:
                killed = self._kill()
            elif killed and not self._recovery.over.is_set():
                self._watch(key, futures[0])
            self._settle()
            advance(len(lines), size_bytes)
            if Interrupt.came:
                raise KeyboardInterrupt
        self.producer.flush()
        self._settle()
        self.seconds = time.monotonic() - started_s
        if pending:
            raise DemoFailed(f"{len(pending)} of {self.sent} records were not acknowledged after flush()")
        if not self._recovery.over.wait(30):
            raise DemoFailed("no record sent after the kill was acknowledged on the killed worker's partitions")

    def _kill(self) -> bool:
        """Kill the worker while records of its partitions are on their way. False: none are at this moment."""
        self._settle()
        if not self._pending:
            return False
        self._recovery.kill(len(self._pending))
        return True

    def _watch(self, key: bytes, future: Any) -> None:
        """The first record after the kill on each partition of the killed worker tells when it is back."""
        partition = partition_for_key(key, self._partition_count)
        if partition in self._recovery.partitions and partition not in self._watched:
            self._watched.add(partition)
            future.add_callback(self._recovery.acknowledged)

    def _settle(self) -> None:
        pending = self._pending
        while pending and pending[0].is_done:
            future = pending.popleft()
            if future.failed():
                raise DemoFailed(f"a record was refused: {type(future.exception).__name__}: {future.exception}")
            self.acknowledged += 1
