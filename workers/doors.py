"""ZeroMQ sockets as the loop sees them: requests come in at a door, answers go out by the same door.

A front and every worker has a ClientDoor (a ROUTER that clients dial). Workers and the coordinator also dial in to the
front with a FrontLink, through which it hands them its clients' requests. On both, a request is
`[client][request id][header][payload …]`, so what serves it does not care which way it came.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import zmq

from kbroker.config import NativeConfig
from kbroker.errors import InvalidRequest, KbrokerError, MessageTooLarge, ThrottlingQuotaExceeded
from kbroker.wire import codec
from kbroker.wire.frames import receivable, receive, send

log = logging.getLogger(__name__)

CLIENTS_REMEMBERED = 65_536
"""Of so many clients it is known how much they were sent; the one that was silent longest is forgotten."""

LINK_IS_UP = b"up"
"""The first message on a FrontLink: the front serves when it has had one from everybody."""

LAST_WORDS_MS = 500
"""How long a process that ends in good order lets ZeroMQ send its last answers."""

TURN_MESSAGES = 64
"""At most so many messages are taken from one socket before the loop looks at the others."""

ZERO_COPY_BYTES = 65_536
"""Frames from here on are handed to ZeroMQ without a copy; for smaller ones the copy is cheaper."""

RECEIVE_QUEUE = 16
"""Messages of one client that wait in ZeroMQ before its connection is no longer read from."""

Payload = Sequence[bytes | memoryview | zmq.Frame]


class Asked(NamedTuple):
    """A request as it came in, its header not yet looked at."""

    door: Door
    client: bytes
    request_id: bytes
    header: bytes
    payload: list[zmq.Frame]

    def answer(self, header: bytes, payload: Payload = ()) -> None:
        """Send the answer. A client that is gone, or lets its answers pile up, does not get it."""
        self.door.send(self.client, [self.request_id, header, *payload])

    def refuse(self, error: BaseException) -> None:
        """Answer with an error."""
        self.answer(codec.encode_error(error))


Serve = Callable[[Asked], None]


class Door(Protocol):
    """Where a request came from. `sent_bytes`: payload that each of its clients was sent in all."""

    sent_bytes: dict[bytes, int]

    def send(self, client: bytes, frames: Payload) -> None: ...


def send_frames(socket: zmq.Socket[bytes], frames: Payload) -> bool:
    """Send a message without waiting. False when the peer is gone or its queue is full."""
    try:
        send(socket, frames, ZERO_COPY_BYTES)
    except zmq.ZMQError as error:
        if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            return False
        raise
    return True


class _Socket:
    """What both kinds of door share: receiving, checking the number of frames, sending."""

    def __init__(self, socket: zmq.Socket[bytes], serve: Serve, frames_max: int, header_bytes_max: int) -> None:
        self.socket = socket
        self._serve = serve
        self._frames_max = frames_max
        self._header_bytes_max = header_bytes_max
        # Here, not in one table of the worker: a client's name is unique at its own door only.
        self.sent_bytes: dict[bytes, int] = {}

    def drain(self) -> None:
        """Serve the requests that wait, at most TURN_MESSAGES of them."""
        for _ in range(TURN_MESSAGES):
            try:
                frames = receive(self.socket)
            except zmq.Again:
                return
            asked = self._checked(frames)
            if asked is not None:
                self._serve(asked)
            if not receivable(self.socket):
                return

    def _checked(self, frames: list[zmq.Frame]) -> Asked | None:
        client = frames[0].bytes
        request_id = frames[1].bytes if len(frames) > 1 and len(frames[1]) <= codec.REQUEST_ID_BYTES_MAX else b""
        fault: KbrokerError | None = None
        if len(frames) < 3:
            fault = InvalidRequest(f"a request has at least 2 frames (request id, header), not {len(frames) - 1}")
        elif not 0 < len(frames[1]) <= codec.REQUEST_ID_BYTES_MAX:
            fault = InvalidRequest(f"a request id has 1 to {codec.REQUEST_ID_BYTES_MAX} bytes, not {len(frames[1])}")
        elif len(frames) - 3 > self._frames_max:
            fault = MessageTooLarge(
                f"{len(frames) - 3} payload frames are more than native.frames.max={self._frames_max}"
            )
        elif len(frames[2]) > self._header_bytes_max:
            fault = MessageTooLarge(
                f"a header of {len(frames[2])} bytes is larger than native.header.bytes.max={self._header_bytes_max}"
            )
        else:
            fault = self._admit(client)
        if fault is not None:
            send_frames(self.socket, [client, request_id, codec.encode_error(fault)])
            return None
        return Asked(self, client, request_id, frames[2].bytes, frames[3:])

    def _admit(self, client: bytes) -> KbrokerError | None:
        """Count a request that will be answered; the error says why it will not be taken."""
        del client
        return None

    def send(self, client: bytes, frames: Payload) -> None:
        """Send an answer; it is dropped when the socket was closed or the peer does not take it."""
        if self.socket.closed or not send_frames(self.socket, [client, *frames]):
            self.sent_bytes.pop(client, None)
            return
        if len(frames) > 2:
            # Taken out and put back: the first in the table is then who was silent longest.
            sent = self.sent_bytes.pop(client, 0)
            self.sent_bytes[client] = sent + sum(map(len, frames[2:]))
            if len(self.sent_bytes) > CLIENTS_REMEMBERED:
                del self.sent_bytes[next(iter(self.sent_bytes))]

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket; what is not sent within `linger_ms` is dropped."""
        self.socket.close(linger=linger_ms)


