"""Consuming through shared memory, beside a bare loop over the same file in the same minute."""

from __future__ import annotations

import mmap
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct

from aiokafka.record.default_records import DefaultRecordBatch

from kbroker import Consumer, ConsumerRecord
from kbroker.testing import Broker
from perf.batches import batch_of
from perf.cost import Measured
from perf.figure import Figure
from perf.raw_link import RawLink
from perf.topics import topic

REPEATS = 5
BATCH_BYTES = 65_536
SIZES = {"1 KiB": (1024, 150_000_000), "100 B": (100, 100_000_000)}
_length = Struct(">i").unpack_from


def consume(broker: Broker) -> list[Figure]:
    """Ratios; the bare loop and ours take turns."""
    found = []
    for size, (record_bytes, total_bytes) in SIZES.items():
        batch, count = batch_of(record_bytes, BATCH_BYTES)
        batches = total_bytes // len(batch)
        with topic(broker) as name, RawLink(broker, direct=True) as link:
            link.produce(name, batch, batches, 1)
            path = next((broker.data_dir / f"{name}-0").glob("*.log"))
            found += _compare(broker, size, name, path, batches * count, batches * len(batch))
    return found


def _compare(broker: Broker, size: str, name: str, path: Path, count: int, size_bytes: int) -> list[Figure]:
    bare_raw, bare_built, whole, by_raw, by_record = [], [], [], [], []
    with Measured(broker) as measured:
        for _ in range(REPEATS):
            bare_raw.append(_timed(lambda: _bare(path, count)))
            by_raw.append(_timed(lambda: _by_batch(broker, name, count)))
            whole.append(_timed(lambda: _whole_batches(broker, name, count)))
            bare_built.append(_timed(lambda: _bare_built(path, name, count)))
            by_record.append(_timed(lambda: _by_record(broker, name, count)))
    cpu_ms = measured.broker_cpu_s * 1e3 / (3 * REPEATS * size_bytes / 1e6)
    return [
        Figure(
            f"shared memory, {size}: poll_batches and the codec's records, of a bare loop",
            ratio(bare_raw, by_raw),
            "",
            0.6,
            True,
            {"M records/s": count / min(by_raw) / 1e6, "bare M/s": count / min(bare_raw) / 1e6},
        ),
        Figure(
            f"shared memory, {size}: for record in consumer, of a bare loop",
            ratio(bare_built, by_record),
            "",
            0.8,
            True,
            {"M records/s": count / min(by_record) / 1e6, "bare M/s": count / min(bare_built) / 1e6},
        ),
        Figure(
            f"shared memory, {size}: whole batches, not decoded",
            size_bytes / statistics.median(whole) / 1e6,
            "MB/s",
            beside={"broker CPU ms/MB": cpu_ms},
        ),
    ]


def ratio(bare: list[float], ours: list[float]) -> float:
    """How much of the bare loop's speed is left: the median over neighbouring pairs."""
    return statistics.median(b / o for b, o in zip(bare, ours, strict=True))


def _timed(run: Callable[[], Iterator[float]]) -> float:
    """Seconds between the two times that `run` gives: set-up and the end are left out."""
    start, end = run()
    return end - start


def _views(memory: memoryview) -> Iterator[memoryview]:
    position = 0
    while position < len(memory):
        end = position + 12 + _length(memory, position + 8)[0]
        yield memory[position:end]
        position = end


def _bare(path: Path, count: int) -> Iterator[float]:
    """The codec over a mapping, nothing else."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        yield time.perf_counter()
        seen = 0
        with memoryview(mapped) as memory:
            for view in _views(memory):
                for _ in DefaultRecordBatch(view):
                    seen += 1
                view.release()
        yield time.perf_counter()
    assert seen == count


def _bare_built(path: Path, name: str, count: int) -> Iterator[float]:
    """The same, and a ConsumerRecord for each record."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        yield time.perf_counter()
        seen = 0
        with memoryview(mapped) as memory:
            for view in _views(memory):
                for r in DefaultRecordBatch(view):
                    ConsumerRecord(name, 0, 0, r.offset, r.timestamp, r.timestamp_type, r.key, r.value, r.headers)
                    seen += 1
                view.release()
        yield time.perf_counter()
    assert seen == count


def _consumer(broker: Broker, name: str) -> Consumer:
    consumer = Consumer(name, server=broker.server, auto_offset_reset="earliest", transport="shm")
    consumer.highwater(next(iter(consumer.assignment())))
    return consumer


def _by_batch(broker: Broker, name: str, count: int) -> Iterator[float]:
    with _consumer(broker, name) as consumer:
        yield time.perf_counter()
        seen = 0
        while seen < count:
            for batch in consumer.poll_batches(1000):
                for _ in batch.raw():
                    seen += 1
        yield time.perf_counter()
    assert seen == count


def _whole_batches(broker: Broker, name: str, count: int) -> Iterator[float]:
    with _consumer(broker, name) as consumer:
        yield time.perf_counter()
        seen = 0
        while seen < count:
            for batch in consumer.poll_batches(1000):
                seen += batch.record_count
        yield time.perf_counter()
    assert seen == count


def _by_record(broker: Broker, name: str, count: int) -> Iterator[float]:
    with _consumer(broker, name) as consumer:
        yield time.perf_counter()
        for seen, _ in enumerate(consumer, 1):
            if seen == count:
                break
        yield time.perf_counter()
