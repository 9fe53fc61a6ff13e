"""A front's or worker's side of the control channel: joins the coordinator, receives the catalog, acknowledges it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kbroker.errors import InvalidRequest
from kbroker.wire import endpoints
from kbroker.wire.control import (
    CatalogAck,
    CatalogUpdate,
    Join,
    KafkaForward,
    KafkaForwarded,
    Opened,
    decode_control,
    encode_control,
    identity,
)
from kbroker.wire.stream import ANSWER_LIMITS
from kbroker.workers.child import ChildContext
from kbroker.workers.internal_door import dial_internal, introduce
from kbroker.workers.stream_connection import StreamConnection, Streams

log = logging.getLogger(__name__)

COORDINATOR = "coordinator"
REDIAL_MS = 20
QUEUED_BYTES_MAX = 16 << 20
"""What a coordinator that reads nothing is kept of this process's messages; above it requests are refused."""


def _nothing() -> None:
    pass


class ControlLink:
    """Keeps one connection to the coordinator's present incarnation; a new incarnation gets a new connection."""

    def __init__(
        self, streams: Streams, child: ChildContext, join: Join, on_update: Callable[[CatalogUpdate], None]
    ) -> None:
        self._streams = streams
        self._child = child
        self._join = join
        self._on_update = on_update
        self._link: StreamConnection | None = None
        self._is_closed = False
        self.on_forwarded: Callable[[KafkaForwarded], None] = lambda _message: None
        self.on_lost: Callable[[], None] = _nothing
        """The connection has ended: what was asked on it will not be answered."""
        self.coordinator_incarnation = 0

    def follow_peers(self) -> None:
        """The supervisor's table of processes has changed: dial a new coordinator if there is one."""
        peer = self._child.peers.get(COORDINATOR)
        if peer is None or peer.incarnation == self.coordinator_incarnation:
            return
        self.coordinator_incarnation = peer.incarnation
        link, self._link = self._link, None
        if link is not None:
            link.close()  # what it holds is for the dead coordinator
        self._dial()

    @property
    def is_linked(self) -> bool:
        """Whether there is a coordinator to talk to."""
        return self._link is not None

    def send(self, message: CatalogAck | Opened | KafkaForward) -> bool:
        """Tell the coordinator. False: it was not sent, since there is no coordinator, or it takes nothing.

        What the coordinator does not get before it dies is lost; its successor sends the whole catalog again. An
        acknowledgement is always taken while there is a connection: there is one at most for each update.
        """
        link = self._link
        if link is None or (isinstance(message, KafkaForward) and link.queued_bytes >= QUEUED_BYTES_MAX):
            return False
        link.send([encode_control(message)])
        return True

    def close(self) -> None:
        """Send what the coordinator takes at once, drop the connection."""
        self._is_closed = True
        if self._link is not None:
            self._link.flush()
            self._link.close()

    def _dial(self) -> None:
        if self._is_closed or self._link is not None or not self.coordinator_incarnation:
            return
        child = self._child
        try:
            sock = dial_internal(child.config.runtime_dir / endpoints.CONTROL)
        except OSError:  # its backlog is full
            self._streams.loop.call_later(REDIAL_MS, self._dial)
            return
        self._link = link = StreamConnection(
            self._streams, sock, ANSWER_LIMITS, self._received, self._ended, is_peer=True
        )
        introduce(link, identity(child.name, child.incarnation, self.coordinator_incarnation), child.secret)
        link.send([encode_control(self._join)])

    def _ended(self, link: StreamConnection, why: str) -> None:
        """Mostly the coordinator has died, and its successor is told of soon."""
        if why:
            log.error("hung up on the coordinator: %s", why)
        if link is self._link:
            self._link = None
            self._streams.loop.call_later(REDIAL_MS, self._dial)
        self.on_lost()

    def _received(self, frames: list[memoryview]) -> None:
        try:
            message = decode_control(frames[-1] if frames else b"")
        except InvalidRequest as error:
            log.error("a message from the coordinator was dropped: %s", error)
            return
        # What an incarnation sent before it died says nothing about its successor.
        if isinstance(message, CatalogUpdate) and message.incarnation == self.coordinator_incarnation:
            self._on_update(message)
        elif isinstance(message, KafkaForwarded) and message.incarnation == self.coordinator_incarnation:
            self.on_forwarded(message)
