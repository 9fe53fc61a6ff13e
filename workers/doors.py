"""Where native clients' requests come in, as the loop sees it: requests in at a door, answers out by the same door.

The front has a ClientDoor, a ZeroMQ ROUTER. A worker has a LocalDoor for clients on this host, and worker and
coordinator a FrontLink through which the front hands over its clients' requests: both unix streams. On all of them a
request is `[request id][header][payload …]` from a client, so what serves it does not care which way it came.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from struct import Struct
from typing import NamedTuple

import zmq

from kbroker.config import NativeConfig
from kbroker.errors import (
    InvalidRequest,
    KbrokerError,
    MessageTooLarge,
    ThrottlingQuotaExceeded,
    UnknownServerError,
)
from kbroker.wire import codec
from kbroker.wire.codec import REQUEST_ID_BYTES_MAX
from kbroker.wire.frames import receivable, receive, send
from kbroker.workers.caller import CLIENT_ID_CHARS_MAX, NATIVE, NOBODY, Caller
from kbroker.workers.loop import READ, Loop, descriptor_of

log = logging.getLogger(__name__)

CLIENTS_REMEMBERED = 65_536
"""Of so many clients it is known how much they were sent; the one that was silent longest is forgotten."""

LAST_WORDS_MS = 500
"""How long a process that ends in good order lets ZeroMQ send its last answers."""

TURN_MESSAGES = 64
"""At most so many messages are taken from one socket before the loop looks at the others."""

ZERO_COPY_BYTES = 65_536
"""Frames from here on are handed to ZeroMQ without a copy; for smaller ones the copy is cheaper."""

EVENTS_QUEUE = 100_000
"""Connections that have come or gone and that we have not yet heard of; with more ZeroMQ's thread waits for us."""
UNIX_PEER = "localhost"
"""What libzmq takes for the host of a unix socket's peer."""
_EVENT = Struct("=Hi")  # of libzmq: what has happened, and to which descriptor
_ACCEPTED = int(zmq.EVENT_ACCEPTED)

RECEIVE_QUEUE = 16
"""Messages of one client that wait in ZeroMQ before its connection is no longer read from."""

REPEATED_MAX = 1024
REPEATED_BYTES_MAX = 512
"""Headers of produce requests that a process remembers having decoded, and how large one may be."""

Frames = Sequence[bytes | bytearray | memoryview]


class Asked(NamedTuple):
    """A request as it came in, its header not looked at. Its payload is valid until the call that serves it returns."""

    door: Door
    client: bytes
    request_id: bytes
    header: bytes
    payload: list[memoryview]
    told_caller: bytes = b""
    """What the front says of who asks, where it has passed this on."""

    @property
    def caller(self) -> Caller:
        """Who asks."""
        return self.door.caller(self)

    def answer(self, header: bytes, payload: Frames = ()) -> None:
        """Send the answer. A client that is gone, or lets its answers pile up, does not get it."""
        self.door.send(self.client, [self.request_id, header, *payload])

    def refuse(self, error: BaseException) -> None:
        """Answer with an error."""
        self.answer(codec.encode_error(error))


Serve = Callable[[Asked], None]
_new = tuple.__new__  # Asked(…) without a call of Python's: one is made for each request


