"""The door of a worker for clients on this host: a unix stream for each, one hop less than through the front."""

from __future__ import annotations

import logging
import socket
from functools import partial
from operator import attrgetter

from kbroker.config import NativeConfig
from kbroker.errors import KbrokerError, ThrottlingQuotaExceeded
from kbroker.wire import codec
from kbroker.wire.stream import MessageLimits
from kbroker.workers.acceptor import Acceptor
from kbroker.workers.caller import CLIENT_ID_CHARS_MAX, NATIVE, Caller
from kbroker.workers.complaints import Complaints
from kbroker.workers.doors import Asked, Door, Frames, Serve, too_many_unanswered
from kbroker.workers.loop import Loop
from kbroker.workers.stream_connection import StreamConnection, Streams

log = logging.getLogger(__name__)

STALL_CHECK_MS = 1_000
STALL_MAX_MS = 30_000
"""A client that does not end a request for so long is hung up on; one that takes nothing of its answers only once half
of native.queued.answer.max.bytes waits to be taken."""
UNTAKEN_MAX_MS = 600_000
"""Until then it has so long: it has asked for data, and may work between two reads."""


def request_limits(limits: NativeConfig, extra_frames: int = 0) -> MessageLimits:
    """How large a message with a client's request may be; `extra_frames` stand before it."""
    return MessageLimits(
        payload_bytes=limits.frame_bytes_max,
        other_bytes=limits.header_bytes_max + 4096,
        frames=limits.frames_max + 2 + extra_frames,
    )


class LocalClient(Door):
    """One client's connection, which is its door as well."""

    def __init__(self, owner: LocalDoor, sock: socket.socket) -> None:
        super().__init__(owner.serve, owner.limits)
        self._owner = owner
        self._unanswered = 0
        self._client_id = ""
        self.connection = StreamConnection(
            owner.streams, sock, owner.message_limits, partial(self.take, b""), self._ended
        )

    def _ended(self, _connection: StreamConnection, why: str) -> None:
        self.all_gone()
        self._owner.gone(self, why)

    def caller(self, _asked: Asked) -> Caller:
        return Caller(NATIVE, "", self.connection.peer_uid(), self._client_id)

    def introduce(self, client_id: str) -> None:
        """The client has said its name."""
        self._client_id = client_id[:CLIENT_ID_CHARS_MAX]

    def _transmit(self, _client: bytes, frames: Frames) -> bool:
        self.connection.send(frames)
        return not self.connection.is_closed

    def _admit(self, _client: bytes) -> KbrokerError | None:
        if self._unanswered >= self._limits.requests_in_flight_max:
            return too_many_unanswered(self._unanswered)
        self._unanswered += 1
        return None

    def send(self, client: bytes, frames: Frames) -> None:
        """Answer one request; the answer is dropped when the client is gone."""
        self._unanswered -= 1
        if len(frames) > 2 and (full := self._owner.why_full()):
            frames = [frames[0], codec.encode_error(full)]
        self.connection.send(frames)
        if len(frames) > 2:
            self._count_sent(client, frames)


class LocalDoor:
    """Accepts on an inherited listener: while its process restarts, clients wait in its backlog."""

    def __init__(self, streams: Streams, listener: socket.socket, serve: Serve, limits: NativeConfig) -> None:
        self.streams = streams
        self.serve = serve
        self.limits = limits
        self.message_limits = request_limits(limits)
        self.clients: set[LocalClient] = set()
        self._loop: Loop = streams.loop
        self._complaints = Complaints(streams.loop, "native clients of this host")
        self._acceptor = Acceptor(streams.loop, (listener,), self._let_in, "native clients")

    def listen(self) -> None:
        """Begin to accept, and to look after those who stall."""
        self._acceptor.start()
        self._loop.call_every(STALL_CHECK_MS, self._check_stalled)

    def close(self) -> None:
        """Say what is still to be said, as far as clients take it at once; hang up on everybody."""
        self._acceptor.stop()
        for client in list(self.clients):
            client.connection.flush()
            client.connection.close()

    def why_full(self) -> KbrokerError | None:
        """Why no more records are sent to anybody just now."""
        untaken, most = self.streams.untaken_bytes, self.limits.answer_bytes_max
        if untaken <= most:
            return None
        return ThrottlingQuotaExceeded(
            f"{untaken} bytes of answers wait to be taken, and native.queued.answer.max.bytes={most}: try again"
        )

    def gone(self, client: LocalClient, why: str) -> None:
        """A connection was closed."""
        self.clients.discard(client)
        if why:
            self._complaints.say(f"hung up on a native client of this host: {why}")

    def _let_in(self, sock: socket.socket, _address: object) -> None:
        client = LocalClient(self, sock)
        self.clients.add(client)
        if len(self.clients) > self.limits.clients_max:
            most = self.limits.clients_max
            client.connection.refuse(ThrottlingQuotaExceeded(f"native.clients.max={most} are connected already"))

    def _check_stalled(self) -> None:
        now_ms = self._loop.now_ms()
        stalled = [client.connection for client in self.clients if client.connection.is_stalling]
        for connection in sorted(stalled, key=attrgetter("queued_bytes"), reverse=True):
            is_costly = self.streams.untaken_bytes > self.limits.answer_bytes_max // 2
            untaken_max_ms = STALL_MAX_MS if is_costly else UNTAKEN_MAX_MS
            if connection.blocked_ms and now_ms - connection.blocked_ms > untaken_max_ms:
                connection.close(f"it took nothing of its answers for {untaken_max_ms} ms")
            elif connection.partial_ms and now_ms - connection.partial_ms > STALL_MAX_MS:
                connection.close(f"it sent half a request and did not end it within {STALL_MAX_MS} ms")
