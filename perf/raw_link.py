"""Ready-made batches sent by a bare socket: what the broker itself can take, with next to no client."""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import zmq

from kbroker.testing import Broker
from kbroker.wire import codec, endpoints
from kbroker.wire import messages as m
from kbroker.wire.stream import ANSWER_LIMITS, MessageFramer, head

IN_FLIGHT = 5
TIMEOUT_MS = 60_000


class _Socket(Protocol):
    def send(self, frames: list[bytes]) -> None: ...

    def receive(self) -> list[bytes]: ...

    def close(self) -> None: ...


class _Dealer:
    """A DEALER socket to the front."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
        self._socket.connect(endpoint)

    def send(self, frames: list[bytes]) -> None:
        for frame in frames[:-1]:
            self._socket.send(frame, zmq.SNDMORE)
        self._socket.send(frames[-1], copy=False)

    def receive(self) -> list[bytes]:
        return self._socket.recv_multipart()

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class _Stream:
    """A unix stream to a worker's own door."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_MS / 1000)
        self._socket.connect(str(path))
        self._framer = MessageFramer(ANSWER_LIMITS)

    def send(self, frames: list[bytes]) -> None:
        rest = [memoryview(part) for part in (head(frames), *frames)]
        while rest:
            sent = self._socket.sendmsg(rest)
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][sent:]

    def receive(self) -> list[bytes]:
        while (frames := self._framer.next_message()) is None:
            data = self._socket.recv(65_536)
            if not data:
                raise ConnectionError("the worker has hung up")
            self._framer.receive(memoryview(data))
        return [bytes(frame) for frame in frames]

    def close(self) -> None:
        self._socket.close()


def _worker_0(runtime_dir: Path) -> _Stream:
    return _Stream(runtime_dir / endpoints.worker_door(0))


class RawLink:
    """To the front, or to worker 0's own endpoint."""

    def __init__(self, broker: Broker, *, direct: bool) -> None:
        self._socket: _Socket
        if direct:
            self._socket = _worker_0(Path(broker.runtime_dir))
        else:
            self._socket = _Dealer(broker.server)

    @classmethod
    def to_worker(cls, runtime_dir: str | Path) -> Self:
        """To worker 0's own endpoint, for a process that has no Broker."""
        link = cls.__new__(cls)
        link._socket = _worker_0(Path(runtime_dir))
        return link

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, request: Any, answer: type[Any]) -> Any:
        """One request, its answer."""
        self._socket.send([b"ask", codec.encode_request(request)])
        return codec.decode_answer(answer, self._socket.receive()[1])

    def send(self, header: bytes, batch: bytes) -> None:
        """One produce request, whose answer is received later."""
        self._socket.send([b"next", header, batch])

    def receive(self, answer: type[Any]) -> Any:
        """The answer to the oldest request that has none yet. Raises the error that it is."""
        return codec.decode_answer(answer, self._socket.receive()[1])

    def produce(self, topic: str, batch: bytes, count: int, acks: int) -> None:
        """Send a batch `count` times, at most IN_FLIGHT unanswered. Raises the error of any of them."""
        header = codec.encode_request(m.Produce(topic, 0, acks))
        for number in range(count + IN_FLIGHT):
            if number >= IN_FLIGHT:
                codec.decode_answer(m.ProduceAnswer, self._socket.receive()[1])
            if number < count:
                self._socket.send([number.to_bytes(8, "big"), header, batch])
