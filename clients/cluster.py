"""The broker as one client sees it: links to its processes, metadata kept fresh, requests routed.

Requests go to the front, except that those for a partition take the owning worker's own endpoint when it lies on this
host. Not thread-safe and never blocking, except for `turn`, `connect` and `call`, which wait; a client that has
threads holds its lock around everything but `wait`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbroker.clients.arguments import one_server
from kbroker.clients.backoff import backoff_ms
from kbroker.clients.cluster_view import ClusterView
from kbroker.clients.fork_guard import ForkGuard
from kbroker.clients.link import Link, LinkState, NotSent, Payload, Reply
from kbroker.clients.single_user import SingleUser
from kbroker.clients.steps import Steps, T
from kbroker.clients.transport import Transport
from kbroker.clients.zmq_context import shared_context
from kbroker.errors import (
    BrokerUnavailable,
    ClientClosed,
    ConfigError,
    NetworkError,
    RequestError,
    RetriableError,
    UnknownTopicOrPartition,
)
from kbroker.types import TopicPartition, node_name
from kbroker.wire.endpoints import FRONT, SERVER_VARIABLE, UNIX, resolve_server, speaks_kafka
from kbroker.wire.messages import Metadata, MetadataAnswer, NodeInfo

log = logging.getLogger(__name__)

FRONT_GREETING_MS = 5_000
DIRECT_GREETING_MS = 2_000
REFUSED_MS = 1_500
FAR_MS = 1 << 50


def now_ms() -> int:
    """The clients' clock: monotonic milliseconds."""
    return time.monotonic_ns() // 1_000_000


