"""Ready-made batches sent by a bare socket: what the broker itself can take, with next to no client."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from kbroker.testing import Broker
from kbroker.wire import codec, endpoints
from kbroker.wire import messages as m

IN_FLIGHT = 5
TIMEOUT_MS = 60_000


class RawLink:
    """A DEALER socket to the front, or to worker 0's own endpoint."""

    def __init__(self, broker: Broker, *, direct: bool) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
        runtime = Path(broker.runtime_dir)
        self.socket.connect(endpoints.ipc(runtime, endpoints.worker_ipc(0)) if direct else broker.server)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        self._context.term()

    def ask(self, request: Any, answer: type[Any]) -> Any:
        """One request, its answer."""
        self.socket.send_multipart([b"ask", codec.encode_request(request)])
        return codec.decode_answer(answer, self.socket.recv_multipart()[1])

    def produce(self, topic: str, batch: bytes, count: int, acks: int) -> None:
        """Send a batch `count` times, at most IN_FLIGHT unanswered. Raises the error of any of them."""
        header = codec.encode_request(m.Produce(topic, 0, acks))
        for number in range(count + IN_FLIGHT):
            if number >= IN_FLIGHT:
                frames = self.socket.recv_multipart()
                codec.decode_answer(m.ProduceAnswer, frames[1])
            if number < count:
                self.socket.send(number.to_bytes(8, "big"), zmq.SNDMORE)
                self.socket.send(header, zmq.SNDMORE)
                self.socket.send(batch, copy=False)
