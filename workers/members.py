"""The coordinator's side of the control channel: which processes are there, and what they know of the catalog."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from kbroker.catalog.catalog import ALTERED, REMOVED, TOPICS, Catalog
from kbroker.catalog.store import ABSENT, Change
from kbroker.errors import InvalidRequest, KafkaStorageError, KbrokerError, RequestTimedOut
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
    process_named,
)
from kbroker.wire.messages import NodeInfo, PartitionInfo, TopicInfo
from kbroker.workers.child import ChildContext
from kbroker.workers.internal_door import InternalDoor
from kbroker.workers.loop import Loop, Timer
from kbroker.workers.stream_connection import StreamConnection, Streams

log = logging.getLogger(__name__)

MEMBER_QUEUED_BYTES_MAX = 64 << 20
"""What a process that reads nothing is kept of our messages. Above it we hang up; when it is there again it joins anew
and gets the whole catalog."""

OwnersReport = Callable[[dict[tuple[str, int], int], list[RemovedInfo]], None]


@dataclass(slots=True)
class Member:
    """A process that has joined."""

    join: Join
    connection: StreamConnection
    full_version: int
    """Of the whole catalog that it was sent: who acknowledges that knows of everything up to it."""


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
        streams: Streams,
        catalog: Catalog,
        report: OwnersReport,
    ) -> None:
        self._child = child
        self._loop: Loop = streams.loop
        self._catalog = catalog
        self._report = report
        self._members: dict[str, Member] = {}
        self._waiting: dict[int, Waiting] = {}
        self._version = 0
        self.internal_topics: dict[str, TopicInfo] = {}
        """What the coordinator leads itself: whoever joins is told of it."""
        self.on_forward: Callable[[str, KafkaForward], None] | None = None
        self._door = InternalDoor(streams, child.listeners["control"], child.secret, self._welcome)
        self._connections: set[StreamConnection] = set()

    def listen(self) -> None:
        """Let the other processes dial in."""
        self._door.listen()

    def close(self) -> None:
        """Stop listening, send what they take at once, hang up."""
        self._door.close()
        for connection in list(self._connections):
            connection.flush()
            connection.close()

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
        for member in list(self._members.values()):
            # One that cannot be told just now is missing until it has died, or has joined anew and done all there is.
            self._send(member, self._update(member.join.node, version, False, topics, gone))
        waiting.timer = self._loop.call_later(max(0, timeout_ms), lambda: self._time_out(version))
        self._settle(version)

    def announce_internal(self, name: str) -> None:
        """Tell everybody of an internal topic that is led now, or led anew."""
        self._version += 1
        for member in list(self._members.values()):
            topics = [self.internal_topics[name]]
            self._send(member, self._update(member.join.node, self._version, False, topics, []))

    # --- what the members send ---

    def _welcome(self, connection: StreamConnection, name: bytes) -> None:
        self._connections.add(connection)
        connection.on_end = self._ended
        connection.on_message = partial(self._received, connection, name)

    def _ended(self, connection: StreamConnection, why: str) -> None:
        self._connections.discard(connection)
        if why:
            log.error("hung up on a process at the control channel: %s", why)

    def _received(self, connection: StreamConnection, sender: bytes, frames: list[memoryview]) -> None:
        try:
            message = decode_control(frames[-1] if frames else b"")
        except InvalidRequest as error:
            log.error("a control message of %r was dropped: %s", sender, error)
            return
        if isinstance(message, Join):
            self._join(connection, sender, message)
            return
        name = process_named(sender)
        member = self._members.get(name)
        if member is None or member.connection is not connection or message.incarnation != member.join.incarnation:
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
            self._send(member, message)

    def _join(self, connection: StreamConnection, sender: bytes, join: Join) -> None:
        if sender != identity(join.name, join.incarnation, self._child.incarnation):
            if process_named(sender) != join.name:
                self._door.refuse(connection, f"{sender!r:.80} joins as {join.name:.80}")
            # Else meant for the coordinator that was here before; the sender dials this one as well.
            return
        peer = self._child.peers.get(join.name)
        if peer is not None and peer.incarnation > join.incarnation:
            return
        former = self._members.get(join.name)
        if former is None or former.join.incarnation != join.incarnation:
            # A new process serves nothing before it has the whole catalog. The same one, back after it was hung up on,
            # still serves what it knew.
            self._no_longer_missing(join.name)
        member = self._members[join.name] = Member(join, connection, self._version)
        topics = [topic_info(self._catalog, name) for name in self._catalog.topics]
        topics += self.internal_topics.values()
        self._send(member, self._update(join.node, self._version, True, topics, list(self._catalog.removed)))

    def _acknowledged(self, name: str, ack: CatalogAck) -> None:
        if ack.owned or ack.removed:
            self._report(_epochs(ack.owned), ack.removed)
        versions = [ack.version]
        if ack.version == self._members[name].full_version:
            versions = [version for version in self._waiting if version <= ack.version]
        for version in versions:
            waiting = self._waiting.get(version)
            if waiting is not None:
                waiting.missing.discard(name)
                waiting.failed.update(ack.failed)
                self._settle(version)

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

    def _send(self, member: Member, message: CatalogUpdate | KafkaForwarded) -> None:
        connection = member.connection
        if connection.queued_bytes > MEMBER_QUEUED_BYTES_MAX:
            connection.close(f"{member.join.name} has taken nothing of {connection.queued_bytes} bytes")
        connection.send([encode_control(message)])

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
