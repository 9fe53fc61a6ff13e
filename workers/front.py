"""The front: the door for native clients. Hands requests to the process that owns the partition, unopened.

It keeps nothing that must survive it: a copy of the catalog's placement, and which requests are on their way, so that
those of a process that dies are answered at once.
"""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import zmq

from kbroker.errors import (
    InvalidRequest,
    KbrokerError,
    LeaderNotAvailable,
    NotLeaderOrFollower,
    ThrottlingQuotaExceeded,
    UnknownTopicOrPartition,
)
from kbroker.wire import codec, endpoints
from kbroker.wire.control import CatalogAck, CatalogUpdate, Join, identity
from kbroker.wire.messages import Hello, HelloAnswer, Produce
from kbroker.wire.stream import ANSWER_LIMITS
from kbroker.workers.child import ChildContext
from kbroker.workers.control_link import COORDINATOR, ControlLink
from kbroker.workers.doors import LAST_WORDS_MS, REPEATED_BYTES_MAX, REPEATED_MAX, ZERO_COPY_BYTES, Asked, ClientDoor
from kbroker.workers.loop import READ, Loop
from kbroker.workers.stream_connection import StreamConnection, Streams

log = logging.getLogger(__name__)

BYTES_ON_THE_WAY_MAX = 128 << 20
"""Payload that may be under way to one process; above it clients are told to come again."""


class Link:
    """The stream of one process: requests out, answers in. `name` is the identity (see wire/control.py) that its first
    message tells, empty until then."""

    __slots__ = ("bytes_on_the_way", "connection", "name")

    def __init__(self) -> None:
        self.connection: StreamConnection
        self.name = b""
        self.bytes_on_the_way = 0
        """Of requests that it has not answered."""

    @property
    def process(self) -> str:
        """Whose it is: `worker-0`."""
        return self.name.partition(b":")[0].decode(errors="replace") or "a stranger"


