"""How soon the broker serves: from nothing, and after the death of a worker that holds gigabytes."""

from __future__ import annotations

import itertools
import statistics
import threading
import time

from kbroker import Producer
from kbroker.testing import Broker
from perf.batches import batch_of
from perf.cost import broker_cpu_s, wait_until_idle
from perf.figure import Figure
from perf.raw_link import RawLink
from perf.topics import topic

HELD_BYTES = 2_000_000_000
STARTS = 5


def start() -> list[Figure]:
    """`kbroker serve` to the first acknowledged record (acks=all), with a new data folder and again with the old."""
    first, again = [], []
    for _ in range(STARTS):
        broker = Broker(workers=2)
        try:
            first.append(_start_s(broker))
            broker.stop()
            again.append(_start_s(broker))
        finally:
            broker.close()
    return [
        Figure("start to first acknowledged record, new folder", statistics.median(first), "s", 0.6),
        Figure("start to first acknowledged record, old folder", statistics.median(again), "s", 0.6),
    ]


def _start_s(broker: Broker) -> float:
    begin = time.perf_counter()
    broker.start()
    with Producer(broker.server) as producer:
        producer.send("first", b"record").get(10)
        return time.perf_counter() - begin


def worker_death(broker: Broker) -> list[Figure]:
    """kill -9 of a worker that holds 2 GB; a client sends on all the while, and sees the longest pause.

    Once when the disk has had its time to take it all, and once right after the write: recovery syncs first.
    """
    settled = _death(broker, settle_s=4)
    fresh = _death(broker, settle_s=0)
    what = "kill -9 of a worker that holds 2 GB: its client's pause"
    return [Figure(what, settled, "s", 1.0), Figure(what + ", not a second after they were written", fresh, "s")]


def _death(broker: Broker, settle_s: float) -> float:
    batch, _ = batch_of(16_000, 1_000_000)
    with topic(broker) as name, RawLink(broker, direct=True) as link:
        link.produce(name, batch, HELD_BYTES // len(batch), 1)
        time.sleep(settle_s)  # what is measured: how much the disk has when the worker dies
        with Producer(broker.server, acks=1, linger_ms=0) as producer:
            producer.send(name, b"before").get(10)
            acknowledged: list[float] = []
            over = threading.Event()

            def send() -> None:
                while not over.is_set():
                    producer.send(name, b"during").get(30)
                    acknowledged.append(time.perf_counter())

            thread = threading.Thread(target=send)
            thread.start()
            time.sleep(0.3)  # acknowledgements come before the death
            broker.kill("worker-0")
            time.sleep(3)  # and after it, longer than the goal
            over.set()
            thread.join()
    return max(later - earlier for earlier, later in itertools.pairwise(acknowledged))


def idle(seconds: float) -> list[Figure]:
    """A broker of two workers with one small topic, left alone."""
    with Broker(workers=2) as broker:
        with Producer(broker.server) as producer:
            producer.send("small", b"record").get(10)
        wait_until_idle(broker)
        before, begin = broker_cpu_s(broker), time.perf_counter()
        time.sleep(seconds)  # what is measured: nothing happens
        share = (broker_cpu_s(broker) - before) / (time.perf_counter() - begin)
        pss = {name: _pss_mb(process["pid"]) for name, process in broker.processes().items()}
    return [
        Figure("idle, 2 workers: PSS of all processes", sum(pss.values()), "MB", 120.0, beside=pss),
        Figure("idle, 2 workers: CPU", share * 100, "%", 0.5),
    ]


def _pss_mb(pid: int) -> float:
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        for line in rollup:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError("smaps_rollup has no Pss")