class Door(ABC):
    """What all ways in share: the limits on a request, and how much each client was sent."""

    def __init__(self, serve: Serve, limits: NativeConfig) -> None:
        self._serve = serve
        self._limits = limits
        # Here, not in one table of the worker: a client's name is unique at its own door only.
        self.sent_bytes: dict[bytes, int] = {}
        """Payload that each client was sent in all."""

    @abstractmethod
    def _transmit(self, client: bytes, frames: Frames) -> bool:
        """Send to a client without waiting. False: it is gone, or does not take it."""

    @abstractmethod
    def caller(self, asked: Asked) -> Caller:
        """Who has sent a request, as far as it is known here."""

    @abstractmethod
    def _admit(self, client: bytes) -> KbrokerError | None:
        """Count a request that will be answered; the error says why it will not be taken."""

    def take(self, client: bytes, frames: list[memoryview], told_caller: bytes = b"") -> None:
        """Serve `[request id][header][payload …]`, or refuse it."""
        limits = self._limits
        if (
            2 <= len(frames) <= limits.frames_max + 2
            and 0 < len(frames[0]) <= REQUEST_ID_BYTES_MAX
            and len(frames[1]) <= limits.header_bytes_max
        ):
            fault = self._admit(client)
            if fault is None:
                asked = _new(Asked, (self, client, bytes(frames[0]), bytes(frames[1]), frames[2:], told_caller))
                try:
                    self._serve(asked)
                except Exception:  # what one request does to its process must not be done to all others
                    log.exception("a request was not served: %.80r", asked.header)
                    asked.refuse(UnknownServerError("the broker has failed at this request; its log says more"))
                return
        else:
            fault = self._fault_of(frames)
        request_id = bytes(frames[0]) if frames and len(frames[0]) <= REQUEST_ID_BYTES_MAX else b""
        self._transmit(client, [request_id, codec.encode_error(fault)])

    def _fault_of(self, frames: list[memoryview]) -> KbrokerError:
        """What is wrong with a request whose frames are not as they must be."""
        limits = self._limits
        count = len(frames)
        if count < 2:
            return InvalidRequest(f"a request has at least 2 frames (request id, header), not {count}")
        if not 0 < len(frames[0]) <= REQUEST_ID_BYTES_MAX:
            return InvalidRequest(f"a request id has 1 to {REQUEST_ID_BYTES_MAX} bytes, not {len(frames[0])}")
        if count - 2 > limits.frames_max:
            return MessageTooLarge(f"{count - 2} payload frames are more than native.frames.max={limits.frames_max}")
        return MessageTooLarge(
            f"a header of {len(frames[1])} bytes is larger than native.header.bytes.max={limits.header_bytes_max}"
        )

    def send(self, client: bytes, frames: Frames) -> None:
        """Send an answer; it is dropped when the client is gone or does not take it."""
        if not self._transmit(client, frames):
            self.sent_bytes.pop(client, None)
            return
        if len(frames) > 2:
            self._count_sent(client, frames)

    def _count_sent(self, client: bytes, frames: Frames) -> None:
        # Taken out and put back: the first in the table is then who was silent longest.
        sent = self.sent_bytes.pop(client, 0)
        self.sent_bytes[client] = sent + sum(map(len, frames[2:]))
        if len(self.sent_bytes) > CLIENTS_REMEMBERED:
            del self.sent_bytes[next(iter(self.sent_bytes))]


