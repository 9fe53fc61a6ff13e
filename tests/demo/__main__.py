"""The demo from start to end. Exits 0 only when everything is as it must be."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from kbroker.cli.progress import progress
from kbroker.cli.table import print_table
from kbroker.errors import KbrokerError
from kbroker.testing.broker import BrokerFailed
from kbroker.types import worker_node
from tests.demo.broker import DemoBroker, DemoFailed
from tests.demo.readers import Readers
from tests.demo.text import Expected, Text, choose_files
from tests.demo.writer import Interrupt, Recovery, Writer

TOPIC = "lines"
PARTITIONS = 8
WORKERS = 2
KILLED_WORKER = 0
DEADLINE_S = 240
STOP_S = 30
READ_TO_END_S = 120


def verify(expected: dict[str, Expected], results: list[dict[str, Any]]) -> int:
    """Every key whole, in order, once, and byte for byte: its count and digest. How many records that were."""
    found: dict[str, list[Any]] = {}
    for result in results:
        twice = found.keys() & result["keys"].keys()
        if twice:
            raise DemoFailed(f"{len(twice)} keys came from two partitions, such as {min(twice)}")
        found.update(result["keys"])
    if found.keys() != expected.keys():
        raise DemoFailed(f"{len(expected)} keys went in, {len(found)} came out")
    for key, facts in expected.items():
        count, digest = found[key]
        if count != facts.lines:
            raise DemoFailed(f"{key}: {facts.lines} lines went in, {count} came out")
        if digest != facts.sha256:
            raise DemoFailed(f"{key}: the lines came out different, or in another order")
    return sum(facts.lines for facts in expected.values())


def partitions_of(broker: DemoBroker, worker: int) -> set[int]:
    """The partitions that a worker owns."""
    (topic,) = json.loads(broker.kbroker("topic", "describe", TOPIC, "--json"))
    return {p["partition"] for p in topic["partitions"] if p["leader"] == worker_node(worker)}


def run(most_bytes: int | None) -> None:
    """The demo; `most_bytes` makes it a small one. Raises DemoFailed when anything is off."""
    text = Text(choose_files() if most_bytes is None else choose_files(0, most_bytes))
    with DemoBroker(workers=WORKERS, tcp=True) as broker:
        print(f"demo: a broker serves at {broker.server}", flush=True)
        broker.kbroker("topic", "create", TOPIC, "--partitions", str(PARTITIONS))
        owned = partitions_of(broker, KILLED_WORKER)
        if not owned or len(owned) == PARTITIONS:
            raise DemoFailed(f"worker {KILLED_WORKER} owns {len(owned)} of {PARTITIONS} partitions")
        pid = broker.pid(f"worker-{KILLED_WORKER}")
        recovery = Recovery(pid, owned)
        with Readers(broker.server, TOPIC, PARTITIONS, broker.environment) as readers:
            Interrupt.is_put_off = True
            print(f"demo: {text.total_bytes >> 20} MiB of text go in; worker {KILLED_WORKER} dies half-way", flush=True)
            writer = Writer(broker.server, TOPIC, PARTITIONS, recovery)
            with writer, progress("writing", text.total_bytes) as advance:
                writer.run(text, text.total_bytes // 2, advance)
            Interrupt.is_put_off = False
            read_meanwhile = readers.records
            ends = ends_of(broker)
            for reader in readers.all:
                reader.tell_ends(ends)
            results = [reader.wait_for("done", READ_TO_END_S) for reader in readers.all]
        records = verify(text.expected, results)
        if sum(ends.values()) != records or writer.acknowledged != records:
            raise DemoFailed(
                f"{records} records went in, {writer.acknowledged} were acknowledged, {sum(ends.values())} are there"
            )
        if not read_meanwhile:
            raise DemoFailed("nothing was read while it was written")
        if broker.pid(f"worker-{KILLED_WORKER}") == pid:
            raise DemoFailed(f"worker {KILLED_WORKER} was not killed")
        transports = {result["transport"] for result in results}
        if transports != {"shm"}:
            raise DemoFailed(f"records were read through {', '.join(sorted(transports))}, not through shared memory")
        broker.drain()
        broker.kbroker("log", "verify", str(broker.data_dir))
        report(text, writer, recovery, results, read_meanwhile)


def ends_of(broker: DemoBroker) -> dict[str, int]:
    """The end of each partition, by its number."""
    (topic,) = json.loads(broker.kbroker("topic", "describe", TOPIC, "--json"))
    return {str(p["partition"]): p["high_watermark"] for p in topic["partitions"]}


def _rate(size_mb: float, records: int, seconds: float) -> str:
    return f"{size_mb / seconds:,.1f} MB/s, {records / seconds:,.0f} records/s"


def report(text: Text, writer: Writer, recovery: Recovery, results: list[dict[str, Any]], read_meanwhile: int) -> None:
    """The small table at the end."""
    size_mb = sum(result["size_bytes"] for result in results) / 1e6
    read_seconds = max(result["seconds"] for result in results)
    by_transport: dict[str, int] = {}
    for result in results:
        for transport, count in result["by_transport"].items():
            by_transport[transport] = by_transport.get(transport, 0) + count
    rows = [
        ("records, each in once and out once", f"{writer.acknowledged:,}"),
        ("keys, each in order with the right sha256", f"{len(text.expected):,}"),
        ("keys and values, MB", f"{size_mb:,.0f}"),
        ("in, acks=all, while they were read", _rate(size_mb, writer.acknowledged, writer.seconds)),
        ("out, two processes, while they were written", _rate(size_mb, writer.acknowledged, read_seconds)),
        ("read while it was written", f"{100 * read_meanwhile / writer.acknowledged:.0f} %"),
        ("transport", ", ".join(f"{name} ({count:,})" for name, count in sorted(by_transport.items()))),
        ("records on their way when worker 0 was killed", f"{recovery.in_flight:,}"),
        ("recovery: kill -9 to first new acknowledgement", f"{1000 * recovery.seconds:,.0f} ms"),
    ]
    print_table(("what", "result"), rows, right=("result",))


@contextmanager
def deadline() -> Iterator[None]:
    """SIGTERM and too long a run end the demo in order, as Ctrl-C does."""

    def stop(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGALRM:
            raise DemoFailed(f"not done after {DEADLINE_S} s, or {STOP_S} s after it was interrupted")
        signal.alarm(STOP_S)  # nothing below may wait for ever
        if not Interrupt.is_put_off:
            raise KeyboardInterrupt
        Interrupt.came = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, stop)
    signal.alarm(DEADLINE_S)
    try:
        yield
    finally:
        signal.alarm(0)


def main() -> NoReturn:
    """Entry point of `make demo`. An argument bounds the bytes of text: its test runs a small one."""
    started_s = time.monotonic()
    try:
        with deadline():
            run(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    except (DemoFailed, BrokerFailed, KbrokerError, OSError) as error:
        print(f"demo: FAILED: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("demo: interrupted; nothing is left running", file=sys.stderr)
        sys.exit(130)
    print(f"demo: all well, {time.monotonic() - started_s:.0f} s")
    sys.exit(0)


if __name__ == "__main__":
    main()
