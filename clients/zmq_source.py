"""Reads partitions by fetches over ZeroMQ: for each worker one that waits there for records, re-sent on its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kbroker.clients.backoff import backoff_ms
from kbroker.clients.cluster import Cluster, now_ms
from kbroker.clients.consumer_core import Cursor
from kbroker.clients.link import Link, Reply
from kbroker.errors import RequestError, ThrottlingQuotaExceeded, error_for
from kbroker.wire.messages import Credit, Fetch, FetchAnswer, FetchedPartition, FetchPartition

FETCHES_MAX = 3
"""For one worker: the one that waits, and those for partitions that were sought or resumed meanwhile."""
THROTTLED_MAX = 20
"""So many refusals in a row for bytes not taken mean that the two sides count differently: the link is made anew."""


class FetchLimits(NamedTuple):
    """What one fetch asks for at most, and how long it waits."""

    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    partition_bytes: int


class Flight(NamedTuple):
    """A fetch that is not answered."""

    node: int
    link: Link
    tickets: dict[Cursor, int]


class ZmqSource:
    """Sends fetches for cursors and hands what arrives to them; `on_error` hears what a partition's owner refused."""

    def __init__(
        self,
        cluster: Cluster,
        limits: FetchLimits,
        check_crcs: bool,
        on_error: Callable[[Cursor, RequestError, FetchedPartition | None], None],
    ) -> None:
        self._cluster = cluster
        self._limits = limits
        self._check_crcs = check_crcs
        self._on_error = on_error
        self._flights: list[Flight] = []
        self._throttled: dict[int, int] = {}

    def read(self, cursors: list[Cursor], now: int) -> None:
        """Fetch for those of these cursors that no fetch is on its way for."""
        flying = {cursor for flight in self._flights for cursor, t in flight.tickets.items() if cursor.ticket == t}
        by_node: dict[int, list[Cursor]] = {}
        for cursor in cursors:
            if cursor in flying:
                continue
            leader = self._cluster.view.leader(cursor.topic_partition)
            if leader < 0 or self._cluster.link_to(leader) is None:
                self._cluster.want_metadata()
                self._back_off(cursor, now)
                continue
            by_node.setdefault(leader, []).append(cursor)
        for node, several in by_node.items():
            if sum(flight.node == node for flight in self._flights) < FETCHES_MAX:
                self._fetch(node, several)

    def _fetch(self, node: int, cursors: list[Cursor]) -> None:
        link = self._cluster.link_to(node)
        assert link is not None
        limits = self._limits
        incarnation, received = link.credits.get(node, (0, 0))
        request = Fetch(
            [
                FetchPartition(
                    cursor.topic_partition.topic,
                    cursor.topic_partition.partition,
                    cursor.fetch_offset,
                    limits.partition_bytes,
                    cursor.fetch_epoch,
                    cursor.topic_id,
                )
                for cursor in cursors
            ],
            limits.max_wait_ms,
            limits.min_bytes,
            limits.max_bytes,
            Credit(incarnation, received),
        )
        flight = Flight(node, link, {cursor: cursor.ticket for cursor in cursors})
        self._flights.append(flight)
        deadline = now_ms() + limits.max_wait_ms + self._cluster.settings.request_timeout_ms
        link.submit(request, FetchAnswer, lambda reply: self._answered(flight, reply), deadline_ms=deadline)

    def _answered(self, flight: Flight, reply: Reply) -> None:
        self._flights.remove(flight)
        now = now_ms()
        current = [cursor for cursor, ticket in flight.tickets.items() if cursor.ticket == ticket]
        if reply.error is not None:
            self._refused(flight, current, reply.error, now)
            return
        self._throttled.pop(flight.node, None)
        answer: FetchAnswer = reply.answer
        self._count(flight, answer, sum(len(frame) for frame in reply.payload))
        cursors = {cursor.topic_partition: cursor for cursor in current}
        frames = iter(reply.payload)
        for fetched in answer.partitions:
            data = [next(frames, None) for _ in range(fetched.frames)]
            cursor = cursors.get((fetched.topic, fetched.partition))  # type: ignore[call-overload]  # equal tuples
            if cursor is not None:
                self._take(cursor, fetched, data[0] if data else None)

    def _take(self, cursor: Cursor, fetched: FetchedPartition, data: memoryview | None) -> None:
        if fetched.high_watermark >= 0:
            cursor.high_watermark = fetched.high_watermark
        if fetched.error or fetched.diverging_offset >= 0:
            self._on_error(cursor, error_for(fetched.error, fetched.message), fetched)
            return
        cursor.attempts = 0
        if data is not None and len(data):
            cursor.put(data, self._check_crcs)

    def _refused(self, flight: Flight, cursors: list[Cursor], error: RequestError, now: int) -> None:
        if isinstance(error, ThrottlingQuotaExceeded):
            count = self._throttled[flight.node] = self._throttled.get(flight.node, 0) + 1
            if count >= THROTTLED_MAX and not any(other.node == flight.node for other in self._flights):
                self._throttled.pop(flight.node)
                self._cluster.reset_link(flight.node, "the broker counts bytes as not taken that never came")
        for cursor in cursors:
            self._back_off(cursor, now)
            self._on_error(cursor, error, None)

    def _back_off(self, cursor: Cursor, now: int) -> None:
        cursor.attempts += 1
        settings = self._cluster.settings
        cursor.retry_at_ms = now + backoff_ms(cursor.attempts, settings.retry_backoff_ms, settings.retry_backoff_max_ms)

    @staticmethod
    def _count(flight: Flight, answer: FetchAnswer, size_bytes: int) -> None:
        incarnation, received = flight.link.credits.get(flight.node, (0, 0))
        before = received if incarnation == answer.incarnation else 0
        flight.link.credits[flight.node] = (answer.incarnation, before + size_bytes)
