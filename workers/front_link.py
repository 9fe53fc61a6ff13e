"""A worker's or the coordinator's side of the front: dials in to its present incarnation."""

from __future__ import annotations

import zmq

from kbroker.wire import endpoints
from kbroker.wire.control import identity
from kbroker.workers.child import ChildContext
from kbroker.workers.doors import FrontLink, Serve
from kbroker.workers.loop import Loop

FRONT = "front"


class FrontDialler:
    """Keeps one FrontLink to the front that runs now; a new incarnation gets a new link."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], child: ChildContext, loop: Loop, serve: Serve) -> None:
        self._context = context
        self._child = child
        self._loop = loop
        self._serve = serve
        self._link: FrontLink | None = None
        self._front_incarnation = 0

    def follow_peers(self) -> None:
        """The supervisor's table of processes has changed: dial a new front if there is one."""
        peer = self._child.peers.get(FRONT)
        if peer is None or peer.incarnation == self._front_incarnation:
            return
        if self._link is not None:
            self._loop.remove_port(self._link)
            self._link.close()
        self._front_incarnation = peer.incarnation
        self._link = FrontLink(
            self._context,
            self._serve,
            identity(self._child.name, self._child.incarnation, peer.incarnation),
            endpoints.ipc(self._child.config.runtime_dir, endpoints.BACKEND),
            self._child.config.native,
        )
        self._loop.add_port(self._link)

    def close(self, linger_ms: int) -> None:
        """Hang up; what is not sent within `linger_ms` is dropped."""
        if self._link is not None:
            self._link.close(linger_ms)