class Backend:
    """The unix streams that workers and coordinator dial; on each, answers come back to be passed on unopened.

    `links`: by identity.
    """

    def __init__(
        self,
        streams: Streams,
        listener: socket.socket,
        pass_on: Callable[[Link, list[memoryview]], None],
        changed: Callable[[], None],
    ) -> None:
        self.links: dict[bytes, Link] = {}
        self._streams = streams
        self._listener = listener
        self._pass_on = pass_on
        self._changed = changed

    def listen(self) -> None:
        """Begin to accept."""
        self._streams.loop.add(self._listener.fileno(), READ, self._accept)

    def close(self) -> None:
        """Hang up on everybody."""
        for link in list(self.links.values()):
            link.connection.close()

    def _accept(self, _events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # gone again
            return
        sock.setblocking(False)
        link = Link()
        link.connection = StreamConnection(
            self._streams,
            sock,
            ANSWER_LIMITS,
            partial(self._introduced, link),
            lambda _connection, why: self._ended(link, why),
            is_peer=True,
        )

    def _introduced(self, link: Link, frames: list[memoryview]) -> None:
        name = bytes(frames[0]) if frames else b""
        if name in self.links or not name:
            link.connection.close("it does not say who it is")
            return
        link.name = name
        link.connection.on_message = partial(self._pass_on, link)
        self.links[name] = link
        self._changed()

    def _ended(self, link: Link, why: str) -> None:
        if why:
            log.error("hung up on %s at the backend: %s", link.process, why)
        if self.links.pop(link.name, None) is not None:
            self._changed()


NOWHERE: Final[tuple[Link | None, int]] = (None, 0)


class Front:
    """One front process. `run()` returns when the supervisor asks for the end."""

    def __init__(self, child: ChildContext) -> None:
        self.child = child
        self.config = child.config
        self.loop = Loop()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self.owners: dict[tuple[str, int], int] = {}
        self.topics: dict[str, int] = {}
        self.on_the_way: dict[tuple[bytes, bytes], tuple[Link, int]] = {}
        """By client and request id: what was handed over and not answered, to whom, and its size in bytes."""
        self._repeated: dict[bytes, Link] = {}
        """Where produce requests with these headers go: a producer sends the same with each batch of a partition."""
        self.has_catalog = False
        self.is_ready = False

        limits = self.config.native
        self.door = ClientDoor(self.context, self._serve, limits)
        child.bind(self.door.socket, endpoints.ipc(self.config.runtime_dir, endpoints.FRONT))
        listener = child.listeners.get("native")
        if listener is not None:
            host, port = listener.getsockname()[:2]
            child.bind(self.door.socket, f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}", "native")
        self.is_draining = False
        self.streams = Streams(self.loop)
        self.backend = Backend(self.streams, child.listeners["backend"], self._pass_on, self._links_changed)
        self.control = ControlLink(
            self.context, child, self.loop, Join(child.incarnation, child.name), self._update_catalog
        )

    def run(self) -> None:
        """Serve until told to end."""
        self.child.attach(self.loop)
        self.child.on_peers = self._follow_peers
        self.child.on_drain = self._drain
        self.loop.add_port(self.door)
        self.backend.listen()
        self.loop.at_turn_end(self.streams.flush, self.streams.unsent)
        self._follow_peers()
        self.loop.run()
        self.door.close(LAST_WORDS_MS)
        self.backend.close()
        self.control.close()
        self.context.term()

    def _drain(self) -> None:
        """Take nothing new; end when what is under way is answered."""
        self.is_draining = True
        if self.on_the_way:
            self.loop.call_later(5, self._drain)
        else:
            self.loop.stop()

    # --- requests ---

    def _serve(self, asked: Asked) -> None:
        try:
            link = self._repeated.get(asked.header)
            if link is not None:
                self._hand_over(asked, link)
                return
            fields = codec.unpack_request(asked.header)
            if fields["op"] == Hello.OP:
                codec.decode_request(fields)
                asked.answer(codec.encode_answer(hello_answer(self.child, node=-1)))
                return
            link = self._link_to(self._target(fields))
            self._hand_over(asked, link)
        except KbrokerError as error:
            asked.refuse(error)
        else:
            if fields["op"] == Produce.OP and len(asked.header) <= REPEATED_BYTES_MAX:
                if len(self._repeated) >= REPEATED_MAX:
                    self._repeated.clear()
                self._repeated[asked.header] = link

    def _target(self, fields: dict[str, Any]) -> str:
        partition = codec.route_of(fields)
        if partition is None:
            return COORDINATOR
        if not self.has_catalog:
            raise LeaderNotAvailable("the front has no catalog yet: the coordinator is starting")
        node = self.owners.get(partition)
        if node is None:
            raise UnknownTopicOrPartition(f"there is no partition {partition[0]:.80}-{partition[1]}")
        return f"worker-{node - 1}"

    def _link_to(self, target: str) -> Link:
        peer = self.child.peers.get(target)
        if peer is None:
            raise LeaderNotAvailable(f"{target} is not running")
        link = self.backend.links.get(self._identity_of(target, peer.incarnation))
        if link is None:
            raise LeaderNotAvailable(f"{target} is starting; try again")
        return link

    def _hand_over(self, asked: Asked, link: Link) -> None:
        if self.is_draining:
            raise NotLeaderOrFollower("the broker is stopping")
        _, client, request_id, header, payload = asked
        key = (client, request_id)
        if key in self.on_the_way:
            raise InvalidRequest(f"request id {request_id.hex()} is in use by a request not answered yet")
        size = len(header) + sum(map(len, payload))
        waiting = link.bytes_on_the_way
        if waiting and waiting + size > BYTES_ON_THE_WAY_MAX:
            raise ThrottlingQuotaExceeded(f"{link.process} has {waiting} bytes waiting; try again")
        link.connection.send([client, request_id, header, *payload])
        link.bytes_on_the_way = waiting + size
        self.on_the_way[key] = (link, size)

    def _identity_of(self, name: str, incarnation: int) -> bytes:
        return identity(name, incarnation, self.child.incarnation)

    # --- answers ---

    def _pass_on(self, link: Link, frames: list[memoryview]) -> None:
        client, request_id = key = bytes(frames[0]), bytes(frames[1])
        sent_to, size = self.on_the_way.get(key, NOWHERE)
        if sent_to is not link:
            return
        del self.on_the_way[key]
        link.bytes_on_the_way -= size
        lasting = self.streams.lasting
        # ZeroMQ copies the small ones at once.
        answer = [frame if len(frame) < ZERO_COPY_BYTES else lasting(frame) for frame in frames[2:]]
        self.door.send(client, [request_id, *answer])

    # --- what the others tell ---

    def _follow_peers(self) -> None:
        self.control.follow_peers()
        self._links_changed()

    def _links_changed(self) -> None:
        """Somebody has dialled in, or died: what was on the way to the dead is refused at once."""
        self._tell_ready()
        self._repeated.clear()
        links = self.backend.links
        for key, (link, _) in list(self.on_the_way.items()):
            if links.get(link.name) is not link:
                del self.on_the_way[key]
                client, request_id = key
                gone = NotLeaderOrFollower(f"{link.process} was restarted; try again")
                self.door.send(client, [request_id, codec.encode_error(gone)])

    def _update_catalog(self, update: CatalogUpdate) -> None:
        self._repeated.clear()
        if update.full:
            self.owners.clear()
            self.topics.clear()
        for removed in update.removed:
            for index in range(self.topics.pop(removed.name, 0)):
                self.owners.pop((removed.name, index), None)
        for topic in update.topics:
            self.topics[topic.name] = len(topic.partitions)
            for partition in topic.partitions:
                self.owners[topic.name, partition.partition] = partition.leader
        self.control.acknowledge(CatalogAck(self.child.incarnation, update.version))
        self.has_catalog = True
        self._tell_ready()

    def _tell_ready(self) -> None:
        """Ready is said once, when a request for anybody would find its way."""
        others = {
            self._identity_of(p.name, p.incarnation) for p in self.child.peers.values() if p.name != self.child.name
        }
        if self.has_catalog and not self.is_ready and self.backend.links.keys() >= others:
            self.is_ready = True
            self.child.ready("serving")


def hello_answer(child: ChildContext, node: int) -> HelloAnswer:
    """What a process says of itself to a client that has just connected."""
    limits = child.config.native
    return HelloAnswer(
        version=1,
        node=node,
        incarnation=child.incarnation,
        cluster_id=child.cluster_id,
        boot_id=child.boot_id,
        frame_bytes_max=limits.frame_bytes_max,
        frames_max=limits.frames_max,
        requests_in_flight_max=limits.requests_in_flight_max,
        bytes_in_flight_max=limits.bytes_in_flight_max,
    )


def main(child: ChildContext) -> None:
    """The front's process, after the fork."""
    gc.freeze()
    Front(child).run()
