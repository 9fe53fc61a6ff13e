"""The front: the door for native clients. Hands requests to the process that owns the partition, unopened.

It keeps nothing that must survive it: a copy of the catalog's placement, and which requests are on their way, so that
those of a process that dies are answered at once.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import zmq

from kbroker.errors import (
    InvalidRequest,
    KbrokerError,
    LeaderNotAvailable,
    NotLeaderOrFollower,
    RequestTimedOut,
    ThrottlingQuotaExceeded,
    UnknownTopicOrPartition,
)
from kbroker.wire import codec, endpoints
from kbroker.wire.control import CatalogAck, CatalogUpdate, Join, identity, process_named
from kbroker.wire.group_messages import GroupHeartbeat
from kbroker.wire.messages import Fetch, Hello, HelloAnswer, ListOffsets, Produce
from kbroker.workers.caller import pack_caller
from kbroker.workers.child import ChildContext
from kbroker.workers.client_door import LAST_WORDS_MS, ZERO_COPY_BYTES, ClientDoor
from kbroker.workers.control_link import COORDINATOR, ControlLink
from kbroker.workers.doors import REPEATED_BYTES_MAX, REPEATED_MAX, Asked
from kbroker.workers.internal_door import InternalDoor
from kbroker.workers.loop import Loop
from kbroker.workers.stream_connection import StreamConnection, Streams

log = logging.getLogger(__name__)

BYTES_ON_THE_WAY_MAX = 128 << 20
"""What may be under way to one process; above it clients are told to come again."""
REQUEST_BYTES = 512
"""What a request that is under way is counted with beside its own bytes: we remember it until it is answered."""
NOTICES_UP_TO_BYTES = 16 << 20
"""A process that leaves so much untaken is not told of clients that have gone: what waits for them ends by itself."""
ANSWER_WITHIN_MS = 300_000
"""A process that has not answered by then will not: no request waits that long. It is refused, retriable."""
OVERDUE_CHECK_MS = 5_000


class Link:
    """The stream of one process: requests out, answers in. `name`: its identity (see wire/control.py)."""

    __slots__ = ("bytes_on_the_way", "connection", "name")

    def __init__(self, connection: StreamConnection, name: bytes) -> None:
        self.connection = connection
        self.name = name
        self.bytes_on_the_way = 0
        """Of requests that it has not answered, REQUEST_BYTES each and their own."""

    @property
    def process(self) -> str:
        """Whose it is: `worker-0`."""
        return process_named(self.name)


class Backend:
    """The unix streams that workers and coordinator dial; on each, answers come back to be passed on unopened.

    `links`: by identity.
    """

    def __init__(
        self,
        streams: Streams,
        child: ChildContext,
        pass_on: Callable[[Link, list[memoryview]], None],
        changed: Callable[[], None],
    ) -> None:
        self.links: dict[bytes, Link] = {}
        self._pass_on = pass_on
        self._changed = changed
        self._door = InternalDoor(streams, child.listeners["backend"], child.secret, self._welcome)

    def listen(self) -> None:
        """Begin to accept."""
        self._door.listen()

    def close(self) -> None:
        """Accept nobody any more, hang up on everybody."""
        self._door.close()
        for link in list(self.links.values()):
            link.connection.close()

    def _welcome(self, connection: StreamConnection, name: bytes) -> None:
        if name in self.links:
            self._door.refuse(connection, f"{name!r:.80} is here already")
            return
        link = self.links[name] = Link(connection, name)
        connection.on_message = partial(self._pass_on, link)
        connection.on_end = partial(self._ended, link)
        self._changed()

    def _ended(self, link: Link, _connection: StreamConnection, why: str) -> None:
        if why:
            log.error("hung up on %s at the backend: %s", link.process, why)
        del self.links[link.name]
        self._changed()


OFTEN: Final = frozenset((Produce.OP, Fetch.OP, ListOffsets.OP, GroupHeartbeat.OP))
"""What changes nothing that the log tells of: who asks is not passed on with it."""
NOWHERE: Final[tuple[Link | None, int, int]] = (None, 0, 0)


class Front:
    """One front process. `run()` returns when the supervisor asks for the end."""

    def __init__(self, child: ChildContext) -> None:
        self.child = child
        self.config = child.config
        self.loop = Loop()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self.owners: dict[tuple[str, int], int] = {}
        self.topics: dict[str, int] = {}
        self.on_the_way: dict[tuple[bytes, bytes], tuple[Link, int, int]] = {}
        """By client and request id: what was handed over and not answered, to whom, how many bytes it is counted with,
        and when (in the checks of `_refuse_overdue` so far); the oldest first. What a client that has gone had asked
        stays until it is answered: it still counts."""
        self._checks = 0
        self._repeated: dict[bytes, Link] = {}
        """Where produce requests with these headers go: a producer sends the same with each batch of a partition."""
        self.has_catalog = False
        self.is_ready = False

        limits = self.config.native
        self.door = ClientDoor(self.context, self._serve, limits, self._client_gone)
        child.bind(self.door.socket, endpoints.ipc(self.config.runtime_dir, endpoints.FRONT))
        listener = child.listeners.get("native")
        if listener is not None:
            host, port = listener.getsockname()[:2]
            child.bind(self.door.socket, f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}", "native")
        self.is_draining = False
        self.streams = Streams(self.loop)
        self.backend = Backend(self.streams, child, self._pass_on, self._links_changed)
        self.control = ControlLink(self.streams, child, Join(child.incarnation, child.name), self._update_catalog)

    def run(self) -> None:
        """Serve until told to end."""
        self.child.attach(self.loop)
        self.child.on_peers = self._follow_peers
        self.child.on_drain = self._drain
        self.door.listen(self.loop)
        self.loop.call_every(OVERDUE_CHECK_MS, self._refuse_overdue)
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
                self.door.introduce(asked, codec.decode_request(fields).client_id)
                asked.answer(codec.encode_answer(hello_answer(self.child, node=-1)))
                return
            link = self._link_to(self._target(fields))
            self._hand_over(asked, link, () if fields["op"] in OFTEN else (b"", pack_caller(asked.caller)))
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

    def _hand_over(self, asked: Asked, link: Link, told: tuple[bytes, ...] = ()) -> None:
        """`told`: who asks, where its process may want to know."""
        if self.is_draining:
            raise NotLeaderOrFollower("the broker is stopping")
        _, client, request_id, header, payload, _ = asked
        key = (client, request_id)
        if key in self.on_the_way:
            raise InvalidRequest(f"request id {request_id.hex()} is in use by a request not answered yet")
        size = REQUEST_BYTES + len(header) + sum(map(len, payload))
        waiting = link.bytes_on_the_way
        if waiting and waiting + size > BYTES_ON_THE_WAY_MAX:
            raise ThrottlingQuotaExceeded(f"{link.process} has {waiting} bytes waiting; try again")
        link.connection.send([client, *told, request_id, header, *payload])
        link.bytes_on_the_way = waiting + size
        self.on_the_way[key] = (link, size, self._checks)

    def _client_gone(self, client: bytes) -> None:
        """Let the others know: what waits for that client need not wait any longer."""
        for link in self.backend.links.values():
            if link.connection.queued_bytes < NOTICES_UP_TO_BYTES:
                link.connection.send([client])

    def _identity_of(self, name: str, incarnation: int) -> bytes:
        return identity(name, incarnation, self.child.incarnation)

    # --- answers ---

    def _pass_on(self, link: Link, frames: list[memoryview]) -> None:
        if len(frames) < 2:
            link.connection.close(f"an answer has at least 2 frames (client, request id), not {len(frames)}")
            return
        client, request_id = key = bytes(frames[0]), bytes(frames[1])
        sent_to, size, _ = self.on_the_way.get(key, NOWHERE)
        if sent_to is not link:
            return
        del self.on_the_way[key]
        link.bytes_on_the_way -= size
        lasting = self.streams.lasting
        # ZeroMQ copies the small ones at once.
        answer = [frame if len(frame) < ZERO_COPY_BYTES else lasting(frame) for frame in frames[2:]]
        self.door.send(client, [request_id, *answer])

    def _refuse_overdue(self) -> None:
        """What was handed over too long ago is answered by us: its process never will."""
        self._checks += 1
        oldest = self._checks - ANSWER_WITHIN_MS // OVERDUE_CHECK_MS
        while self.on_the_way:
            key = next(iter(self.on_the_way))
            link, size, since = self.on_the_way[key]
            if since > oldest:
                break
            del self.on_the_way[key]
            link.bytes_on_the_way -= size
            late = RequestTimedOut(f"{link.process} has not answered within {ANSWER_WITHIN_MS // 1000} s; try again")
            self.door.send(key[0], [key[1], codec.encode_error(late)])

    # --- what the others tell ---

    def _follow_peers(self) -> None:
        self.control.follow_peers()
        self._links_changed()

    def _links_changed(self) -> None:
        """Somebody has dialled in, or died: what was on the way to the dead is refused at once."""
        self._tell_ready()
        self._repeated.clear()
        links = self.backend.links
        for key, (link, _, _) in list(self.on_the_way.items()):
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
        self.control.send(CatalogAck(self.child.incarnation, update.version))
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
