"""From `send` in one process to `poll` in another, through shared memory, at a steady rate."""

from __future__ import annotations

import multiprocessing
import time

from kbroker import Consumer, Producer
from kbroker.testing import Broker
from perf.cost import Measured
from perf.figure import Figure
from perf.topics import topic

RATE = 1000
WARM_UP = 2 * RATE
GOALS_US = {True: (200.0, 1000.0), False: (350.0, None)}


def latency(broker: Broker, seconds: float) -> list[Figure]:
    """By the worker's own endpoint, and through the front; `seconds` of samples each, after a warm-up."""
    return [figure for direct in (True, False) for figure in _latency(broker, seconds, direct)]


def _latency(broker: Broker, seconds: float, direct: bool) -> list[Figure]:
    count = WARM_UP + int(seconds * RATE)
    with (
        topic(broker) as name,
        Consumer(name, server=broker.server, auto_offset_reset="earliest", transport="shm") as consumer,
    ):
        process = multiprocessing.get_context("spawn").Process(target=_send, args=(broker.server, name, count, direct))
        process.start()
        found: list[float] = []
        with Measured(broker) as measured:
            while len(found) < count:
                for records in consumer.poll(timeout_ms=10_000).values():
                    now = time.monotonic_ns()
                    found += [(now - int.from_bytes(record.value[:8], "big")) / 1e3 for record in records]
        process.join()
    samples = sorted(found[WARM_UP:])
    way = "direct" if direct else "through the front"
    p50, p99 = (samples[int(len(samples) * share)] for share in (0.5, 0.99))
    beside = {
        "samples": float(len(samples)),
        "p99.9 µs": samples[int(len(samples) * 0.999)],
        "broker CPU µs/record": measured.broker_cpu_s / count * 1e6,
    }
    return [
        Figure(f"end to end at {RATE}/s, acks=1, {way}: p50", p50, "µs", GOALS_US[direct][0], beside=beside),
        Figure(f"end to end at {RATE}/s, acks=1, {way}: p99", p99, "µs", GOALS_US[direct][1]),
    ]


def _send(server: str, name: str, count: int, direct: bool) -> None:
    """In a process of its own. The value begins with the time of the call."""
    rest = bytes(92)
    with Producer(server, acks=1, linger_ms=0, direct=direct) as producer:
        due = time.monotonic()
        for _ in range(count):
            due += 1 / RATE
            pause = due - time.monotonic()
            if pause > 0:
                time.sleep(pause)  # the rate
            producer.send(name, time.monotonic_ns().to_bytes(8, "big") + rest)
