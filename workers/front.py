"""The front: the door for native clients. Hands requests to the process that owns the partition, unopened.

It keeps nothing that must survive it: a copy of the catalog's placement, and which requests are on their way, so that
those of a process that dies are answered at once.
"""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

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
from kbroker.wire.frames import receivable, receive
from kbroker.wire.messages import Hello, HelloAnswer
from kbroker.workers.child import ChildContext
from kbroker.workers.control_link import COORDINATOR, ControlLink
from kbroker.workers.doors import LAST_WORDS_MS, TURN_MESSAGES, Asked, ClientDoor, send_frames
from kbroker.workers.loop import Loop

log = logging.getLogger(__name__)

BYTES_ON_THE_WAY_MAX = 128 << 20
"""Payload that may be under way to one process; above it clients are told to come again."""


class OnTheWay(NamedTuple):
    """A request that was handed over and not answered yet."""

    asked: Asked
    target: str
    incarnation: int
    size_bytes: int


class Backend:
    """The ROUTER that the other processes dial; their answers pass through as frames, unopened."""

    def __init__(self, socket: zmq.Socket[bytes], pass_on: Callable[[list[zmq.Frame]], None]) -> None:
        self.socket = socket
        self._pass_on = pass_on

    def drain(self) -> None:
        """Pass on the answers that wait, at most a turn's worth."""
        for _ in range(TURN_MESSAGES):
            try:
                frames = receive(self.socket)
            except zmq.Again:
                return
            self._pass_on(frames)
            if not receivable(self.socket):
                return


class Front:
    """One front process. `run()` returns when the supervisor asks for the end."""

    def __init__(self, child: ChildContext) -> None:
        self.child = child
        self.config = child.config
        self.loop = Loop()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self.owners: dict[tuple[str, int], int] = {}
        self.topics: dict[str, int] = {}
        self.on_the_way: dict[tuple[bytes, bytes], OnTheWay] = {}
        self.bytes_to: Counter[str] = Counter()
        self.has_catalog = False
        self.linked: set[bytes] = set()
        self.is_ready = False

        limits = self.config.native
        self.door = ClientDoor(self.context, self._serve, limits)
        child.bind(self.door.socket, endpoints.ipc(self.config.runtime_dir, endpoints.FRONT))
        listener = child.listeners.get("native")
        if listener is not None:
            host, port = listener.getsockname()[:2]
            child.bind(self.door.socket, f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}", "native")
        self.is_draining = False
        self.backend = Backend(self._bind_backend(), self._pass_on)
        self.control = ControlLink(
            self.context, child, self.loop, Join(child.incarnation, child.name), self._update_catalog
        )

    def _bind_backend(self) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # Bounded here by BYTES_ON_THE_WAY_MAX and the requests in flight of each client, so not by ZeroMQ as well.
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        self.child.bind(socket, endpoints.ipc(self.config.runtime_dir, endpoints.BACKEND))
        return socket

    def run(self) -> None:
        """Serve until told to end."""
        self.child.attach(self.loop)
        self.child.on_peers = self._follow_peers
        self.child.on_drain = self._drain
        self.loop.add_port(self.door)
        self.loop.add_port(self.backend)
        self._follow_peers()
        self.loop.run()
        self.door.close(LAST_WORDS_MS)
        self.backend.socket.close(linger=0)
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
            fields = codec.unpack_request(asked.header)
            if fields["op"] == Hello.OP:
                codec.decode_request(fields)
                asked.answer(codec.encode_answer(hello_answer(self.child, node=-1)))
                return
            if self.is_draining:
                raise NotLeaderOrFollower("the broker is stopping")
            self._hand_over(asked, self._target(fields))
        except KbrokerError as error:
            asked.refuse(error)

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

    def _hand_over(self, asked: Asked, target: str) -> None:
        peer = self.child.peers.get(target)
        if peer is None:
            raise LeaderNotAvailable(f"{target} is not running")
        key = (asked.client, asked.request_id)
        if key in self.on_the_way:
            raise InvalidRequest(f"request id {asked.request_id.hex()} is in use by a request not answered yet")
        size = len(asked.header) + sum(len(frame) for frame in asked.payload)
        if self.bytes_to[target] and self.bytes_to[target] + size > BYTES_ON_THE_WAY_MAX:
            raise ThrottlingQuotaExceeded(f"{target} has {self.bytes_to[target]} bytes waiting; try again")
        frames: list[bytes | memoryview | zmq.Frame] = [
            self._identity_of(target, peer.incarnation), asked.client, asked.request_id, asked.header, *asked.payload,
        ]  # fmt: skip
        if not send_frames(self.backend.socket, frames):
            raise LeaderNotAvailable(f"{target} is starting; try again")
        # The payload is ZeroMQ's now; keeping its frames here would keep the memory.
        self.on_the_way[key] = OnTheWay(asked._replace(payload=[]), target, peer.incarnation, size)
        self.bytes_to[target] += size

    def _identity_of(self, name: str, incarnation: int) -> bytes:
        return identity(name, incarnation, self.child.incarnation)

    def _forget(self, key: tuple[bytes, bytes]) -> OnTheWay | None:
        passing = self.on_the_way.pop(key, None)
        if passing is not None:
            self.bytes_to[passing.target] -= passing.size_bytes
        return passing

    # --- answers ---

    def _pass_on(self, frames: list[zmq.Frame]) -> None:
        if len(frames) < 4:
            self.linked.add(frames[0].bytes)
            self._tell_ready()
            return
        sender, client, request_id = frames[0].bytes, frames[1].bytes, frames[2].bytes
        passing = self.on_the_way.get((client, request_id))
        if passing is None or sender != self._identity_of(passing.target, passing.incarnation):
            return
        self._forget((client, request_id))
        passing.asked.door.send(client, frames[2:])

    # --- what the others tell ---

    def _follow_peers(self) -> None:
        self.control.follow_peers()
        self.linked &= {self._identity_of(peer.name, peer.incarnation) for peer in self.child.peers.values()}
        self._tell_ready()
        for key, passing in list(self.on_the_way.items()):
            peer = self.child.peers.get(passing.target)
            if peer is None or peer.incarnation != passing.incarnation:
                self._forget(key)
                passing.asked.refuse(NotLeaderOrFollower(f"{passing.target} was restarted; try again"))

    def _update_catalog(self, update: CatalogUpdate) -> None:
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
        if self.has_catalog and not self.is_ready and self.linked >= others:
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
