"""Producing: `Producer.send`, one call a record, and ready-made batches by a bare socket."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable

from kbroker import Producer
from kbroker.testing import Broker
from perf.batches import batch_of
from perf.cost import Measured
from perf.figure import Figure
from perf.raw_link import RawLink
from perf.topics import topic

REPEATS = 3
RECORD_BYTES = {"1 KiB": 1024, "100 B": 100}
GOALS_MB_S = {("1 KiB", 1): 250.0, ("1 KiB", "all"): 200.0}
GOALS_CPU = {True: 1.5, False: 3.0}


def produce(broker: Broker) -> list[Figure]:
    """All of it, each the median of some runs."""
    found = []
    for size in RECORD_BYTES:
        for acks in (1, "all"):
            for direct in (True, False):
                found += _by_send(broker, size, acks, direct)
    for batch_bytes in (65_536, 1_000_000):
        for acks in (1, "all"):
            found += _by_link(broker, batch_bytes, acks, direct=True)
        found += _by_link(broker, batch_bytes, 1, direct=False)
    return found


def _by_send(broker: Broker, size: str, acks: int | str, direct: bool) -> list[Figure]:
    value = os.urandom(RECORD_BYTES[size])
    count = 150_000 if size == "1 KiB" else 400_000
    with topic(broker) as name, Producer(broker.server, acks=acks, direct=direct) as producer:

        def run() -> None:
            send = producer.send
            for _ in range(count):
                send(name, value)
            producer.flush()

        send_some(producer, name, value)
        before = producer.metrics()
        measured = _median(broker, run)
        after = producer.metrics()
        batches = after["batches_sent"] - before["batches_sent"]
        batch_bytes = (after["bytes_sent"] - before["bytes_sent"]) / batches
        assert producer.metrics()["records_failed"] == 0
    way = "direct" if direct else "front"
    what = f"send {size}, acks={acks}, {way}"
    megabytes = count * len(value) / 1e6
    beside = {
        "records/s": count / measured.wall_s,
        "client µs/record": measured.client_cpu_s / count * 1e6,
        "batch KiB": batch_bytes / 1024,
    }
    return _figures(what, megabytes, measured, GOALS_MB_S.get((size, acks)), size == "1 KiB", direct, beside)


def send_some(producer: Producer, name: str, value: bytes) -> None:
    """Have everything connected and warm."""
    producer.send(name, value).get(10)
    for _ in range(5_000):
        producer.send(name, value)
    producer.flush()


def _by_link(broker: Broker, batch_bytes: int, acks: int | str, *, direct: bool) -> list[Figure]:
    batch, _ = batch_of(1024, batch_bytes)
    count = 150_000_000 // len(batch)
    number = -1 if acks == "all" else int(acks)
    with topic(broker) as name, RawLink(broker, direct=direct) as link:
        link.produce(name, batch, 50, number)
        measured = _median(broker, lambda: link.produce(name, batch, count, number))
    what = f"ready-made batches of {batch_bytes // 1000} kB, acks={acks}, {'direct' if direct else 'front'}"
    return _figures(what, count * len(batch) / 1e6, measured, None, False, direct, {})


def _median(broker: Broker, run: Callable[[], None]) -> Measured:
    runs = []
    for _ in range(REPEATS):
        with Measured(broker) as measured:
            run()
        runs.append(measured)
    middle = Measured(broker)
    middle.wall_s = statistics.median(one.wall_s for one in runs)
    middle.broker_cpu_s = statistics.mean(one.broker_cpu_s for one in runs)
    middle.client_cpu_s = statistics.mean(one.client_cpu_s for one in runs)
    return middle


def _figures(
    what: str,
    megabytes: float,
    measured: Measured,
    goal_mb_s: float | None,
    has_cpu_goal: bool,
    direct: bool,
    beside: dict[str, float],
) -> list[Figure]:
    cores = {
        "client cores": measured.client_cpu_s / measured.wall_s,
        "broker cores": measured.broker_cpu_s / measured.wall_s,
    }
    return [
        Figure(what, megabytes / measured.wall_s, "MB/s", goal_mb_s, True, beside | cores),
        Figure(
            what + ": broker CPU",
            measured.broker_cpu_s * 1e3 / megabytes,
            "ms/MB",
            GOALS_CPU[direct] if has_cpu_goal else None,
        ),
    ]