class ClientDoor(_Socket):
    """A ROUTER that native clients dial, with all limits that ZeroMQ can hold set before it is bound."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], serve: Serve, limits: NativeConfig) -> None:
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, limits.frame_bytes_max)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE)
        socket.setsockopt(zmq.SNDHWM, 2 * limits.requests_in_flight_max)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
        # A tcp client whose host vanished is noticed, and its queue freed, without traffic of its own.
        socket.setsockopt(zmq.HEARTBEAT_IVL, 10_000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
        super().__init__(socket, serve, limits.frames_max, limits.header_bytes_max)
        self._limits = limits
        self._unanswered: Counter[bytes] = Counter()

    def _admit(self, client: bytes) -> KbrokerError | None:
        limits = self._limits
        unanswered = self._unanswered[client]
        if unanswered >= limits.requests_in_flight_max:
            return ThrottlingQuotaExceeded(
                f"{unanswered} requests without an answer are native.requests.in.flight.max: wait for answers"
            )
        if not unanswered and len(self._unanswered) > limits.clients_max:
            del self._unanswered[client]
            return ThrottlingQuotaExceeded(
                f"more than native.clients.max={limits.clients_max} clients wait for answers"
            )
        self._unanswered[client] = unanswered + 1
        return None

    def send(self, client: bytes, frames: Payload) -> None:
        """Answer one request of a client; the answer is dropped when the client is gone or does not take it."""
        unanswered = self._unanswered[client] - 1
        if unanswered > 0:
            self._unanswered[client] = unanswered
        else:
            del self._unanswered[client]
        super().send(client, frames)


class FrontLink(_Socket):
    """A DEALER through which the front hands over its clients' requests, for one incarnation of front and process.

    When the front's incarnation changes a new link is made and the old one closed: answers for clients of the dead
    front must not reach its successor.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        serve: Serve,
        identity: bytes,
        endpoint: str,
        limits: NativeConfig,
    ) -> None:
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IDENTITY, identity)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        socket.connect(endpoint)
        super().__init__(socket, serve, limits.frames_max, limits.header_bytes_max)
        socket.send(LINK_IS_UP)


class PeerSocket:
    """A socket for control messages: every message goes to `serve` as its list of frames."""

    def __init__(self, socket: zmq.Socket[bytes], serve: Callable[[list[bytes]], None]) -> None:
        self.socket = socket
        self._serve = serve

    def drain(self) -> None:
        """Serve the messages that wait, at most TURN_MESSAGES of them."""
        for _ in range(TURN_MESSAGES):
            if self.socket.closed:
                return
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._serve(frames)

    def send(self, frames: list[bytes]) -> bool:
        """Send without waiting. False when the peer is gone or its queue is full."""
        return not self.socket.closed and send_frames(self.socket, frames)

    def close(self) -> None:
        """Close the socket; what was not sent yet is dropped."""
        with contextlib.suppress(zmq.ZMQError):
            self.socket.close(linger=0)
