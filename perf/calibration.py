"""What this machine gives right now without a broker: the measure for everything else."""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from perf.batches import batch_of
from perf.figure import Figure

ROUND_TRIPS = 3000
SYNCS = 100
TCP_BYTES = 200_000_000


def calibrate() -> list[Figure]:
    """A few seconds."""
    with tempfile.TemporaryDirectory(prefix="kbroker-perf-") as name:
        folder = Path(name)
        return [
            Figure("a turn of an empty Python loop", best(_turns, 3) / 1e6 * 1e9, "ns"),
            Figure("memcpy of 64 MiB", (64 << 20) / best(_copy(64 << 20), 5) / 1e6, "MB/s"),
            Figure("encode records, 1 KiB, codec alone", 64_000 / best(_encode(1024, 64_000), 3) / 1e6, "M/s"),
            Figure("encode records, 100 B, codec alone", 200_000 / best(_encode(100, 200_000), 3) / 1e6, "M/s"),
            Figure("append to the page cache, 64 KiB writes", _append(folder, 256 << 20), "MB/s"),
            Figure("fdatasync of 64 KiB, p50", _sync_ms(folder), "ms"),
            Figure("ZeroMQ ipc round trip, p50", _round_trip_us(folder), "µs"),
            Figure("tcp to the page cache by recv and write, 64 KiB: CPU", receive_ms_per_mb(folder, 65_536), "ms/MB"),
            Figure("tcp to the page cache by recv and write, 1 MB: CPU", receive_ms_per_mb(folder, 1_000_000), "ms/MB"),
            Figure("page cache to tcp by sendfile, 1 MB: CPU", sendfile_ms_per_mb(folder), "ms/MB"),
        ]


def best(work: Callable[[], None], times: int) -> float:
    """Seconds of the fastest of several runs."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def _turns() -> None:
    for _ in range(1_000_000):
        pass


def _copy(size_bytes: int) -> Callable[[], None]:
    source, target = bytearray(size_bytes), memoryview(bytearray(size_bytes))

    def copy() -> None:
        target[:] = source

    return copy


def _encode(record_bytes: int, count: int) -> Callable[[], None]:
    def encode() -> None:
        left = count
        while left > 0:
            left -= batch_of(record_bytes, 65_536)[1]

    return encode


def _append(folder: Path, size_bytes: int) -> float:
    data = os.urandom(65_536)
    found = []
    for _ in range(3):
        with open(folder / "append", "wb", buffering=0) as file:
            start = time.perf_counter()
            for _ in range(size_bytes // len(data)):
                file.write(data)
            found.append(size_bytes / (time.perf_counter() - start) / 1e6)
        os.unlink(folder / "append")
    return statistics.median(found)


def _sync_ms(folder: Path) -> float:
    data = os.urandom(65_536)
    found = []
    with open(folder / "sync", "wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(data)
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            found.append((time.perf_counter() - start) * 1e3)
    return statistics.median(found)


def receive_ms_per_mb(folder: Path, chunk_bytes: int) -> float:
    """What the kernel alone takes of a broker's CPU per MB produced: the least of some runs."""

    def receive(connection: socket.socket) -> None:
        buffer = memoryview(bytearray(chunk_bytes))
        with open(folder / "received", "wb", buffering=0) as file:
            filled = position = 0
            while count := connection.recv_into(buffer[filled:]):
                filled += count
                if filled == chunk_bytes:
                    position += os.pwrite(file.fileno(), buffer, position)
                    filled = 0
        os.unlink(folder / "received")

    return _tcp_ms_per_mb(_send_all, receive, chunk_bytes)


def sendfile_ms_per_mb(folder: Path) -> float:
    """What the kernel alone takes of a broker's CPU per MB fetched: the least of some runs."""
    chunk_bytes = 1_000_000
    (folder / "sent").write_bytes(os.urandom(64 * chunk_bytes))

    def send(connection: socket.socket) -> None:
        with open(folder / "sent", "rb") as file:
            for number in range(TCP_BYTES // chunk_bytes):
                position = number % 64 * chunk_bytes
                end = position + chunk_bytes
                while position < end:
                    position += os.sendfile(connection.fileno(), file.fileno(), position, end - position)

    found = _tcp_ms_per_mb(_receive_all, send, chunk_bytes)
    os.unlink(folder / "sent")
    return found


def _tcp_ms_per_mb(peer: Callable[[int, int], None], work: Callable[[socket.socket], None], chunk_bytes: int) -> float:
    found = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(3):
            port = server.getsockname()[1]
            process = multiprocessing.get_context("spawn").Process(target=peer, args=(port, chunk_bytes))
            process.start()
            connection = server.accept()[0]
            with connection:
                before = time.thread_time()
                work(connection)
                found.append((time.thread_time() - before) * 1e9 / TCP_BYTES)
            process.join()
    return min(found)


def _send_all(port: int, chunk_bytes: int) -> None:
    chunk = os.urandom(chunk_bytes)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(TCP_BYTES // chunk_bytes):
            connection.sendall(chunk)


def _receive_all(port: int, chunk_bytes: int) -> None:
    buffer = bytearray(chunk_bytes)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while connection.recv_into(buffer):
            pass


def _echo(endpoint: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(endpoint)
        for _ in range(ROUND_TRIPS):
            socket.send_multipart(socket.recv_multipart())


def _round_trip_us(folder: Path) -> float:
    endpoint = f"ipc://{folder}/echo"
    process = multiprocessing.get_context("spawn").Process(target=_echo, args=(endpoint,))
    process.start()
    found = []
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(endpoint)
        for _ in range(ROUND_TRIPS):
            start = time.perf_counter()
            socket.send_multipart([b"", b"x" * 100])
            socket.recv_multipart()
            found.append((time.perf_counter() - start) * 1e6)
    process.join()
    return statistics.median(found[ROUND_TRIPS // 3 :])
