"""The front's door: a ROUTER for native clients, and who they are."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

import zmq

from kbroker.config import NativeConfig
from kbroker.errors import KbrokerError, ThrottlingQuotaExceeded
from kbroker.wire import codec
from kbroker.wire.codec import REQUEST_ID_BYTES_MAX
from kbroker.wire.frames import receivable, receive, send
from kbroker.workers.caller import CLIENT_ID_CHARS_MAX, NATIVE, NOBODY, Caller
from kbroker.workers.client_room import ClientRoom
from kbroker.workers.doors import Asked, Door, Frames, Serve, too_many_unanswered
from kbroker.workers.loop import READ, Loop, descriptor_of

LAST_WORDS_MS = 500
"""How long a process that ends in good order lets ZeroMQ send its last answers."""

TURN_MESSAGES = 64
"""At most so many messages are taken from one socket before the loop looks at the others."""

ZERO_COPY_BYTES = 65_536
"""Frames from here on are handed to ZeroMQ without a copy; for smaller ones the copy is cheaper."""

RECEIVE_QUEUE = 16
"""Messages of one client that wait in ZeroMQ before its connection is no longer read from."""

EVENTS_QUEUE = 1
"""Connections that have come or ended and that we have not yet heard of, besides the 1000 that libzmq's end keeps; with
more its thread waits for us, so that it never accepts many more than we know."""

EXTRA_CLIENTS = 16
"""Beyond native.clients.max so many are connected, to be told that they are too many; more are hung up on."""

UNIX_PEER = "localhost"
"""What libzmq takes for the host of a unix socket's peer."""

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"  # RFC 27
_EVENT = Struct("=Hi")  # of libzmq's socket monitor: what has happened, and to which descriptor
_ACCEPTED = int(zmq.EVENT_ACCEPTED)
_ACCEPT_FAILED = int(zmq.EVENT_ACCEPT_FAILED)
_DISCONNECTED = int(zmq.EVENT_DISCONNECTED)


