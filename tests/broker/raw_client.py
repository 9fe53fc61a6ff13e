"""A client that speaks raw frames, so that tests can say what no proper client would."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import time
from types import TracebackType
from typing import Any, Self, TypeVar

import zmq

from kbroker.errors import RetriableError
from kbroker.records.codec import RecordTuple, decode_list, iter_batches
from kbroker.testing import Broker
from kbroker.wire import codec, endpoints
from kbroker.wire import messages as m
from kbroker.wire.endpoints import UNIX
from kbroker.wire.stream import ANSWER_LIMITS, MessageFramer, head

from ..log.batches import batch as log_batch

A = TypeVar("A")
TIMEOUT_MS = 20_000


class StreamSocket:
    """A unix stream with the few methods of a DEALER that RawClient uses.

    As with that, zmq.Again says that there is no answer; here also at once when the peer has died, after connecting to
    its successor.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._timeout_ms = TIMEOUT_MS
        self._connect()

    def _connect(self) -> None:
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.settimeout(self._timeout_ms / 1000)
        self.stream.connect(self._path)
        self._framer = MessageFramer(ANSWER_LIMITS)

    def send_multipart(self, frames: list[bytes]) -> None:
        # Who is hung up on in the middle finds the reason in what there is to read.
        with contextlib.suppress(ConnectionError):
            self.stream.sendall(head(frames) + b"".join(frames))

    def recv_multipart(self) -> list[bytes]:
        while (frames := self._framer.next_message()) is None:
            try:
                data = self.stream.recv(1 << 16)
            except TimeoutError:
                raise zmq.Again from None
            except ConnectionError:
                data = b""
            if not data:
                self.close()
                self._connect()
                raise zmq.Again
            self._framer.receive(memoryview(data))
        return [bytes(frame) for frame in frames]

    def poll(self, timeout_ms: int) -> object:
        return select.select([self.stream], (), (), timeout_ms / 1000)[0]

    def set_timeout_ms(self, timeout_ms: int) -> None:
        self._timeout_ms = timeout_ms
        self.stream.settimeout(timeout_ms / 1000)

    def close(self) -> None:
        self.stream.close()


class RawClient:
    """One DEALER socket, or stream. `ask` waits for the answer of that request and raises the error it carries."""

    def __init__(self, endpoint: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket: Any
        if endpoint.startswith(UNIX):
            self.socket = StreamSocket(endpoint.removeprefix(UNIX))
        else:
            self.socket = self.context.socket(zmq.DEALER)
            self.socket.setsockopt(zmq.LINGER, 0)
            self.socket.connect(endpoint)
        self.set_timeout_ms(TIMEOUT_MS)
        self._numbers = itertools.count(1)
        self.early: dict[bytes, list[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()
        self.context.term()

    def set_timeout_ms(self, timeout_ms: int) -> None:
        """How long to wait for an answer before zmq.Again."""
        if isinstance(self.socket, StreamSocket):
            self.socket.set_timeout_ms(timeout_ms)
        else:
            self.socket.setsockopt(zmq.RCVTIMEO, timeout_ms)
            self.socket.setsockopt(zmq.SNDTIMEO, timeout_ms)

    def send(self, request: Any, *payload: bytes) -> bytes:
        """Send a request; returns its id."""
        return self.send_header(codec.encode_request(request), *payload)

    def send_header(self, header: bytes, *payload: bytes) -> bytes:
        """Send any bytes as a header; returns the request's id."""
        request_id = next(self._numbers).to_bytes(4, "big")
        self.socket.send_multipart([request_id, header, *payload])
        return request_id

    def take(self, request_id: bytes) -> list[bytes]:
        """Header and payload of the answer to one request."""
        while request_id not in self.early:
            frames = self.socket.recv_multipart()
            if not frames[0]:
                codec.decode_answer(m.HelloAnswer, frames[1])  # why it hangs up
            self.early[frames[0]] = frames[1:]
        return self.early.pop(request_id)

    def take_any(self) -> tuple[bytes, list[bytes]]:
        """Whatever answer comes next: request id, header and payload."""
        frames = self.socket.recv_multipart()
        return frames[0], frames[1:]

    def ask(self, answer: type[A], request: Any, *payload: bytes) -> A:
        """Ask and wait. Raises the RequestError that is answered, zmq.Again after TIMEOUT_MS."""
        return codec.decode_answer(answer, self.take(self.send(request, *payload))[0])

    def ask_until_served(self, answer: type[A], request: Any, *payload: bytes) -> A:
        """As `ask`, again and again while the answer says that a retry may help."""
        deadline = time.monotonic() + TIMEOUT_MS / 1000
        while True:
            try:
                return self.ask(answer, request, *payload)
            except RetriableError as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{request} was refused for {TIMEOUT_MS} ms, at last by: {error}") from error
                self.socket.poll(1)  # leaves the processor to those who are to serve it

    # --- what most tests do ---

    def create(self, name: str, partitions: int = 1, **settings: str) -> None:
        """Make a topic; the settings' names have _ for dots."""
        named = {key.replace("_", "."): value for key, value in settings.items()}
        results = self.ask(m.TopicResults, m.CreateTopics([m.NewTopic(name, partitions, settings=named)]))
        codec.raise_error(results.topics[0].error, results.topics[0].message)

    def produce(self, topic: str, batch: bytes, partition: int = 0, acks: int = -1) -> m.ProduceAnswer:
        """Append, trying again while that may help."""
        return self.ask_until_served(m.ProduceAnswer, m.Produce(topic, partition, acks), batch)

    def fetch(self, topic: str, offset: int = 0, partition: int = 0, **more: Any) -> list[bytes]:
        """Header and payload of a fetch from one partition."""
        place = m.FetchPartition(topic, partition, offset, max_bytes=1 << 24)
        return self.take(self.send(m.Fetch([place], **more)))

    def records(self, topic: str, partition: int = 0) -> list[RecordTuple]:
        """Everything that a partition shows."""
        found: list[RecordTuple] = []
        received = 0
        incarnation = 0
        while True:
            offset = found[-1][0] + 1 if found else 0
            credit = m.Credit(incarnation, received)
            header, *payload = self.fetch(topic, offset, partition, max_wait_ms=0, credit=credit)
            answer = codec.decode_answer(m.FetchAnswer, header)
            codec.raise_error(answer.partitions[0].error, answer.partitions[0].message)
            if not payload:
                return found
            received = received + len(payload[0]) if incarnation == answer.incarnation else len(payload[0])
            incarnation = answer.incarnation
            for batch in iter_batches(payload[0]):
                found += [record for record in decode_list(batch) if record[0] >= offset]


def batch(values: list[bytes] | int = 1, **more: Any) -> bytes:
    """A batch stamped with the present time, lest retention takes it."""
    return bytes(log_batch(values, timestamp_ms=time.time_ns() // 1_000_000, **more))


def owner_of(client: RawClient, topic: str, partition: int) -> int:
    """The number of the worker that owns a partition."""
    found = client.ask_until_served(m.MetadataAnswer, m.Metadata([topic]))
    return found.topics[0].partitions[partition].leader - 1


def direct(broker: Broker, worker: int = 0) -> str:
    """The endpoint of a worker's own door."""
    return endpoints.unix(broker.runtime_dir / endpoints.worker_door(worker))
