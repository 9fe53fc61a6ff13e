"""The door of a worker for clients on this host: a unix stream for each, one hop less than through the front."""

from __future__ import annotations

import errno
import logging
import socket
from functools import partial

from kbroker.config import NativeConfig
from kbroker.errors import KbrokerError, ThrottlingQuotaExceeded
from kbroker.wire.stream import MessageLimits
from kbroker.workers.caller import CLIENT_ID_CHARS_MAX, NATIVE, Caller
from kbroker.workers.doors import Asked, Door, Frames, Serve, too_many_unanswered
from kbroker.workers.loop import READ, Loop
from kbroker.workers.stream_connection import StreamConnection, Streams

log = logging.getLogger(__name__)

TURN_ACCEPTS = 64
ACCEPT_PAUSE_MS = 500
"""How long nobody is let in when this process has no descriptor left."""
STALL_CHECK_MS = 1_000
STALL_MAX_MS = 30_000
"""A client that takes nothing of its answers, or does not end a request, for so long is hung up on."""


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
        self._listener = listener
        self._is_listening = False

    def listen(self) -> None:
        """Begin to accept, and to look after those who stall."""
        self._listen()
        self._loop.call_every(STALL_CHECK_MS, self._check_stalled)

    def close(self) -> None:
        """Say what is still to be said, as far as clients take it at once; hang up on everybody."""
        if self._is_listening:
            self._is_listening = False
            self._loop.remove(self._listener.fileno())
        for client in list(self.clients):
            client.connection.flush()
            client.connection.close()

    def gone(self, client: LocalClient, why: str) -> None:
        """A connection was closed."""
        self.clients.discard(client)
        if why:
            log.warning("hung up on a native client of this host: %s", why)

    def _listen(self) -> None:
        if not self._is_listening:
            self._is_listening = True
            self._loop.add(self._listener.fileno(), READ, self._accept)

    def _accept(self, _events: int) -> None:
        for _ in range(TURN_ACCEPTS):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.error("no more native clients can be taken: %s", error.strerror)
                    self._is_listening = False
                    self._loop.remove(self._listener.fileno())
                    self._loop.call_later(ACCEPT_PAUSE_MS, self._listen)
                    return
                continue
            sock.setblocking(False)
            client = LocalClient(self, sock)
            self.clients.add(client)
            if len(self.clients) > self.limits.clients_max:
                most = self.limits.clients_max
                client.connection.refuse(ThrottlingQuotaExceeded(f"native.clients.max={most} are connected already"))

    def _check_stalled(self) -> None:
        oldest_ms = self._loop.now_ms() - STALL_MAX_MS
        for client in list(self.clients):
            connection = client.connection
            if 0 < connection.blocked_ms < oldest_ms:
                connection.close(f"it took nothing of its answers for {STALL_MAX_MS} ms")
            elif 0 < connection.partial_ms < oldest_ms:
                connection.close(f"it sent half a request and did not end it within {STALL_MAX_MS} ms")
