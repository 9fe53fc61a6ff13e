"""A well-behaved client beside one who asks for much: what it has to wait, against what it waits in quiet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kbroker.testing import Broker

from .kafka_client import KafkaClient

ROUNDS = 3
ROUND_REQUESTS = 150
FLOOR_MS = 25.0
"""On a machine that is busy otherwise a request may wait so long for a processor."""
FACTOR = 3
ATTEMPTS = 3
"""What makes it wait does so each time; what else the machine has to do does not."""


class Neighbour:
    """Produces small records to a topic of its own, one at a time, some hundreds in a second."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._broker = broker
        self._topic = topic
        self.client = KafkaClient(broker, 1)
        self.client.create(topic)
        self.p99_ms()  # warm

    def p99_ms(self) -> float:
        """The 99th percentile of what a request waits; the best of some rounds, since others use the machine too."""
        return min(self._round() for _ in range(ROUNDS))

    def _round(self) -> float:
        waits = []
        for _ in range(ROUND_REQUESTS):
            began = time.perf_counter()
            answer = self.client.produce(self._topic, 0, b"x", acks=1)
            waits.append(time.perf_counter() - began)
            assert answer.error_code == 0
            time.sleep(0.001)  # its own pace, not a wait for anything
        return sorted(waits)[int(ROUND_REQUESTS * 0.99) - 1] * 1000

    def is_well_beside(self, ask: Callable[[], None]) -> None:
        """Fails when it waits longer while `ask`, a request and its answer, is done again and again."""
        before = pids(self._broker)
        said = []
        for _ in range(ATTEMPTS):
            quiet_ms = self.p99_ms()
            beside_ms = self._beside_ms(ask)
            assert pids(self._broker) == before, "a process was replaced"
            if beside_ms <= max(FLOOR_MS, FACTOR * quiet_ms):
                return
            said.append(f"{beside_ms:.1f} ms beside it, {quiet_ms:.1f} ms in quiet")
        raise AssertionError(f"p99 {'; '.join(said)}")

    def _beside_ms(self, ask: Callable[[], None]) -> float:
        stop, asked = threading.Event(), threading.Event()
        failures: list[BaseException] = []

        def go_on() -> None:
            try:
                while not stop.is_set():
                    ask()
                    asked.set()
            except BaseException as error:
                failures.append(error)
                asked.set()

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            beside_ms = self.p99_ms()
            assert asked.wait(60), "nothing was answered"
        finally:
            stop.set()
            thread.join(60)
        if failures:
            raise failures[0]
        return beside_ms


def pids(broker: Broker) -> dict[str, int]:
    return {name: int(process["pid"]) for name, process in broker.processes().items()}