class ClientDoor(Door):
    """A ROUTER that native clients dial, with all limits that ZeroMQ can hold set before it is bound.

    To the rest of the broker a client is not its routing id, which another may take once it has gone, but the number of
    its connection, which no other is given. So nobody is sent what was asked before it came.

    libzmq asks us about each new connection (ZAP) and puts the number that we give it into all its messages; when a
    connection has ended its monitor tells which descriptor it had. Numbers and ends are counted together: a message
    whose connection is older than the last end of its descriptor is the last words of one that has gone.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        serve: Serve,
        limits: NativeConfig,
        gone: Callable[[bytes], None],
    ) -> None:
        """`gone` gets the number of each client that hangs up before all its requests are answered."""
        super().__init__(serve, limits)
        self._gone = gone
        self._count = 0
        self._ended: dict[int, int] = {}
        """By descriptor: the count at its last end."""
        self._clients: dict[bytes, _Client] = {}
        """Those that have asked something and are here, by number."""
        self._by_routing_id: dict[bytes, _Client] = {}
        self._by_fd: dict[int, _Client] = {}
        self._unanswered: dict[bytes, int] = {}  # no zeros in it
        self._room = ClientRoom(limits.clients_max + EXTRA_CLIENTS)

        self._entrance = _Entrance(context, self._next_number)
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ZAP_DOMAIN, b"native")
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

        self._events = context.socket(zmq.PAIR)
        self._events.setsockopt(zmq.RCVHWM, EVENTS_QUEUE)
        endpoint = f"inproc://events-{id(self)}"
        socket.monitor(endpoint, _ACCEPTED | _ACCEPT_FAILED | _DISCONNECTED)
        self._events.connect(endpoint)

    def listen(self, loop: Loop) -> None:
        """Serve on this loop."""
        loop.add_port(self)
        loop.add_port(self._entrance)
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
            if client.is_extra and self._is_full():
                self._turn_away(client, frames)
            else:
                client.is_extra = False
                self.take(client.number, [frame.buffer for frame in frames])
            if not receivable(self.socket):
                self.was_used = False  # its EVENTS were looked at last
                return

    def caller(self, asked: Asked) -> Caller:
        client = self._clients.get(asked.client)
        return Caller(NATIVE) if client is None else client.caller

    def introduce(self, asked: Asked, client_id: str) -> None:
        """A client has said its name."""
        client = self._clients.get(asked.client)
        if client is not None:
            client.client_id = client_id[:CLIENT_ID_CHARS_MAX]

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
        self._room.close()
        self.socket.disable_monitor()
        self._events.close(linger=0)
        self.socket.close(linger=linger_ms)
        self._entrance.socket.close(linger=0)

    # --- who is there ---

    def _next_number(self) -> int:
        """For a connection that comes now. The one that had its descriptor before has ended: that is counted first."""
        self._follow_connections()
        self._count += 1
        return self._count

    def _is_full(self) -> bool:
        return len(self._clients) > self._limits.clients_max

    def _turn_away(self, client: _Client, frames: list[zmq.Frame]) -> None:
        """One client too many is told so, as long as there is a connection to tell it by."""
        if frames and len(frames[0]) <= REQUEST_ID_BYTES_MAX:
            most = self._limits.clients_max
            full = ThrottlingQuotaExceeded(f"native.clients.max={most} are connected already")
            self._transmit(client.number, [frames[0].bytes, codec.encode_error(full)])

    def _client_of(self, routing_id: zmq.Frame) -> _Client:
        """Who has sent this. A routing id that libzmq gives is not given again; one that a client has chosen may be
        another client's by now."""
        self._follow_connections()
        count = int(routing_id.get("User-Id"))
        number, name = count.to_bytes(8, "big"), routing_id.bytes
        client = self._clients.get(number)
        if client is None:
            client = _Client(number, name, str(routing_id.get("Peer-Address")))
            fd = int(routing_id.get(zmq.SRCFD))
            if count > self._ended.get(fd, 0):  # else these are its last words
                self._clients[number] = self._by_routing_id[name] = self._by_fd[fd] = client
                client.is_extra = self._is_full()
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
                self._room.came(fd)
                continue
            if event == _ACCEPT_FAILED:
                self._room.failed(fd)  # it is an error's number
                continue
            self._room.went(fd)
            self._count += 1
            self._ended[fd] = self._count
            client = self._by_fd.pop(fd, None)
            if client is not None:
                del self._by_routing_id[client.routing_id], self._clients[client.number]
                self.client_gone(client.number)
                if self._unanswered.pop(client.number, 0):
                    self._gone(client.number)

    def _transmit(self, client: bytes, frames: Frames) -> bool:
        self.was_used = True
        found = self._clients.get(client)
        return found is not None and not self.socket.closed and _sent(self.socket, [found.routing_id, *frames])

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


class _Client:
    """A connection to a ClientDoor. `peer`: who it is in libzmq's words, HOST, with :UID:GID:PID for a unix socket.
    `has_given_id`: its routing id is one that libzmq gives. `is_extra`: it came when there were too many."""

    __slots__ = ("client_id", "has_given_id", "is_extra", "number", "peer", "routing_id")

    def __init__(self, number: bytes, routing_id: bytes, peer: str) -> None:
        self.number = number
        self.routing_id = routing_id
        self.peer = peer
        self.client_id = ""
        self.is_extra = False
        self.has_given_id = len(routing_id) == 5 and not routing_id[0]

    @property
    def caller(self) -> Caller:
        """Who it is, for the log."""
        host, *of_process = self.peer.rsplit(":", 3)
        if len(of_process) == 3 and of_process[0].isdecimal() and host == UNIX_PEER:
            return Caller(NATIVE, "", int(of_process[0]), self.client_id)
        return Caller(NATIVE, self.peer, NOBODY, self.client_id)


class _Entrance:
    """Where libzmq asks about each connection that has come. All are let in, each with its number as its user id."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], next_number: Callable[[], int]) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.bind(_ZAP_ENDPOINT)
        self.was_used = True
        self._next_number = next_number

    def drain(self) -> None:
        """Answer what was asked."""
        self.was_used = True
        while not self.socket.closed:
            try:
                version, request_id, *_ = receive(self.socket)
            except zmq.Again:
                return
            number = b"%d" % self._next_number()
            send(self.socket, [version, request_id, b"200", b"OK", number, b""], ZERO_COPY_BYTES)


def _sent(socket: zmq.Socket[bytes], frames: Frames) -> bool:
    """Send a message without waiting. False when the peer is gone or its queue is full."""
    try:
        send(socket, frames, ZERO_COPY_BYTES)
    except zmq.ZMQError as error:
        if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            return False
        raise
    return True
