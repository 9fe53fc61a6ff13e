"""What Consumer and its asyncio twin have in common: everything but how they wait (see steps.py).

In a group, a thread of its own sends the heartbeats (`heartbeats.py`); all else is done here too (`group_session.py`).
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Never

from kbroker.clients import unclosed
from kbroker.clients.arguments import check_unknown
from kbroker.clients.cluster import Cluster, ClusterSettings, now_ms
from kbroker.clients.consumer_core import RESET_TIMESTAMPS, ConsumerCore, Cursor
from kbroker.clients.consumer_options import ConsumerOptions
from kbroker.clients.consumer_reading import ConsumerReading
from kbroker.clients.group_membership import Membership
from kbroker.clients.group_session import GroupOptions, GroupSession, OnCommit
from kbroker.clients.heartbeats import Heartbeats
from kbroker.clients.offset_lookup import find_offsets
from kbroker.clients.producer_options import whole_number
from kbroker.clients.reader import Reader
from kbroker.clients.rebalance_listener import ConsumerRebalanceListener
from kbroker.clients.record_batch import Deserializer
from kbroker.clients.records import OffsetAndMetadata, OffsetAndTimestamp
from kbroker.clients.single_user import exclusive
from kbroker.clients.skips import Skips
from kbroker.clients.steps import Steps
from kbroker.clients.weakly import weakly
from kbroker.errors import (
    BrokerUnavailable,
    ConfigError,
    OffsetOutOfRange,
    UnknownTopicOrPartition,
)
from kbroker.types import EARLIEST_TIMESTAMP, TopicPartition

log = logging.getLogger(__name__)


class ConsumerSteps(ConsumerReading):
    """The arguments, and what waits, are documented at `Consumer`."""

    def __init__(
        self,
        *topics: str,
        server: str | None = None,
        client_id: str = "kbroker-consumer",
        group: str | None = None,
        group_id: str | None = None,
        auto_offset_reset: str = "latest",
        fetch_max_bytes: int = 8 << 20,
        max_partition_fetch_bytes: int = 1 << 20,
        fetch_min_bytes: int = 1,
        fetch_max_wait_ms: int = 500,
        max_poll_records: int = 500,
        key_deserializer: Deserializer | None = None,
        value_deserializer: Deserializer | None = None,
        consumer_timeout_ms: int | None = None,
        transport: str = "auto",
        isolation_level: str = "read_uncommitted",
        check_crcs: bool = True,
        metadata_max_age_ms: int = 300_000,
        request_timeout_ms: int = 30_000,
        retry_backoff_ms: int = 20,
        api_timeout_ms: int = 10_000,
        direct: bool = True,
        group_instance_id: str | None = None,
        partition_assignor: str | None = None,
        enable_auto_commit: bool = True,
        auto_commit_interval_ms: int = 5_000,
        max_poll_interval_ms: int = 300_000,
        on_deserialization_error: str = "raise",
        on_corrupt: str = "raise",
        **unknown: Never,
    ) -> None:
        check_unknown(type(self), unknown)
        if group is not None and group_id is not None and group != group_id:
            raise ConfigError(f"group={group!r} and group_id={group_id!r}: they mean the same, give one of them")
        if not all(isinstance(topic, str) and topic for topic in topics):
            raise ConfigError(f"topics={topics!r} is not valid: each must be a topic's name")
        self.options = ConsumerOptions(
            client_id, auto_offset_reset, fetch_max_bytes, max_partition_fetch_bytes, fetch_min_bytes,
            fetch_max_wait_ms, max_poll_records, key_deserializer, value_deserializer, consumer_timeout_ms, transport,
            isolation_level, check_crcs, metadata_max_age_ms, request_timeout_ms, retry_backoff_ms, api_timeout_ms,
            group_id if group is None else group, group_instance_id, partition_assignor, enable_auto_commit,
            auto_commit_interval_ms, max_poll_interval_ms, on_deserialization_error, on_corrupt,
        )  # fmt: skip
        self.options.check()
        self._topics = frozenset() if self.options.group is not None else frozenset(topics)
        self._closed = False
        self._warned = False
        settings = ClusterSettings(
            client_id=client_id,
            request_timeout_ms=request_timeout_ms,
            retry_backoff_ms=retry_backoff_ms,
            metadata_max_age_ms=metadata_max_age_ms,
            direct=direct,
        )
        self._read_last: tuple[object, object] = (None, None)
        self._skips = Skips(now_ms, corrupt=on_corrupt == "skip", undecodable=on_deserialization_error == "skip")
        self._cluster = Cluster(server, settings, "consumer")
        self._core = ConsumerCore(self._skips)
        self._subscribed: frozenset[str] = frozenset()
        self._reader = Reader(self._cluster, self._core, self.options)
        self._group = self._make_group(self.options.group, server, settings) if self.options.group is not None else None
        self._first_topics = topics
        unclosed.opened(self)
        self._made()

    def _made(self) -> None:
        """The object is complete, but not connected."""

    def _connect(self) -> Steps[None]:
        timeout_ms = self.options.api_timeout_ms
        try:
            self._cluster.add_topics(set(self._topics))
            yield from self._cluster.connect(timeout_ms)
            if self._group is not None and self._first_topics:
                self.subscribe(self._first_topics)
            self._follow_metadata(first=True)
            self._cluster.on_metadata = weakly(self._follow_metadata)
            yield from self._await_positions(self._core.cursors.values(), timeout_ms)
        except BaseException:
            self._cluster.close()
            raise

    # --- what to read ---

    def _assign(self, partitions: Iterable[TopicPartition]) -> Steps[None]:
        self._check()
        if self._topics or (self._group is not None and self._group.subscribed):
            raise ConfigError("partitions cannot be assigned: this consumer reads the topics that it was given")
        wanted = [_checked_partition(partition) for partition in partitions]
        self._core.settle()
        yield from self._know({partition.topic for partition in wanted})
        for partition in wanted:
            self._check_partition(partition)
        new = self._core.assign(wanted)
        committed: Mapping[TopicPartition, OffsetAndMetadata | None] = {}
        if self._group is not None and new:
            committed = yield from self._group.committed(cursor.topic_partition for cursor in new)
        for cursor in new:
            self._start_at(cursor, committed.get(cursor.topic_partition))
        self._follow_assignment()

    def assignment(self) -> set[TopicPartition]:
        """The partitions that are read. Another thread may ask, too."""
        return set(self._core.cursors)

    @exclusive
    def subscribe(
        self,
        topics: Iterable[str] = (),
        *,
        pattern: str = "",
        listener: ConsumerRebalanceListener | None = None,
    ) -> None:
        """Read these topics, or all whose whole name matches `pattern` (RE2), as a member of the group.

        What the group gives comes with the polls that follow. Raises ConfigError without a group.
        """
        self._check()
        if self._group is None:
            raise ConfigError("subscribe() needs a group: Consumer(group=…); without one name the topics at the start")
        names = [topics] if isinstance(topics, str) else list(topics)
        if not all(isinstance(name, str) and name for name in names):
            raise ConfigError(f"topics={names!r} is not valid: each must be a topic's name")
        if not isinstance(pattern, str) or bool(names) == bool(pattern):
            raise ConfigError("subscribe() takes topics or a pattern, one of the two")
        if self._core.cursors and not self._group.subscribed:
            raise ConfigError("subscribe() after assign(): unsubscribe() first")
        self._subscribed = frozenset(names)
        self._group.subscribe(names, pattern, listener)

    def _unsubscribe(self) -> Steps[None]:
        self._check()
        if self._group is not None:
            yield from self._group.close()
        self._topics = self._subscribed = frozenset()
        self._core.assign(())
        self._follow_assignment()

    def subscription(self) -> set[str]:
        """The topics that this consumer was given."""
        return set(self._topics | self._subscribed)

    @exclusive
    def pause(self, *partitions: TopicPartition) -> None:
        """Give out nothing from these until `resume`; they stay assigned, in their place. Raises ConfigError."""
        self._core.settle()
        for partition in partitions:
            self._cursor(partition).paused = True

    @exclusive
    def resume(self, *partitions: TopicPartition) -> None:
        """Go on where `pause` stopped. Raises ConfigError."""
        self._core.settle()
        for partition in partitions:
            self._cursor(partition).paused = False

    def paused(self) -> set[TopicPartition]:
        """The partitions that are paused."""
        return {partition for partition, cursor in tuple(self._core.cursors.items()) if cursor.paused}

    # --- what the group has committed ---

    def _commit(self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata] | None) -> Steps[None]:
        yield from self._in_group().commit(self._to_commit(offsets), self.options.api_timeout_ms)

    @exclusive
    def commit_async(
        self,
        offsets: Mapping[TopicPartition, int | OffsetAndMetadata] | None = None,
        callback: OnCommit | None = None,
    ) -> None:
        """As `commit`, without waiting: `callback(offsets, error or None)` is called from a later `poll`."""
        self._in_group().commit_async(self._to_commit(offsets), callback)

    def _committed(self, partition: TopicPartition) -> Steps[OffsetAndMetadata | None]:
        found = yield from self._in_group().committed([_checked_partition(partition)])
        return found[partition]

    @property
    def member_id(self) -> str:
        """This consumer's name in its group; empty without one."""
        return self._group.member_id if self._group is not None else ""

    # --- where to read ---

    @exclusive
    def seek(self, partition: TopicPartition, offset: int) -> None:
        """The next record from this partition is the one at `offset` (≥ 0), or the first after it.

        Raises ConfigError. An offset that is not there shows at the next poll: see `auto_offset_reset`.
        """
        self._check()
        self._core.settle()
        self._cursor(partition).move(whole_number("offset", offset, 0, 2**63 - 1))

    def _position(self, partition: TopicPartition) -> Steps[int]:
        cursor = self._cursor(partition)
        if not cursor.known:
            yield from self._await_positions([cursor], self.options.api_timeout_ms)
        if not cursor.known:
            raise OffsetOutOfRange(f"{partition} has no position, and auto_offset_reset='none': seek first")
        return cursor.now_at()

    def _offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> Steps[dict[TopicPartition, OffsetAndTimestamp | None]]:
        for partition, timestamp_ms in timestamps.items():
            whole_number(f"timestamps[{partition}]", timestamp_ms, 0, 2**63 - 1)
        found = yield from self._find(timestamps)
        return {
            tp: OffsetAndTimestamp(one.offset, one.timestamp_ms, one.leader_epoch) if one.offset >= 0 else None
            for tp, one in found.items()
        }

    def highwater(self, partition: TopicPartition) -> int | None:
        """The high watermark as last heard of, without asking; None: never."""
        known = self._reader.high_watermark(self._cursor(partition))
        return known if known >= 0 else None

    # --- about the broker ---

    def _partitions_for_topic(self, topic: str) -> Steps[set[int] | None]:
        self._check()
        try:
            yield from self._know({topic})
        except UnknownTopicOrPartition:
            return None
        finally:
            self._cluster.topics &= self._wanted_topics()
        return {partition.partition for partition in self._cluster.view.partitions(topic)}

    def _all_topics(self) -> Steps[set[str]]:
        self._check()
        self._cluster.all_topics = True
        try:
            yield from self._cluster.fresh_metadata(self.options.api_timeout_ms)
        finally:
            self._cluster.all_topics = False
        return set(self._cluster.view.topics)

    @property
    def transport(self) -> str:
        """Which way is used now: "shm", or "zmq" when any partition is read through ZeroMQ."""
        return self._reader.transport

    @property
    def transport_reason(self) -> str:
        """Why it is not "shm"; empty when it is."""
        return self._reader.reason

    def _close(self) -> Steps[None]:
        if self._closed or self._cluster.guard.forked:
            return
        self._closed = True
        unclosed.closed(self)
        self._core.settle()
        self._report_corrupt()
        try:
            if self._group is not None:
                yield from self._group.close()
        finally:
            self._reader.close()
            self._cluster.close()
            self._skips.tell_rest()

    def __del__(self) -> None:
        unclosed.closed(self)
        if hasattr(self, "_group"):  # else the constructor has raised
            self._end_at_exit()

    def _end_at_exit(self, deadline_s: float = 0.0) -> None:  # noqa: ARG002  # nothing is waited for
        """Free everything and leave the group, if nobody has, and say so. Part of unclosed.Closable."""
        cluster = self._cluster
        if cluster.guard.forked:
            return
        heart = self._group.abandon() if self._group is not None else None
        if cluster.closed:
            return
        self._reader.close()
        cluster.drop()
        if heart is not None:
            unclosed.warn(f"a Consumer of group {self.options.group!r}", "it leaves the group without a commit")
        elif cluster.is_used:
            unclosed.warn("a Consumer", "its connections end here")

    def _ended_at_exit(self, deadline_s: float) -> None:
        """Wait until it has left its group. Part of unclosed.Closable."""
        heart = self._group.abandon() if self._group is not None and not self._cluster.guard.forked else None
        if heart is not None:
            heart.join(max(0.0, deadline_s - time.monotonic()))

    # --- inside ---

    def _cursor(self, partition: TopicPartition) -> Cursor:
        cursor = self._core.cursors.get(partition)
        if cursor is None:
            raise ConfigError(f"{partition} is not assigned to this consumer")
        return cursor

    def _start(self, cursor: Cursor, timestamp_ms: int | None) -> None:
        if timestamp_ms is not None:
            cursor.look_up(timestamp_ms)
        else:
            cursor.fault = OffsetOutOfRange(
                f"{cursor.topic_partition} has no position, and auto_offset_reset='none': seek first"
            )

    def _start_at(self, cursor: Cursor, committed: OffsetAndMetadata | None) -> None:
        """At the group's committed offset, or as `auto_offset_reset` says."""
        if committed is None:
            self._start(cursor, RESET_TIMESTAMPS.get(self.options.auto_offset_reset))
        else:
            cursor.move(committed.offset)
            cursor.last_epoch = cursor.fetch_epoch = committed.leader_epoch

    def _follow_assignment(self) -> None:
        """The assignment has changed: nothing is read that is not in it, metadata is asked for what is."""
        self._cluster.topics = {partition.topic for partition in self._core.cursors}
        self._cluster.want_metadata()
        self._reader.forget()
        self._reader.follow_topics()

    def _make_group(self, name: str, server: str | None, settings: ClusterSettings) -> GroupSession:
        options = self.options
        interval_ms = options.auto_commit_interval_ms if options.enable_auto_commit else None

        def heart(membership: Membership) -> Heartbeats:
            return Heartbeats(
                Cluster(server, settings, "consumer"),
                membership,
                group.progress,
                max_poll_interval_ms=options.max_poll_interval_ms,
                auto_commit_interval_ms=interval_ms,
            )

        group = GroupSession(
            GroupOptions(
                name,
                options.group_instance_id,
                options.partition_assignor,
                options.max_poll_interval_ms,
                interval_ms,
                options.api_timeout_ms,
                options.client_id,
            ),
            self._cluster,
            self._core,
            str(uuid.uuid4()),
            heart,
            weakly(self._start_at),
            weakly(self._follow_assignment),
        )
        return group

    def _in_group(self) -> GroupSession:
        self._check()
        if self._group is None:
            raise ConfigError("offsets are committed for a group: Consumer(group=…)")
        return self._group

    def _to_commit(
        self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata] | None
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        if offsets is None:
            return self._in_group().positions()
        checked = {}
        for partition, at in offsets.items():
            place = at if isinstance(at, OffsetAndMetadata) else OffsetAndMetadata(at)
            whole_number(f"offsets[{partition}]", place.offset, 0, 2**63 - 1)
            checked[_checked_partition(partition)] = place
        return checked

    def _follow_metadata(self, first: bool = False) -> None:
        """New partitions of our topics come in, at their start unless this is the beginning."""
        if self._topics:
            partitions = [tp for topic in sorted(self._topics) for tp in self._cluster.view.partitions(topic)]
            known = [tp for tp in self._core.cursors if tp not in set(partitions)]  # a topic that is away for now
            reset = RESET_TIMESTAMPS.get(self.options.auto_offset_reset) if first else EARLIEST_TIMESTAMP
            if len(partitions) + len(known) > len(self._core.cursors):
                for cursor in self._core.assign([*known, *partitions]):
                    self._start(cursor, reset)
            missing = self._topics - set(self._cluster.view.topics)
            if missing and not self._warned:
                self._warned = True
                log.warning("there is no topic %s yet; it is read as soon as it is there", ", ".join(sorted(missing)))
        self._reader.follow_topics()

    def _await_positions(self, cursors: Iterable[Cursor], timeout_ms: int) -> Steps[None]:
        deadline = now_ms() + timeout_ms
        waiting = [cursor for cursor in cursors if cursor.reset_to is not None]
        while any(cursor.reset_to is not None and cursor.fault is None for cursor in waiting):
            left = deadline - now_ms()
            if left <= 0:
                raise BrokerUnavailable(f"positions could not be looked up within {timeout_ms} ms")
            if not self._reader.gather(now_ms()):
                rest_ms = self._reader.rest_ms(left)
                if rest_ms > 0:
                    yield rest_ms

    def _wanted_topics(self) -> set[str]:
        return set(self._topics) | {partition.topic for partition in self._core.cursors}

    def _know(self, topics: set[str]) -> Steps[None]:
        """Make sure that there is metadata of these topics. Raises the broker's error, BrokerUnavailable."""
        if not topics <= set(self._cluster.view.topics):
            self._cluster.add_topics(topics)
            yield from self._cluster.fresh_metadata(self.options.api_timeout_ms)
        for topic in topics:
            self._cluster.view.check(topic)

    def _check_partition(self, partition: TopicPartition) -> None:
        count = self._cluster.view.partition_count(partition.topic)
        if count is not None and partition.partition >= count:
            raise UnknownTopicOrPartition(
                f"topic {partition.topic!r} has partitions 0 … {count - 1}; there is no {partition.partition}"
            )

    def _seek_to(self, partitions: Sequence[TopicPartition], timestamp_ms: int) -> Steps[None]:
        self._check()
        self._core.settle()
        cursors = [self._cursor(partition) for partition in partitions or tuple(self._core.cursors)]
        for cursor in cursors:
            cursor.look_up(timestamp_ms)
        yield from self._await_positions(cursors, self.options.api_timeout_ms)

    def _seek_to_timestamp(self, partitions: Sequence[TopicPartition], timestamp_ms: int) -> Steps[None]:
        yield from self._seek_to(partitions, whole_number("timestamp_ms", timestamp_ms, 0, 2**63 - 1))

    def _offsets(self, partitions: Iterable[TopicPartition], timestamp_ms: int) -> Steps[dict[TopicPartition, int]]:
        found = yield from self._find(dict.fromkeys(partitions, timestamp_ms))
        return {tp: one.offset for tp, one in found.items()}

    def _find(self, wanted: Mapping[TopicPartition, int]) -> Steps[dict[TopicPartition, Any]]:
        self._check()
        if not wanted:
            return {}
        checked = {_checked_partition(tp): timestamp_ms for tp, timestamp_ms in wanted.items()}
        yield from self._know({tp.topic for tp in checked})
        for partition in checked:
            self._check_partition(partition)
        try:
            found = yield from find_offsets(self._cluster, checked, self.options.api_timeout_ms)
            return dict(found)
        finally:
            self._cluster.topics &= self._wanted_topics()


def _checked_partition(partition: object) -> TopicPartition:
    if not isinstance(partition, tuple) or len(partition) != 2:
        raise ConfigError(f"{partition!r} is not a TopicPartition(topic, partition)")
    topic, number = partition
    if not isinstance(topic, str):
        raise ConfigError(f"{partition!r}: the topic must be text")
    whole_number("partition", number, 0)
    return TopicPartition(topic, number)