class ClientDoor(Door):
    """A ROUTER that native clients dial, with all limits that ZeroMQ can hold set before it is bound.

    To the rest of the broker a client is not its routing id, which another may take once it has gone, but a number that
    no other client is given. So nobody is sent what was asked before it came.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], serve: Serve, limits: NativeConfig) -> None:
        super().__init__(serve, limits)
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # Who claims the id of a client that is here is ignored.
        socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, limits.frame_bytes_max)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE)
        socket.setsockopt(zmq.SNDHWM, 2 * limits.requests_in_flight_max)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
        # A tcp client whose host vanished is noticed, and its queue freed, without traffic of its own.
        socket.setsockopt(zmq.HEARTBEAT_IVL, 10_000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
        self.socket = socket
        self.was_used = True
        self._unanswered: dict[bytes, int] = {}  # no zeros in it
        self._clients: dict[bytes, _Client] = {}
        """Those that have asked something and are here, by number."""
        self._by_routing_id: dict[bytes, _Client] = {}
        self._by_fd: dict[int, list[_Client]] = {}
        self._connected: set[int] = set()  # descriptors
        self._client_count = 0
        self._events = context.socket(zmq.PAIR)
        self._events.setsockopt(zmq.RCVHWM, EVENTS_QUEUE)
        endpoint = f"inproc://events-{id(self)}"
        socket.monitor(endpoint, int(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED))
        self._events.connect(endpoint)

    def listen(self, loop: Loop) -> None:
        """Serve on this loop."""
        loop.add_port(self)
        # At once, not at the turn's end with the messages: an answer that comes after a client's end is for nobody.
        loop.add(descriptor_of(self._events), READ, lambda _events: self._follow_connections())
        self._follow_connections()

    def drain(self) -> None:
        """Serve the requests that wait, at most TURN_MESSAGES of them."""
        self.was_used = True
        for _ in range(TURN_MESSAGES):
            try:
                routing_id, *frames = receive(self.socket)
            except zmq.Again:
                return
            client = self._by_routing_id.get(routing_id.bytes)
            if client is None or not client.has_given_id:
                client = self._client_of(routing_id)
            self.take(client.number, [frame.buffer for frame in frames])
            if not receivable(self.socket):
                self.was_used = False  # its EVENTS were looked at last
                return

    def _client_of(self, routing_id: zmq.Frame) -> _Client:
        """Who has sent this. An id that libzmq gives is not given again; one that a client has chosen may be another
        client's by now. Then the one before has ended, of which we are told before the other can take its place."""
        self._follow_connections()
        name = routing_id.bytes
        client = self._by_routing_id.get(name)
        if client is None:
            self._client_count += 1
            client = _Client(self._client_count.to_bytes(8, "big"), name, str(routing_id.get("Peer-Address")))
            fd = int(routing_id.get(zmq.SRCFD))
            if fd in self._connected:  # else it has gone, and these are its last words
                self._by_routing_id[name] = self._clients[client.number] = client
                self._by_fd.setdefault(fd, []).append(client)
        return client

    def _follow_connections(self) -> None:
        """Hear who has come; forget the clients that have gone."""
        while True:
            try:
                what, _endpoint = receive(self._events)
            except zmq.Again:
                return
            event, fd = _EVENT.unpack(what.bytes)
            if event == _ACCEPTED:
                self._connected.add(fd)
                continue
            self._connected.discard(fd)
            # Mostly one: the last words of one before it may be read after the descriptor is another's.
            for client in self._by_fd.pop(fd, ()):
                del self._by_routing_id[client.routing_id], self._clients[client.number]
                self._unanswered.pop(client.number, None)
                self.sent_bytes.pop(client.number, None)

    def caller(self, asked: Asked) -> Caller:
        client = self._clients.get(asked.client)
        return Caller(NATIVE) if client is None else client.caller

    def introduce(self, asked: Asked, client_id: str) -> None:
        """A client has said its name."""
        client = self._clients.get(asked.client)
        if client is not None:
            client.client_id = client_id[:CLIENT_ID_CHARS_MAX]

    def _transmit(self, client: bytes, frames: Frames) -> bool:
        self.was_used = True
        found = self._clients.get(client)
        return found is not None and not self.socket.closed and send_frames(self.socket, [found.routing_id, *frames])

    def _admit(self, client: bytes) -> KbrokerError | None:
        limits = self._limits
        unanswered = self._unanswered.get(client, 0)
        if unanswered >= limits.requests_in_flight_max:
            return too_many_unanswered(unanswered)
        if not unanswered and len(self._unanswered) >= limits.clients_max:
            return ThrottlingQuotaExceeded(
                f"more than native.clients.max={limits.clients_max} clients wait for answers"
            )
        self._unanswered[client] = unanswered + 1
        return None

    def send(self, client: bytes, frames: Frames) -> None:
        """Answer one request of a client; the answer is dropped when the client is gone or does not take it."""
        unanswered = self._unanswered
        left = unanswered.get(client, 0) - 1
        if left > 0:
            unanswered[client] = left
        else:
            unanswered.pop(client, None)
        super().send(client, frames)

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket; what is not sent within `linger_ms` is dropped."""
        self.socket.disable_monitor()
        self._events.close(linger=0)
        self.socket.close(linger=linger_ms)


class _Client:
    """A connection to a ClientDoor. `peer`: who it is in libzmq's words, HOST, with :UID:GID:PID for a unix socket.
    `has_given_id`: its routing id is one that libzmq gives."""

    __slots__ = ("client_id", "has_given_id", "number", "peer", "routing_id")

    def __init__(self, number: bytes, routing_id: bytes, peer: str) -> None:
        self.number = number
        self.routing_id = routing_id
        self.peer = peer
        self.client_id = ""
        self.has_given_id = len(routing_id) == 5 and not routing_id[0]

    @property
    def caller(self) -> Caller:
        """Who it is, for the log."""
        host, *of_process = self.peer.rsplit(":", 3)
        if len(of_process) == 3 and of_process[0].isdecimal() and host == UNIX_PEER:
            return Caller(NATIVE, "", int(of_process[0]), self.client_id)
        return Caller(NATIVE, self.peer, NOBODY, self.client_id)


def too_many_unanswered(count: int) -> ThrottlingQuotaExceeded:
    """Why a request is not taken from a client that has so many on their way."""
    return ThrottlingQuotaExceeded(
        f"{count} requests without an answer are native.requests.in.flight.max: wait for answers"
    )


def send_frames(socket: zmq.Socket[bytes], frames: Frames) -> bool:
    """Send a message without waiting. False when the peer is gone or its queue is full."""
    try:
        send(socket, frames, ZERO_COPY_BYTES)
    except zmq.ZMQError as error:
        if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            return False
        raise
    return True
