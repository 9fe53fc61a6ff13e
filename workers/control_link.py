"""A front's or worker's side of the control channel: joins the coordinator, receives the catalog, acknowledges it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import zmq

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
from kbroker.workers.child import ChildContext
from kbroker.workers.doors import PeerSocket
from kbroker.workers.loop import Loop

log = logging.getLogger(__name__)

COORDINATOR = "coordinator"


class ControlLink:
    """Keeps one connection to the coordinator's present incarnation; a new incarnation gets a new connection."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        child: ChildContext,
        loop: Loop,
        join: Join,
        on_update: Callable[[CatalogUpdate], None],
    ) -> None:
        self._context = context
        self._child = child
        self._loop = loop
        self._join = join
        self._on_update = on_update
        self._link: PeerSocket | None = None
        self.on_forwarded: Callable[[KafkaForwarded], None] = lambda _message: None
        self.coordinator_incarnation = 0

    def follow_peers(self) -> None:
        """The supervisor's table of processes has changed: dial a new coordinator if there is one."""
        peer = self._child.peers.get(COORDINATOR)
        if peer is None or peer.incarnation == self.coordinator_incarnation:
            return
        self.close()
        self.coordinator_incarnation = peer.incarnation
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IDENTITY, identity(self._child.name, self._child.incarnation, peer.incarnation))
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        socket.connect(endpoints.ipc(self._child.config.runtime_dir, endpoints.CONTROL))
        self._link = PeerSocket(socket, self._receive)
        self._loop.add_port(self._link)
        self._link.send([encode_control(self._join)])

    @property
    def is_linked(self) -> bool:
        """Whether there is a coordinator to talk to."""
        return self._link is not None and COORDINATOR in self._child.peers

    def acknowledge(self, message: CatalogAck | Opened | KafkaForward) -> None:
        """Tell the coordinator; lost when it is dead, but then its successor sends the whole catalog again."""
        if self._link is not None:
            self._link.send([encode_control(message)])

    def close(self) -> None:
        """Drop the connection."""
        if self._link is not None:
            self._loop.remove_port(self._link)
            self._link.close()
            self._link = None

    def _receive(self, frames: list[bytes]) -> None:
        try:
            message = decode_control(frames[-1])
        except InvalidRequest as error:
            log.error("a message from the coordinator was dropped: %s", error)
            return
        # What an incarnation sent before it died says nothing about its successor.
        if isinstance(message, CatalogUpdate) and message.incarnation == self.coordinator_incarnation:
            self._on_update(message)
        elif isinstance(message, KafkaForwarded) and message.incarnation == self.coordinator_incarnation:
            self.on_forwarded(message)
