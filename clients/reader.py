"""What a consumer reads with: for each partition shared memory where possible, else fetches; and what errors mean.

Core of the Consumer and of its asyncio twin to come: nothing here waits, except for a descriptor from a worker.
"""

from __future__ import annotations

import logging

from kbroker.clients.backoff import backoff_ms
from kbroker.clients.cluster import Cluster, now_ms, read_boot_id
from kbroker.clients.consumer_core import RESET_TIMESTAMPS, ConsumerCore, Cursor
from kbroker.clients.consumer_options import ConsumerOptions
from kbroker.clients.offset_lookup import ask_offsets
from kbroker.clients.seldom import Seldom
from kbroker.clients.shm_source import ShmSource
from kbroker.clients.zmq_source import FetchLimits, ZmqSource
from kbroker.errors import (
    CorruptMessage,
    CorruptRecord,
    KbrokerError,
    LogTruncated,
    NetworkError,
    OffsetOutOfRange,
    RequestError,
    RetriableError,
    UnknownTopicId,
    UnknownTopicOrPartition,
)
from kbroker.types import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, TopicPartition
from kbroker.wire.messages import FetchedPartition, OffsetFound

log = logging.getLogger(__name__)

SERVE_MS = 100
"""While shared memory gives enough, the sockets are looked at so often."""


