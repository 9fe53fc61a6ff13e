"""Answers on their way out: parts in memory and parts in files, to clients that take little at a time."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.config import KafkaConfig
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.log.slices import LogSlice
from kbroker.log.storage import DISK
from kbroker.workers.kafka_connection import Asked, Part
from kbroker.workers.kafka_door import KafkaDoor
from kbroker.workers.loop import Loop

SMALL = 1_000
JOINED = 16 << 10
LARGE = 500_000
FILE_BYTES = 2 * LARGE
WAIT_S = 30.0

# Each answer as its parts: sizes in bytes, of a file where they are negative.
SHAPES: list[list[list[int]]] = [
    [[70]],
    [[70, -170, 3]],
    [[70, -LARGE, 3]],
    [[70, -LARGE]],
    [[-SMALL]],
    [[70, -JOINED, 3], [70, -(JOINED - 73), 3]],
    [[70, -SMALL, 20, -SMALL, 20, -LARGE, 20, -SMALL, 3]],
    [[70, LARGE, 3], [], [70]],
    [[40], [40], [70, -LARGE, 3], [40], [70, -SMALL, 3]],
    [[JOINED], [JOINED + 1], [1]],
]


class Answering:
    """A door that gives each request the next of the answers that were prepared."""

    def __init__(self, file: Path) -> None:
        self.loop = Loop()
        listener = socket.create_server(("127.0.0.1", 0))
        # So little that large answers are taken in many pieces.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
        listener.setblocking(False)
        self.listener = listener
        self.prepared: list[list[Part]] = []
        self.door = KafkaDoor(self.loop, [listener], self._serve, KafkaConfig())
        self.door.listen()
        self._file = DISK.open(file)
        self._data = file.read_bytes()
        self._position = 0

    def _serve(self, asked: Asked) -> None:
        asked.answer(self.prepared.pop(0))

    def prepare(self, shape: list[int]) -> bytes:
        """An answer with parts of these sizes. What is to arrive."""
        parts: list[Part] = []
        expected = b""
        for size_bytes in shape:
            if size_bytes < 0:
                stretch = slice(self._position, self._position - size_bytes)
                parts.append(LogSlice(DISK, self._file, FILE_BYTES, self._position, -size_bytes, 0, 1, False))
                expected += self._data[stretch]
                self._position += 1  # every part lies elsewhere
            else:
                data = os.urandom(size_bytes)
                parts.append(data)
                expected += data
        self.prepared.append(parts)
        return expected

    def ask(self, count: int) -> socket.socket:
        """A client that has asked so many times."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
        client.connect(self.listener.getsockname())
        client.setblocking(False)
        request = codec.request_types(ApiKey.API_VERSIONS).ApiVersionsRequest()
        client.sendall(b"".join(codec.write_request(ApiKey.API_VERSIONS, 0, 1, "test", request)) * count)
        return client

    def take(self, client: socket.socket, size_bytes: int) -> bytes:
        """The next bytes that it is sent: so many, or all until it is hung up on."""
        got = bytearray()
        deadline = time.monotonic() + WAIT_S
        while len(got) < size_bytes and time.monotonic() < deadline:
            self.loop.turn(0)
            with contextlib.suppress(BlockingIOError):
                data = client.recv(size_bytes - len(got))
                if not data:
                    break
                got += data
        return bytes(got)


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    file = tmp_path / "segment"
    file.write_bytes(os.urandom(FILE_BYTES))
    answering = Answering(file)
    yield answering
    answering.door.close()
    answering.listener.close()
    answering.loop.close()


@pytest.mark.parametrize("shapes", SHAPES)
def test_parts_arrive_in_order_and_whole(answering: Answering, shapes: list[list[int]]) -> None:
    expected = b"".join([answering.prepare(shape) for shape in shapes])
    with answering.ask(len(shapes)) as client:
        assert answering.take(client, len(expected)) == expected
        assert select.select([client], [], [], 0)[0] == [], "nothing more"
        assert [connection.answer_bytes for connection in answering.door.connections] == [0]
    assert answering.door.answer_bytes == 0


@pytest.mark.parametrize("size_bytes", [SMALL, LARGE])
def test_a_file_that_is_too_short_ends_one_connection(answering: Answering, tmp_path: Path, size_bytes: int) -> None:
    answering.prepare([70, -size_bytes, 3])
    os.truncate(tmp_path / "segment", size_bytes - 1)
    with answering.ask(1) as client:
        assert len(answering.take(client, size_bytes + 73)) < size_bytes + 70
    expected = answering.prepare([70, -(SMALL // 2), 3])
    with answering.ask(1) as client:
        assert answering.take(client, len(expected)) == expected
    assert answering.door.answer_bytes == 0
