"""Shared-memory reads: MB/s out of a segment, microseconds from append to a woken reader, cost for the worker.

    python -m perf.shm_read [--megabytes 512] [--wakes 3000]

Prints JSON. Compare ratios within one run: `bare_copy` is what copying the same bytes out of a plain mapping takes.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import select
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from kbroker.config import LogConfig, ShmConfig
from kbroker.log.log import PartitionLog
from kbroker.records.batch import HEADER, HEADER_BYTES, LENGTH_END, write_crc
from kbroker.shm.control_page import ControlPage
from kbroker.shm.reader import ShmConnection
from kbroker.shm.server import DescriptorServer
from kbroker.types import TopicPartition
from kbroker.workers.acceptor import Acceptor
from kbroker.workers.loop import READ, Loop

BATCH_BYTES = 64 << 10
BODY = HEADER_BYTES


def batch(body: bytes) -> bytearray:
    """One record's worth of header, and `body`."""
    size_bytes = HEADER_BYTES - LENGTH_END + len(body)
    data = bytearray(HEADER.pack(0, size_bytes, -1, 2, 0, 0, 0, 0, 0, -1, -1, -1, 1) + body)
    write_crc(data, 0, len(data))
    return data


class Partition:
    """A log with its page, written by this process."""

    topic, partition, topic_id = "perf", 0, b"0" * 16

    def __init__(self, folder: Path) -> None:
        place = folder / "perf-0"
        place.mkdir()
        self.log = PartitionLog.open(place, TopicPartition("perf", 0), self.topic_id, LogConfig(), 0, 0)
        self.control_page = ControlPage.create(self.log.leader_epoch, 1)
        self.publish()

    def publish(self) -> None:
        at = self.log.high_watermark_position
        self.control_page.publish(
            self.log.log_start_offset, at.offset, at.position, at.segment_base, at.offset, at.position, at.segment_base
        )


def worker(folder: Path, listener: socket.socket, megabytes: int, commands: socket.socket) -> dict[str, float]:
    """Fill the log; then append one stamped batch for each byte that comes. At its end, what things cost here."""
    loop = Loop()
    partition = Partition(folder)
    server = DescriptorServer(loop, lambda *_: partition, ShmConfig())
    Acceptor(loop, (listener,), server.admit, "readers").start()
    filler = bytes(BATCH_BYTES - HEADER_BYTES)
    for _ in range((megabytes << 20) // BATCH_BYTES):
        partition.log.append(batch(filler), 0, sync=False)
    partition.publish()
    commands.send(b"!")
    spent_ns: list[int] = []

    def on_command(_events: int) -> None:
        if not commands.recv(1):
            loop.stop()
            return
        body = time.monotonic_ns().to_bytes(8, "big") + bytes(1024)
        partition.log.append(batch(body), 0, sync=False)
        start_ns = time.thread_time_ns()
        partition.publish()
        server.published(("perf", 0), partition.control_page)
        spent_ns.append(time.thread_time_ns() - start_ns)

    loop.add(commands.fileno(), READ, on_command)
    loop.run()
    return {
        "publish_and_wake_one_cpu_ns": statistics.median(spent_ns),
        "publish_ns": each_ns(partition.publish),
        "published_nobody_armed_ns": each_ns(lambda: server.published(("perf", 0), partition.control_page)),
    }


def each_ns(call: Any, times: int = 100_000) -> float:
    """Nanoseconds of one call, the loop around it taken off; the best of five."""

    def run(function: Any) -> int:
        start_ns = time.perf_counter_ns()
        for _ in range(times):
            function()
        return time.perf_counter_ns() - start_ns

    return round(min(run(call) for _ in range(5)) / times, 1)


def read_mb_s(path: str, max_bytes: int, end: int, *, mapped: bool) -> float:
    """From the start to offset `end`, in reads of at most `max_bytes`."""
    with ShmConnection(path, mapped=mapped) as connection:
        partition = connection.open("perf", 0, 0)
        total = 0
        start = time.perf_counter()
        while partition.offset < end:
            total += len(partition.read(max_bytes))
        return round(total / 1e6 / (time.perf_counter() - start), 1)


def bare_copy_mb_s(path: Path, size_bytes: int) -> float:
    """Slices of 1 MiB out of Python's own mmap of the file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), size_bytes, prot=mmap.PROT_READ) as mapping:
        start = time.perf_counter()
        for position in range(0, size_bytes, 1 << 20):
            mapping[position : position + (1 << 20)]
        return round(size_bytes / 1e6 / (time.perf_counter() - start), 1)


def wake_us(path: str, commands: socket.socket, wakes: int) -> dict[str, float]:
    """From just before the append to the batch's bytes in a reader that slept."""
    found = []
    with ShmConnection(path) as connection:
        partition = connection.open("perf", 0, 0)
        partition.seek(partition.facts().high_watermark)
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        for _ in range(wakes):
            assert connection.arm([partition])
            time.sleep(0.0003)  # so that the worker sleeps, too
            commands.send(b"+")
            while not (data := partition.read()):
                poll.poll()
                connection.dispatch()
            found.append(time.monotonic_ns() - int.from_bytes(data[BODY : BODY + 8], "big"))
            connection.dispatch()
    found.sort()
    return {"p50": found[len(found) // 2] / 1000, "p99": found[len(found) * 99 // 100] / 1000}


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--wakes", type=int, default=3000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = str(folder / "shm.sock")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        listener.listen()
        commands, others = socket.socketpair()
        report_read, report_write = os.pipe()
        pid = os.fork()
        if not pid:
            commands.close()
            costs = worker(folder, listener, arguments.megabytes, others)
            os.write(report_write, json.dumps(costs).encode())
            os._exit(0)
        others.close()
        os.close(report_write)
        commands.recv(1)
        (log,) = (folder / "perf-0").glob("*.log")
        size_bytes = log.stat().st_size
        end = size_bytes // BATCH_BYTES
        results: dict[str, Any] = {"batch_bytes": BATCH_BYTES, "read_mb_s": {}}
        for _ in range(2):  # the first round warms the page cache
            results["bare_copy_mb_s"] = bare_copy_mb_s(log, size_bytes)
            for label, max_bytes in (("1_batch_a_read", BATCH_BYTES), ("1_mib_a_read", 1 << 20)):
                for way in (True, False):
                    name = f"{'mapped' if way else 'pread'}_{label}"
                    results["read_mb_s"][name] = read_mb_s(path, max_bytes, end, mapped=way)
        results["append_to_reader_us"] = wake_us(path, commands, arguments.wakes)
        commands.close()
        with os.fdopen(report_read, "rb") as pipe:
            results["worker"] = json.load(pipe)
        os.waitpid(pid, 0)
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