class Reader:
    """Keeps the cursors of a ConsumerCore supplied."""

    def __init__(self, cluster: Cluster, core: ConsumerCore, options: ConsumerOptions) -> None:
        self._cluster = cluster
        self._core = core
        self._options = options
        self._ahead_bytes = options.max_partition_fetch_bytes
        limits = FetchLimits(
            options.fetch_max_wait_ms,
            options.fetch_min_bytes,
            options.fetch_max_bytes,
            options.max_partition_fetch_bytes,
        )
        self._zmq = ZmqSource(cluster, limits, options.check_crcs, self._fetch_failed)
        self._shm: ShmSource | None = None
        self._why_not = "transport='zmq' was asked for"
        self._seldom = Seldom(log)
        self._served_ms = 0
        self._by_zmq = False
        if options.transport != "zmq":
            self._why_not = ""
            self._shm = ShmSource(
                cluster,
                read_boot_id(),
                options.max_partition_fetch_bytes,
                options.isolation_level == "read_committed",
                options.check_crcs,
                self._failed,
                insists=options.transport == "shm",
            )

    @property
    def transport(self) -> str:
        """`shm` when every assigned partition is read that way, else `zmq`."""
        if self._shm is None:
            return "zmq"
        if self._options.transport == "shm":
            return "shm"
        owned = [c for c in tuple(self._core.cursors.values()) if self._cluster.view.leader(c.topic_partition) >= 0]
        return "shm" if all(self._shm.serves(cursor) for cursor in owned) else "zmq"

    @property
    def reason(self) -> str:
        """Why not shared memory; empty when it is used."""
        if self.transport == "shm":
            return ""
        return self._why_not or (self._shm.reason if self._shm is not None else "")

    def gather(self, now: int) -> bool:
        """Read what can be had without waiting. False: there is nothing to give out, `sleep`."""
        shm = self._shm
        cursors = self._core.wanting(now, self._ahead_bytes)
        by_zmq: list[Cursor] = []
        if shm is None:
            by_zmq = cursors
        else:
            by_shm = cursors
            if self._options.transport != "shm":
                by_shm = []
                for cursor in cursors:
                    (by_shm if shm.serves(cursor) else by_zmq).append(cursor)
            if shm.read(by_shm, now) and not by_zmq and now - self._served_ms < SERVE_MS:
                self._by_zmq = False
                return True  # the sockets can wait
        return self._serve(by_zmq, now) or self._core.has_ready()

    def keep_going(self, now: int) -> None:
        """While there is enough to give out: keep fetches on their way and metadata fresh, cheaply."""
        # Each look costs something for every partition; a look for every batch would cost more than the batches.
        pause_ms = 1 + len(self._core.cursors) // 50 if self._by_zmq else SERVE_MS
        if now - self._served_ms >= pause_ms:
            by_zmq = [
                cursor
                for cursor in self._core.wanting(now, self._ahead_bytes)
                if self._shm is None or (self._options.transport != "shm" and not self._shm.serves(cursor))
            ]
            self._serve(by_zmq, now)

    def _serve(self, by_zmq: list[Cursor], now: int) -> bool:
        """Do all that can be done with the sockets, and fetch for these. Whether anything happened."""
        if self._shm is not None:
            self._shm.dispatch(now)
        if by_zmq:
            self._zmq.read(by_zmq, now)
        self._by_zmq = bool(by_zmq)
        self._look_up(now)
        self._served_ms = now
        return self._cluster.serve(now)

    def rest_ms(self, timeout_ms: int) -> int:
        """For how long the caller may sleep on the cluster's descriptors, at most `timeout_ms`; 0: not at all."""
        now = now_ms()
        cluster = self._cluster
        if cluster.has_input() or (
            self._shm is not None and not self._shm.arm(self._core.wanting(now, self._ahead_bytes), now)
        ):
            return 0
        until = min(now + timeout_ms, cluster.next_due_ms())
        for retry_ms in (
            self._core.next_retry_ms(now),
            self._shm.next_retry_ms(now) if self._shm is not None else None,
        ):
            if retry_ms is not None:
                until = min(until, retry_ms)
        return until - now

    def high_watermark(self, cursor: Cursor) -> int:
        """As last heard of; -1: never."""
        newest = self._shm.facts_of(cursor) if self._shm is not None else -1
        return max(newest, cursor.high_watermark)

    def forget(self) -> None:
        """The assignment has changed."""
        if self._shm is not None:
            self._shm.forget(set(self._core.cursors.values()))

    def close(self) -> None:
        """Close the connections for shared memory."""
        if self._shm is not None:
            self._shm.close()

    # --- what errors mean ---

    def _fetch_failed(self, cursor: Cursor, error: RequestError, fetched: FetchedPartition | None) -> None:
        if fetched is not None and fetched.diverging_offset >= 0:
            self._failed(cursor, LogTruncated(cursor.topic_partition, cursor.now_at(), fetched.diverging_offset))
        else:
            self._failed(cursor, error)

    def _failed(self, cursor: Cursor, error: KbrokerError) -> None:
        if isinstance(error, (LogTruncated, OffsetOutOfRange)) and cursor.batches:
            return  # what was read ahead comes first; it is asked again from there
        now = now_ms()
        if isinstance(error, OffsetOutOfRange):
            self._out_of_range(cursor, error, now)
        elif isinstance(error, CorruptMessage):
            cursor.fault = CorruptRecord(cursor.topic_partition, cursor.fetch_offset, -1, error)
        elif isinstance(error, RetriableError) and not isinstance(error, UnknownTopicId):
            self._try_again(cursor, error, now)
        elif isinstance(error, UnknownTopicId):
            self._cluster.want_metadata()
            self._try_again(cursor, error, now)
        else:
            cursor.fault = error

    def _try_again(self, cursor: Cursor, error: RetriableError, now: int) -> None:
        if not isinstance(error, NetworkError) or cursor.retry_at_ms <= now:
            cursor.attempts += 1
            settings = self._cluster.settings
            cursor.retry_at_ms = now + backoff_ms(
                cursor.attempts, settings.retry_backoff_ms, settings.retry_backoff_max_ms
            )
        if cursor.attempts == 8:
            log.warning("%s at offset %d: %s; trying again", cursor.topic_partition, cursor.fetch_offset, error)
        self._cluster.want_metadata()

    def _out_of_range(self, cursor: Cursor, error: OffsetOutOfRange, now: int) -> None:
        policy = self._options.auto_offset_reset
        if policy == "none":
            cursor.fault = error
            return
        resets = cursor.resets + 1
        self._seldom.warn(cursor.topic_partition, now, f"{error}; going on at the {policy} offset")
        cursor.look_up(RESET_TIMESTAMPS[policy])
        cursor.resets = resets
        if resets > 1:  # it went out of the log again before anything was read: not in a loop without a wait
            settings = self._cluster.settings
            cursor.retry_at_ms = now + backoff_ms(resets - 1, settings.retry_backoff_ms, settings.retry_backoff_max_ms)

    # --- positions ---

    def _look_up(self, now: int) -> None:
        wanted: dict[TopicPartition, int] = {}
        tickets: dict[TopicPartition, int] = {}
        for cursor in self._core.to_look_up(now):
            if cursor.reset_to is not None and self._cluster.can_reach(cursor.topic_partition):
                wanted[cursor.topic_partition] = cursor.reset_to
                cursor.looking_up = True
                tickets[cursor.topic_partition] = cursor.ticket

        def found(tp: TopicPartition, one: OffsetFound | None, error: RequestError | None) -> None:
            cursor = self._core.cursors.get(tp)
            if cursor is None or cursor.ticket != tickets[tp]:
                return
            cursor.looking_up = False
            if one is not None and one.offset < 0:
                cursor.look_up(LATEST_TIMESTAMP)  # no record is that young
            elif one is not None:
                cursor.move(one.offset)
            elif error is not None and not isinstance(error, RetriableError):
                cursor.fault = error
            else:
                self._try_again(cursor, RetriableError(str(error)), now_ms())

        if wanted:
            ask_offsets(self._cluster, wanted, found)

    def follow_topics(self) -> None:
        """After new metadata: a topic that was deleted and made again is read from its start."""
        for cursor in self._core.cursors.values():
            topic_id = self._cluster.view.topic_id(cursor.topic_partition.topic)
            if not topic_id:
                error = self._cluster.view.errors.get(cursor.topic_partition.topic)
                if error is not None and cursor.topic_id and error[0] == UnknownTopicOrPartition.code:
                    cursor.retry_at_ms = max(cursor.retry_at_ms, now_ms() + 100)
                continue
            if cursor.topic_id and cursor.topic_id != topic_id:
                log.warning("%s was deleted and made again; reading it from its start", cursor.topic_partition.topic)
                cursor.look_up(EARLIEST_TIMESTAMP)
            cursor.topic_id = topic_id
