"""The coordinator's side of the control channel: which processes are there, and what they know of the catalog."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from kbroker.catalog.catalog import ALTERED, REMOVED, TOPICS, Catalog
from kbroker.catalog.store import ABSENT, Change
from kbroker.errors import InvalidRequest, KafkaStorageError, KbrokerError, RequestTimedOut
from kbroker.wire import endpoints
from kbroker.wire.control import (
    CatalogAck,
    CatalogUpdate,
    Join,
    KafkaForward,
    KafkaForwarded,
    Opened,
    OwnedPartition,
    RemovedInfo,
    decode_control,
    encode_control,
    identity,
)
from kbroker.wire.messages import NodeInfo, PartitionInfo, TopicInfo
from kbroker.workers.child import ChildContext
from kbroker.workers.doors import PeerSocket
from kbroker.workers.loop import Loop, Timer

log = logging.getLogger(__name__)

OwnersReport = Callable[[dict[tuple[str, int], int], list[RemovedInfo]], None]


@dataclass(slots=True)
class Member:
    """A process that has joined. `node` -1 for the front."""

    join: Join
    known_version: int


@dataclass(slots=True)
class Waiting:
    """A change that is answered when every process in `missing` has acknowledged its version."""

    done: Callable[[KbrokerError | None], None]
    missing: set[str]
    failed: dict[str, str] = field(default_factory=dict)
    timer: Timer | None = None


class Members:
    """Sends the catalog to those who join and every change to all, and notices when all have acknowledged it."""

    def __init__(
        self,
        child: ChildContext,
        loop: Loop,
        context: zmq.Context[zmq.Socket[bytes]],
        catalog: Catalog,
        report: OwnersReport,
    ) -> None:
        self._child = child
        self._loop = loop
        self._catalog = catalog
        self._report = report
        self._members: dict[str, Member] = {}
        self._waiting: dict[int, Waiting] = {}
        self._version = 0
        self.internal_topics: dict[str, TopicInfo] = {}
        """What the coordinator leads itself: whoever joins is told of it."""
        self.on_forward: Callable[[str, KafkaForward], None] | None = None
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.SNDHWM, 0)
        self._port = PeerSocket(socket, self._receive)

    def listen(self) -> None:
        """Let the other processes dial in."""
        self._child.bind(self._port.socket, endpoints.ipc(self._child.config.runtime_dir, endpoints.CONTROL))
        self._loop.add_port(self._port)

    def close(self) -> None:
        """Stop listening."""
        self._port.close()

    def nodes(self) -> list[NodeInfo]:
        """The workers that have joined."""
        return [
            NodeInfo(member.join.node, member.join.incarnation, member.join.endpoint, member.join.shm_path)
            for member in sorted(self._members.values(), key=lambda member: member.join.node)
            if member.join.node > 0
        ]

    def follow_peers(self) -> None:
        """Forget the processes that have died; nobody waits for them any longer."""
        for name, member in list(self._members.items()):
            peer = self._child.peers.get(name)
            if peer is None or peer.incarnation > member.join.incarnation:
                del self._members[name]
                self._no_longer_missing(name)

    def broadcast(self, changes: list[Change], done: Callable[[KbrokerError | None], None], timeout_ms: int) -> None:
        """Tell everybody what has changed; `done(None)` follows when all that live have acknowledged it.

        `done(RequestTimedOut)` comes after `timeout_ms` (the change stands all the same), `done(KafkaStorageError)`
        when an owner could not do its part.
        """
        self._version += 1
        version = self._version
        names = [change.key.removeprefix(TOPICS) for change in changes if change.key.startswith(TOPICS)]
        topics = [topic_info(self._catalog, name) for name in names if name in self._catalog.topics]
        gone = [
            bytes.fromhex(change.key.removeprefix(REMOVED))
            for change in changes
            if change.key.startswith(REMOVED) and change.expected == ABSENT
        ]
        altered = any(change.key.startswith(ALTERED) for change in changes)
        if not topics and not gone and not altered:
            done(None)
            return
        waiting = self._waiting[version] = Waiting(done, set(self._members))
        for name, member in list(self._members.items()):
            if not self._send(member, self._update(member.join.node, version, False, topics, gone)):
                waiting.missing.discard(name)
        waiting.timer = self._loop.call_later(max(0, timeout_ms), lambda: self._time_out(version))
        self._settle(version)

    def announce_internal(self, name: str) -> None:
        """Tell everybody of an internal topic that is led now, or led anew."""
        self._version += 1
        for member in self._members.values():
            topics = [self.internal_topics[name]]
            self._send(member, self._update(member.join.node, self._version, False, topics, []))

    # --- what the members send ---

    def _receive(self, frames: list[bytes]) -> None:
        sender = frames[0]
        try:
            message = decode_control(frames[-1])
        except InvalidRequest as error:
            log.error("a control message of %r was dropped: %s", sender, error)
            return
        if isinstance(message, Join):
            self._join(sender, message)
            return
        name = sender.partition(b":")[0].decode("utf-8", "replace")
        member = self._members.get(name)
        if member is None or sender != identity(name, message.incarnation, self._child.incarnation):
            return
        if member.join.incarnation != message.incarnation:
            return
        if isinstance(message, CatalogAck):
            self._acknowledged(name, message)
        elif isinstance(message, Opened):
            self._report(_epochs(message.owned), [])
        elif isinstance(message, KafkaForward) and self.on_forward is not None:
            self.on_forward(name, message)

    def send_to(self, name: str, message: KafkaForwarded) -> None:
        """To one process, if it is still there."""
        member = self._members.get(name)
        if member is not None:
            receiver = identity(member.join.name, member.join.incarnation, self._child.incarnation)
            self._port.send([receiver, encode_control(message)])

    def _join(self, sender: bytes, join: Join) -> None:
        if sender != identity(join.name, join.incarnation, self._child.incarnation):
            # Meant for the coordinator that was here before; the sender dials this one as well.
            log.debug("%r joins as %s of incarnation %d: dropped", sender, join.name, join.incarnation)
            return
        peer = self._child.peers.get(join.name)
        if peer is not None and peer.incarnation > join.incarnation:
            return
        self._no_longer_missing(join.name)
        member = self._members[join.name] = Member(join, self._version)
        topics = [topic_info(self._catalog, name) for name in self._catalog.topics]
        topics += self.internal_topics.values()
        self._send(member, self._update(join.node, self._version, True, topics, list(self._catalog.removed)))

    def _acknowledged(self, name: str, ack: CatalogAck) -> None:
        if ack.owned or ack.removed:
            self._report(_epochs(ack.owned), ack.removed)
        waiting = self._waiting.get(ack.version)
        if waiting is not None:
            waiting.missing.discard(name)
            waiting.failed.update(ack.failed)
            self._settle(ack.version)

    # --- what is sent ---

    def _update(self, node: int, version: int, full: bool, topics: list[TopicInfo], gone: list[bytes]) -> CatalogUpdate:
        removed = []
        for topic_id in gone:
            topic = self._catalog.removed.get(topic_id)
            if topic is not None:
                own = [index for index, leader in enumerate(topic.leaders) if leader == node]
                removed.append(RemovedInfo(topic.name, topic_id, own))
        altered = self._catalog.altered_for(node)
        return CatalogUpdate(self._child.incarnation, version, full, topics, removed, self.nodes(), altered)

    def _send(self, member: Member, update: CatalogUpdate) -> bool:
        receiver = identity(member.join.name, member.join.incarnation, self._child.incarnation)
        return self._port.send([receiver, encode_control(update)])

    # --- who is still missing ---

    def _no_longer_missing(self, name: str) -> None:
        for version, waiting in list(self._waiting.items()):
            waiting.missing.discard(name)
            self._settle(version)

    def _settle(self, version: int) -> None:
        waiting = self._waiting.get(version)
        if waiting is None or waiting.missing:
            return
        del self._waiting[version]
        if waiting.timer is not None:
            waiting.timer.cancel()
        if waiting.failed:
            reasons = "; ".join(f"{place}: {why}" for place, why in waiting.failed.items())
            waiting.done(KafkaStorageError(reasons))
        else:
            waiting.done(None)

    def _time_out(self, version: int) -> None:
        waiting = self._waiting.pop(version, None)
        if waiting is not None:
            who = ", ".join(sorted(waiting.missing))
            waiting.done(RequestTimedOut(f"the change is made, but {who} did not acknowledge it in time"))


def _epochs(owned: list[OwnedPartition]) -> dict[tuple[str, int], int]:
    return {(partition.topic, partition.partition): partition.leader_epoch for partition in owned}


def topic_info(catalog: Catalog, name: str) -> TopicInfo:
    """A topic as clients and processes are told of it. Raises UnknownTopicOrPartition."""
    topic = catalog.topic(name)
    partitions = [
        PartitionInfo(index, partition.leader, partition.leader_epoch)
        for index, partition in enumerate(topic.partitions)
    ]
    return TopicInfo(name, topic_id=topic.topic_id, partitions=partitions, settings=topic.settings)
