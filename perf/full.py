"""kill -9 of everything with 20 GB in the log, and back. Minutes, and 20 GB of disk: `python -m perf --full` only."""

from __future__ import annotations

import time
from pathlib import Path

from kbroker import Producer
from kbroker.testing import Broker
from perf.batches import batch_of
from perf.figure import Figure
from perf.raw_link import RawLink

TOTAL_BYTES = 20_000_000_000
PARTITIONS = 4
BATCH_BYTES = 16_384


def full_restart() -> list[Figure]:
    """All of it written by way of the broker, in batches of 16 KiB; then everything dies at once."""
    batch, _ = batch_of(1000, BATCH_BYTES)
    assert len(batch) >= BATCH_BYTES - 1100
    times = []
    broker = Broker(workers=2)
    try:
        broker.start()
        for number in range(PARTITIONS):
            _fill(broker, f"big-{number}", batch, TOTAL_BYTES // PARTITIONS // len(batch))
        size_bytes = sum(path.stat().st_size for path in Path(broker.data_dir).glob("big-*/*.log"))
        for _ in range(3):
            with Producer(broker.server, acks=1) as producer:
                for number in range(PARTITIONS):
                    producer.send(f"big-{number}", b"last words").get(10)
            broker.kill_all()
            begin = time.perf_counter()
            broker.start()
            with Producer(broker.server) as producer:
                for number in range(PARTITIONS):
                    producer.send(f"big-{number}", b"again").get(10)
            times.append(time.perf_counter() - begin)
    finally:
        broker.close()
    beside = {"GB": size_bytes / 1e9} | {f"run {number}": seconds for number, seconds in enumerate(times, 1)}
    return [Figure("kill -9 of everything with 20 GB, to serving again", max(times), "s", 1.5, beside=beside)]


def _fill(broker: Broker, name: str, batch: bytes, count: int) -> None:
    with Producer(broker.server) as producer:
        producer.send(name, b"first").get(10)
    several = 60  # batches in a request
    with RawLink(broker, direct=False) as link:
        link.produce(name, batch * several, count // several, 1)
