"""A worker's or the coordinator's side of the front: dials in to its present incarnation."""

from __future__ import annotations

import socket
from collections.abc import Callable

from kbroker.config import NativeConfig
from kbroker.errors import KbrokerError, ThrottlingQuotaExceeded
from kbroker.wire import codec, endpoints
from kbroker.wire.control import identity
from kbroker.workers.caller import NATIVE, Caller, unpack_caller
from kbroker.workers.child import ChildContext
from kbroker.workers.doors import Asked, Door, Frames, Serve
from kbroker.workers.internal_door import dial_internal, introduce
from kbroker.workers.local_door import request_limits
from kbroker.workers.stream_connection import StreamConnection, Streams

FRONT = "front"
REDIAL_MS = 20
QUEUED_BYTES_MAX = 256 << 20
"""Answers that the front has not taken; above it those with records are refused, retriable, until it has."""


class FrontLink(Door):
    """A unix stream through which one incarnation of the front hands over its clients' requests.

    Each message has the client's number before the request, and where the request changes something who has sent it
    as well: `[number][][caller]`. A number alone: that client has hung up, with requests that are not answered. They
    are to be answered all the same, for the front counts them; nobody gets that.
    """

    def __init__(
        self,
        streams: Streams,
        sock: socket.socket,
        serve: Serve,
        limits: NativeConfig,
        gone: Callable[[FrontLink], None],
    ) -> None:
        super().__init__(serve, limits)
        self._gone = gone
        self.connection = StreamConnection(
            streams, sock, request_limits(limits, extra_frames=3), self._received, self._ended, is_peer=True
        )

    def _received(self, frames: list[memoryview]) -> None:
        if len(frames) == 1:
            self.client_gone(bytes(frames[0]))
        elif len(frames) > 3 and not frames[1]:  # request ids are never empty: the front says who asks
            self.take(bytes(frames[0]), frames[3:], bytes(frames[2]))
        else:
            self.take(bytes(frames[0]) if frames else b"", frames[1:])

    def caller(self, asked: Asked) -> Caller:
        return unpack_caller(asked.told_caller) if asked.told_caller else Caller(NATIVE)

    def _ended(self, _connection: StreamConnection, _why: str) -> None:
        self.all_gone()
        self._gone(self)

    def _transmit(self, client: bytes, frames: Frames) -> bool:
        waiting = self.connection.queued_bytes
        if waiting > QUEUED_BYTES_MAX and len(frames) > 2:
            full = ThrottlingQuotaExceeded(f"{waiting} bytes of answers wait for the front; try again")
            frames = [frames[0], codec.encode_error(full)]
        self.connection.send([client, *frames])
        return not self.connection.is_closed

    def _admit(self, client: bytes) -> KbrokerError | None:
        """The front has counted it already."""
        del client
        return None


class FrontDialler:
    """Keeps one FrontLink to the front that runs now; a new incarnation gets a new link."""

    def __init__(self, child: ChildContext, streams: Streams, serve: Serve) -> None:
        self._child = child
        self._streams = streams
        self._serve = serve
        self._link: FrontLink | None = None
        self._front_incarnation = 0
        self._is_closed = False

    def follow_peers(self) -> None:
        """The supervisor's table of processes has changed: dial a new front if there is one."""
        peer = self._child.peers.get(FRONT)
        if peer is None or peer.incarnation == self._front_incarnation:
            return
        self._front_incarnation = peer.incarnation
        link, self._link = self._link, None
        if link is not None:
            link.connection.close()  # what it holds is for clients of the dead front
        self._dial()

    def _link_ended(self, link: FrontLink) -> None:
        """A link has ended. Mostly the front has died and its successor is told of soon."""
        if link is self._link:
            self._link = None
            self._streams.loop.call_later(REDIAL_MS, self._dial)

    def close(self) -> None:
        """Send what the front takes at once, hang up."""
        self._is_closed = True
        if self._link is not None:
            self._link.connection.flush()
            self._link.connection.close()

    def _dial(self) -> None:
        if self._is_closed or self._link is not None:
            return
        child = self._child
        try:
            sock = dial_internal(child.config.runtime_dir / endpoints.BACKEND)
        except OSError:  # its backlog is full
            self._streams.loop.call_later(REDIAL_MS, self._dial)
            return
        name = identity(child.name, child.incarnation, self._front_incarnation)
        self._link = FrontLink(self._streams, sock, self._serve, child.config.native, self._link_ended)
        introduce(self._link.connection, name, child.secret)