def read_boot_id() -> str:
    """The id of this host's running kernel; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(slots=True)
class ClusterSettings:
    """How long to wait for what, in ms."""

    client_id: str = "kbroker-python"
    request_timeout_ms: int = 30_000
    retry_backoff_ms: int = 20
    retry_backoff_max_ms: int = 1_000
    metadata_max_age_ms: int = 300_000
    auto_create_topics: bool = False
    direct: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.client_id, str):
            raise ConfigError(f"client_id={self.client_id!r} is not valid: it must be a text")


class Cluster:
    """See the top of this file. `topics` are the names that metadata is asked for; `all_topics` asks for all.

    `client` is what it belongs to, for errors. One thread at a time uses it; `run` sees to that.
    """

    def __init__(self, server: str | None, settings: ClusterSettings, client: str = "client") -> None:
        self.endpoint = resolve_server(one_server(server))
        self.client = client
        self.settings = settings
        self.view = ClusterView()
        self.topics: set[str] = set()
        self.all_topics = False
        self.on_metadata: Callable[[], None] | None = None
        self.guard = ForkGuard()
        self.failure: RequestError | None = None  # why the front cannot be reached at the moment
        self._boot_id = read_boot_id()
        self.user = SingleUser(client, self.guard)
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None] | None] = {}
        self._links: list[Link] = []
        self._front: Link | None = None
        self._front_attempts = 0
        self._front_retry_ms = 0
        self._direct: dict[int, tuple[int, Link]] = {}  # node: incarnation that metadata told, link
        self._owners: dict[TopicPartition, Link] = {}  # until there is fresh metadata; the link may have died
        self._no_direct: dict[int, int] = {}  # node: incarnation whose own endpoint did not work
        self._metadata_wanted = True
        self._metadata_asked = False
        self._metadata_attempts = 0
        self._metadata_requests = 0
        self._metadata_answered = 0  # the newest request that was answered
        self._metadata_not_before_ms = 0
        self._metadata_at_ms = 0
        self._closed = False

    # --- requests ---

    def ask_front(
        self,
        request: Any,
        answer_class: type,
        on_reply: Callable[[Reply], None],
        *,
        timeout_ms: int | None = None,
    ) -> None:
        """Send a request to the front; `on_reply` is called once, with NetworkError when it is out of reach."""
        link = self.front()
        if link is None:
            on_reply(Reply(None, [], NotSent(f"{self.failure or self.endpoint + ' cannot be reached'}")))
            return
        timeout = self.settings.request_timeout_ms if timeout_ms is None else timeout_ms
        link.submit(request, answer_class, on_reply, deadline_ms=now_ms() + timeout)

    def ask_owner(
        self,
        topic_partition: TopicPartition,
        request: Any,
        answer_class: type,
        on_reply: Callable[[Reply], None],
        *,
        payload: Payload = (),
        timeout_ms: int | None = None,
    ) -> None:
        """As `ask_front`, for the process that owns the partition, by the shortest way."""
        link = self._owners.get(topic_partition)
        if link is None or not link.alive:
            if not self.can_reach(topic_partition):
                self.want_metadata()
                on_reply(Reply(None, [], NotSent(f"the owner of {topic_partition} cannot be reached")))
                return
            link = self._owners[topic_partition]
        timeout = self.settings.request_timeout_ms if timeout_ms is None else timeout_ms
        link.submit(request, answer_class, on_reply, deadline_ms=now_ms() + timeout, payload=payload)

    def can_reach(self, topic_partition: TopicPartition) -> bool:
        """Whether the partition's owner is known and a link to it is there or being made."""
        link = self._owners.get(topic_partition)
        if link is None or not link.alive:
            link = self.link_to(self.view.leader(topic_partition))
            if link is None:
                return False
            self._owners[topic_partition] = link
        return True

    def link_to(self, node: int) -> Link | None:
        """The shortest link to a node; None: the node is not known, or not even the front can be reached."""
        if node < 0:
            return None
        info = self.view.nodes.get(node)
        known = self._direct.get(node)
        if info is not None and known is not None and known[0] == info.incarnation:
            if known[1].alive:
                return known[1]
        elif info is not None and self._is_near(info):
            return self._new_direct(info)
        return self.front()

    def front(self) -> Link | None:
        """The link to the front, made anew after a back-off when it had died; None: wait."""
        if self._front is not None and self._front.alive:
            return self._front
        now = now_ms()
        if now < self._front_retry_ms or self._closed:
            return None
        self._front = self._new_link(self.endpoint, FRONT_GREETING_MS, now)
        return self._front if self._front.alive else None

    def reset_link(self, node: int, why: str) -> None:
        """Give up the link to a node; everything in flight on it fails and a new one is made when needed."""
        link = self.link_to(node)
        if link is not None:
            link.die(NetworkError(why))

    # --- metadata ---

    def want_metadata(self) -> None:
        """What is known may be out of date: ask again soon."""
        self._metadata_wanted = True

    @property
    def asking(self) -> bool:
        """Whether metadata is being asked for, or about to be."""
        return self._metadata_wanted or self._metadata_asked

    def add_topics(self, names: set[str]) -> None:
        """Ask for these topics too, from now on, and without delay."""
        if not names <= self.topics:
            self.topics |= names
            self._metadata_wanted = True
            self._metadata_not_before_ms = 0

    def _ask_metadata(self, now: int) -> None:
        names = None if self.all_topics else sorted(self.topics)
        self._metadata_wanted = False
        self._metadata_asked = True
        self._metadata_attempts += 1
        self._metadata_requests += 1
        number = self._metadata_requests
        self._metadata_not_before_ms = now + backoff_ms(
            self._metadata_attempts, self.settings.retry_backoff_ms, self.settings.retry_backoff_max_ms
        )

        def answered(reply: Reply) -> None:
            self._metadata_asked = False
            if reply.error is not None:
                self._metadata_wanted = True
                if not isinstance(reply.error, RetriableError):
                    self.failure = reply.error
                return
            self._metadata_at_ms = now_ms()
            self._metadata_answered = number
            self.view.update(reply.answer, names)
            self._owners.clear()
            if self._complete():
                self._metadata_attempts = 0
            else:
                self._metadata_wanted = True
            if self.on_metadata is not None:
                self.on_metadata()

        request = Metadata(topics=names, auto_create=self.settings.auto_create_topics)
        self.ask_front(request, MetadataAnswer, answered)

    def _complete(self) -> bool:
        """Whether every topic that we ask for is there, and an owner that runs for each partition."""
        topics, nodes = self.view.topics, self.view.nodes
        wanted = topics if self.all_topics else self.topics
        return all(name in topics and all(p.leader in nodes for p in topics[name].partitions) for name in wanted)

    # --- the loop ---

    def serve(self, now: int) -> bool:
        """Do everything that can be done without waiting. Whether anything happened: look again before sleeping."""
        happened = False
        for link in tuple(self._links):
            happened = link.serve(now) or happened
        if self._closed or self._metadata_asked:
            return happened
        if now - self._metadata_at_ms >= self.settings.metadata_max_age_ms:
            self._metadata_wanted = True
        if self._metadata_wanted and now >= self._metadata_not_before_ms:
            self._ask_metadata(now)
        return happened

    def next_due_ms(self) -> int:
        """When `serve` has something to do though nothing arrives."""
        if self._metadata_asked:
            due = FAR_MS  # the link that has the question looks after its deadline
        elif self._metadata_wanted:
            due = max(self._metadata_not_before_ms, self._front_retry_ms)
        else:
            # Older than it may be, but asked for in vain just now: the back-off holds, or this would be no wait at all.
            due = max(self._metadata_at_ms + self.settings.metadata_max_age_ms, self._metadata_not_before_ms)
        for link in self._links:
            link_due = link.next_due_ms()
            if link_due is not None and link_due < due:
                due = link_due
        return due

    def has_input(self) -> bool:
        """Whether `wait` would be wrong to sleep."""
        return any(link.has_input() for link in self._links)

    def wait(self, timeout_ms: int) -> None:
        """Sleep until a watched descriptor has something, at most so long; calls back what was watched.

        Raises ClientClosed when it was closed meanwhile, by a signal's handler.
        """
        try:
            events = self._epoll.poll(max(0, timeout_ms) / 1000)
        except (ValueError, OSError):
            if self._closed:
                raise ClientClosed(f"this {self.client} was closed") from None
            raise
        self.awoke(events)

    def awoke(self, events: list[tuple[int, int]]) -> None:
        """Call back what was watched: for who has slept on `sleeper` by himself."""
        for fd, _ in events:
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()

    def turn(self, timeout_ms: int) -> Steps[None]:
        """Serve; when nothing happened sleep until something does, at most `timeout_ms`, and serve again.

        Checks for a fork. Call it in a loop that looks each time whether what it waits for has come.
        """
        self.guard.check(self.client)
        now = now_ms()
        if self.serve(now):
            return
        wait_ms = 0 if self.has_input() else min(timeout_ms, self.next_due_ms() - now)
        if wait_ms > 0:
            yield wait_ms
            self.serve(now_ms())

    def run(self, steps: Steps[T]) -> T:
        """Go through the steps, sleeping in the caller's thread. Raises ConcurrentAccess while another is at it."""
        self.user.enter()
        try:
            while True:
                try:
                    self.wait(next(steps))
                except StopIteration as done:
                    outcome: T = done.value
                    return outcome
        finally:
            self.user.leave()

    def watch(self, fd: int, callback: Callable[[], None] | None = None) -> None:
        """Let `wait` end, and call back, when `fd` has input or was hung up."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; before it is closed."""
        if fd in self._callbacks:
            del self._callbacks[fd]
            with contextlib.suppress(OSError):  # closed already
                self._epoll.unregister(fd)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def is_used(self) -> bool:
        """Whether a connection was ever made."""
        return self._metadata_requests > 0

    @property
    def sleeper(self) -> select.epoll:
        """What `wait` sleeps on. It may be another after `recover`."""
        return self._epoll

    @property
    def fd(self) -> int:
        """Readable when `wait` would not sleep."""
        return self._epoll.fileno()

    # --- what waits ---

    def connect(self, timeout_ms: int) -> Steps[None]:
        """Wait for the greeting and the first metadata. Raises BrokerUnavailable naming the endpoint, RequestError.

        Where nobody listens at all, the wait is REFUSED_MS: a front that is being replaced is back by then.
        """
        start = now_ms()
        deadline = start + timeout_ms
        while self.view.version == 0:
            left = deadline - now_ms()
            if self._front_attempts and (self._front is None or not self._front.alive):
                left = min(left, start + REFUSED_MS - now_ms())
            if self.failure is not None and not isinstance(self.failure, RetriableError):
                raise self.failure
            if left <= 0:
                raise self._unavailable(timeout_ms)
            yield from self.turn(left)

    def fresh_metadata(self, timeout_ms: int) -> Steps[None]:
        """Ask for metadata now and wait for the answer. Raises BrokerUnavailable."""
        # An answer that is on its way was asked for before, perhaps without the topics that are wanted now.
        wanted = self._metadata_requests + 1
        deadline = now_ms() + timeout_ms
        self._metadata_wanted = True
        self._metadata_not_before_ms = 0
        while self._metadata_answered < wanted:
            left = deadline - now_ms()
            if left <= 0:
                raise self._unavailable(timeout_ms)
            yield from self.turn(left)

    def call(
        self,
        request: Any,
        answer_class: type,
        *,
        timeout_ms: int,
        owner_of: TopicPartition | None = None,
        repeatable: bool = True,
    ) -> Steps[Any]:
        """Ask and wait for the answer; retriable errors are tried again while there is time.

        A request that is not `repeatable` is not sent again once nobody knows whether it was acted on. Raises the
        answer's RequestError, BrokerUnavailable when no process could be reached.
        """
        deadline = now_ms() + timeout_ms
        attempt = 0
        while True:
            left = deadline - now_ms()
            reply = yield from self._call_once(request, answer_class, max(left, 1), owner_of)
            if reply.error is None:
                return reply.answer
            if not isinstance(reply.error, RetriableError):
                raise reply.error
            if owner_of is None and isinstance(reply.error, UnknownTopicOrPartition):
                raise reply.error  # the coordinator knows them all
            left = deadline - now_ms()
            network = isinstance(reply.error, NetworkError)
            if left <= 0:
                raise self._unavailable(timeout_ms, reply.error) if network else reply.error
            if network and not repeatable and not isinstance(reply.error, NotSent):
                raise BrokerUnavailable(f"{reply.error}; nobody knows whether {request.OP} was done: look, then decide")
            attempt += 1
            if owner_of is not None:
                self.want_metadata()
            yield from self.pause(min(left, backoff_ms(attempt, self.settings.retry_backoff_ms, 200)))

    def _call_once(
        self, request: Any, answer_class: type, timeout_ms: int, owner_of: TopicPartition | None
    ) -> Steps[Reply]:
        # Who waits for a shorter time than a request may take gives up alone: the link goes on.
        replies: list[Reply] = []
        if owner_of is None:
            self.ask_front(request, answer_class, replies.append)
        else:
            self.ask_owner(owner_of, request, answer_class, replies.append)
        deadline = now_ms() + timeout_ms
        while not replies:
            left = deadline - now_ms()
            if left <= 0:
                return Reply(None, [], NetworkError(f"{self.endpoint} did not answer {request.OP} in time"))
            yield from self.turn(left)
        return replies[0]

    def pause(self, pause_ms: int) -> Steps[None]:
        """Go on serving for so long."""
        until = now_ms() + pause_ms
        while (left := until - now_ms()) > 0:
            yield from self.turn(left)

    def close(self) -> None:
        """Close every link. In a forked child nothing of the parent's is touched."""
        if self._closed:
            return
        self._closed = True
        if self.guard.forked:
            return
        for link in tuple(self._links):
            link.close()
        # An interrupted call may have left a socket that no link knows: it closes when nothing refers to it any more.
        self._epoll.close()

    def drop(self, *, has_sleeper: bool = False) -> None:
        """Close every link at once, nobody is told and nothing waited for: for a finalizer, in whatever thread.

        `has_sleeper`: another thread sleeps on `sleeper`, which is closed when that thread has let go of it.
        """
        if self._closed:
            return
        self._closed = True
        if self.guard.forked:
            return
        for link in self._every_link():
            link.abandon()
        self._links, self._front, self._direct, self._owners, self._callbacks = [], None, {}, {}, {}
        if has_sleeper:
            del self._epoll
        else:
            self._epoll.close()

    def recover(self) -> None:
        """Begin anew with all connections: a call was interrupted in the middle, anywhere. What was asked is forgotten
        without a word; whoever asked knows."""
        for link in self._every_link():
            link.abandon()
        self._links = []
        self._front = None
        self._front_attempts = 0
        self._front_retry_ms = 0
        self._direct = {}
        self._owners = {}
        self._metadata_asked = False
        self._metadata_wanted = True
        self._metadata_not_before_ms = 0
        self._epoll.close()
        self._epoll = select.epoll()
        for fd in self._callbacks:
            self._epoll.register(fd, select.EPOLLIN)

    # --- inside ---

    def _every_link(self) -> set[Link]:
        links = {*self._links, *(link for _, link in self._direct.values())}
        return links if self._front is None else links | {self._front}

    def _unavailable(self, timeout_ms: int, last: RequestError | None = None) -> BrokerUnavailable:
        cause = self.failure or last
        why = f": {cause}" if cause is not None else ""
        if not self.view.version and speaks_kafka(self.endpoint):
            why = (
                ": that is a port for Kafka's clients; native ones, and kbroker's commands, take what the broker's "
                f"ready line says after {SERVER_VARIABLE}= (ipc://…/{FRONT}, or the address of native.listen)"
            )
        return BrokerUnavailable(f"no answer from {self.endpoint} (waited up to {timeout_ms} ms){why}")

    def _is_near(self, info: NodeInfo) -> bool:
        """Whether the node's own endpoint can be used from here."""
        if not self.settings.direct or not self._boot_id or self.view.boot_id != self._boot_id:
            return False
        if self._no_direct.get(info.node) == info.incarnation or not info.endpoint.startswith(UNIX):
            return False
        return os.access(info.endpoint[len(UNIX) :], os.R_OK | os.W_OK)

    def _new_direct(self, info: NodeInfo) -> Link | None:
        old = self._direct.pop(info.node, None)
        if old is not None:
            old[1].die(NetworkError(f"{node_name(info.node)} was restarted"))
        link = self._new_link(info.endpoint, DIRECT_GREETING_MS, now_ms(), info)
        if not link.alive:
            return self.front()
        self._direct[info.node] = (info.incarnation, link)
        return link

    def _new_link(self, endpoint: str, greeting_ms: int, now: int, info: NodeInfo | None = None) -> Link:
        link = Link(shared_context(), endpoint, self.settings.client_id, now_ms=now, greeting_timeout_ms=greeting_ms)
        if link.alive:
            self._links.append(link)
            for fd in link.transport.fds:
                self._epoll.register(fd, select.EPOLLIN)
            link.transport.on_blocked = functools.partial(self._watch_room, link.transport)
        if info is None:
            link.on_state = self._front_changed
        else:
            link.on_state = lambda changed: self._direct_changed(changed, info)
        if not link.alive:
            link.on_state(link)
        return link

    def _front_changed(self, link: Link) -> None:
        if link.state is LinkState.READY:
            if self._front_attempts > 1:
                log.info("%s is back", self.endpoint)
            self._front_attempts = 0
            self.failure = None
            return
        self._forget(link)
        if self._closed:
            return
        self._front_attempts += 1
        self.failure = link.error
        if self._front_attempts == 2 and self.view.version:  # before that, `connect` raises it
            log.warning("%s; trying again until it is back", link.error)
        first = self.settings.retry_backoff_ms
        self._front_retry_ms = now_ms() + (
            0 if self._front_attempts == 1 else backoff_ms(self._front_attempts - 1, first, 500)
        )
        self._metadata_wanted = True

    def _direct_changed(self, link: Link, info: NodeInfo) -> None:
        if link.state is LinkState.READY:
            if link.hello is not None and link.hello.node != info.node:
                link.die(NetworkError(f"{link.endpoint} is {node_name(link.hello.node)}, not {node_name(info.node)}"))
            return
        self._forget(link)
        self._no_direct[info.node] = info.incarnation
        self._metadata_wanted = True

    def _forget(self, link: Link) -> None:
        if link in self._links:
            self._links.remove(link)
            for fd in link.transport.fds:
                self._epoll.unregister(fd)

    def _watch_room(self, transport: Transport) -> None:
        """Wait for room to write, too, while a connection takes no more."""
        events = select.EPOLLIN | (select.EPOLLOUT if transport.is_blocked else 0)
        self._epoll.modify(transport.fds[0], events)
