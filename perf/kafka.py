"""Kafka clients at work: what the broker spends on them, in all its processes, and how long a record takes."""

from __future__ import annotations

import resource
import time

import psutil

from kbroker.testing import Broker
from perf import kafka_clients
from perf.cost import Measured
from perf.driven import Driven
from perf.figure import Figure
from perf.topics import topic

REPEATS = 3
RATE = 1000
WARM_UP = RATE
IDLE_CONNECTIONS = 10_000
PARKED_MS = 60_000
SETTLE_S = 1.0
TOTAL_BYTES = {1024: 150_000_000, 100: 40_000_000}
SIZES = {1024: "1 KiB", 100: "100 B"}
GOAL_PRODUCE = {(1024, 65_536, "1"): 0.9, (1024, 1_000_000, "1"): 0.55}
GOAL_CONSUME = {1024: 0.25, 100: 0.35}
PIPELINED_REQUESTS = 64_000


def throughput(broker: Broker) -> list[Figure]:
    """Produce and consume, one partition, one client."""
    found = []
    for record_bytes, batch_bytes, acks in (
        (1024, 65_536, "1"),
        (1024, 65_536, "all"),
        (1024, 1_000_000, "1"),
        (1024, 1_000_000, "all"),
        (100, 65_536, "1"),
    ):
        with topic(broker) as name:
            found.append(_produce(broker, name, record_bytes, batch_bytes, acks))
            if batch_bytes == 65_536 and acks == "1":
                found.append(_consume(broker, name, record_bytes))
    return [*found, pipelined(broker)]


def _produce(broker: Broker, name: str, record_bytes: int, batch_bytes: int, acks: str) -> Figure:
    count = TOTAL_BYTES[record_bytes] // record_bytes
    goal = GOAL_PRODUCE.get((record_bytes, batch_bytes, acks))
    with Driven(kafka_clients.produce, broker.bootstrap_servers, name, acks, batch_bytes, record_bytes) as client:
        client.hear()
        client.go(count // 10)  # warm up
        client.hear()
        runs = [_run(broker, client, count) for _ in range(REPEATS)]
    what = f"confluent-kafka sends {SIZES[record_bytes]}, batches of {batch_bytes // 1000} kB, acks={acks}: broker CPU"
    return _per_megabyte(what, runs, TOTAL_BYTES[record_bytes], goal)


def _consume(broker: Broker, name: str, record_bytes: int) -> Figure:
    """What `_produce` has left there."""
    count = TOTAL_BYTES[record_bytes] // record_bytes // 10 + REPEATS * (TOTAL_BYTES[record_bytes] // record_bytes)
    with Driven(kafka_clients.consume, broker.bootstrap_servers, name, count) as client:
        client.hear()
        runs = [_run(broker, client) for _ in range(REPEATS)]
    what = f"confluent-kafka reads {SIZES[record_bytes]}: broker CPU"
    return _per_megabyte(what, runs, count * record_bytes, GOAL_CONSUME[record_bytes])


def _run(broker: Broker, client: Driven, order: object = None) -> Measured:
    with Measured(broker) as measured:
        client.go(order)
        client.hear()
    return measured


def _per_megabyte(what: str, runs: list[Measured], size_bytes: int, goal: float | None) -> Figure:
    best = min(runs, key=lambda run: run.broker_cpu_s)
    beside = {
        "MB/s": size_bytes / 1e6 / min(run.wall_s for run in runs),
        "broker cores": best.broker_cpu_s / best.wall_s,
        "worst run": max(run.broker_cpu_s for run in runs) * 1e9 / size_bytes,
    }
    return Figure(what, best.broker_cpu_s * 1e9 / size_bytes, "ms/MB", goal, beside=beside)


def pipelined(broker: Broker) -> Figure:
    """One record a request, by a bare socket."""
    with topic(broker) as name, Driven(kafka_clients.pipeline, leader_of(broker), name, 1024) as client:
        client.hear()
        runs = [_run(broker, client, PIPELINED_REQUESTS) for _ in range(REPEATS)]
    best = min(runs, key=lambda run: run.broker_cpu_s)
    beside = {"requests/s": PIPELINED_REQUESTS / min(run.wall_s for run in runs)}
    what = "one record of 1 KiB a request, pipelined, acks=1: broker CPU a request"
    return Figure(what, best.broker_cpu_s / PIPELINED_REQUESTS * 1e6, "µs", 12.0, beside=beside)


def leader_of(broker: Broker) -> str:
    """Where a broker of one worker serves Kafka clients' partitions."""
    return str(broker.status()["listeners"]["kafka-1"])


def latency(broker: Broker, seconds: float) -> list[Figure]:
    """From `produce` in one process to `poll` in another."""
    count = WARM_UP + int(seconds * RATE)
    servers = broker.bootstrap_servers
    with (
        topic(broker) as name,
        Driven(kafka_clients.receive_times, servers, name, count) as receiver,
        Driven(kafka_clients.send_steadily, servers, name, count, RATE) as sender,
    ):
        receiver.hear()
        sender.hear()
        with Measured(broker) as measured:
            sender.go()
            sender.hear()
        samples = sorted(receiver.hear()[WARM_UP:])
    p50, p99 = (samples[int(len(samples) * share)] for share in (0.5, 0.99))
    beside = {"samples": float(len(samples)), "broker CPU µs/record": measured.broker_cpu_s / count * 1e6}
    what = f"confluent-kafka, end to end at {RATE}/s, acks=1"
    return [Figure(f"{what}: p50", p50, "µs", 250.0, beside=beside), Figure(f"{what}: p99", p99, "µs", 1000.0)]


def idle(broker: Broker, seconds: float) -> list[Figure]:
    """Connections that ask nothing, half of them with a fetch that waits for records which do not come."""
    count = min(IDLE_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2)
    worker = psutil.Process(broker.pid("worker-0"))
    with topic(broker) as name:
        before_bytes = worker.memory_info().rss
        with Driven(kafka_clients.wait_idly, leader_of(broker), name, count, count // 2, PARKED_MS) as client:
            client.hear()
            time.sleep(SETTLE_S)  # the last fetches may still be on their way
            each_bytes = (worker.memory_info().rss - before_bytes) / count
            with Measured(broker) as measured:
                time.sleep(seconds)  # what is measured: nothing happens
    what = f"{count} idle connections, a fetch parked on {count // 2} for {seconds:g} of {PARKED_MS // 1000} s"
    return [
        Figure(f"{what}: CPU", measured.broker_cpu_s / measured.wall_s * 100, "%", 1.0),
        Figure(f"{what}: memory each", each_bytes / 1e3, "KB", 20.0),
    ]
