"""A consumer's part in a group: taking and giving up partitions, committing offsets. Used by the caller's thread only.

The group says what to read, the Heartbeats thread hears of it, and `follow` acts on it, from within `poll`: so a
partition is never taken away while the caller works on records that `poll` has just returned.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kbroker.clients.backoff import backoff_ms
from kbroker.clients.cluster import Cluster, now_ms
from kbroker.clients.consumer_core import ConsumerCore, Cursor
from kbroker.clients.group_membership import Membership, by_topic
from kbroker.clients.heartbeats import LEAVE_MS, RETRY_MAX_MS, RETRY_MS, Heartbeats
from kbroker.clients.link import Reply
from kbroker.clients.rebalance_listener import ConsumerRebalanceListener
from kbroker.clients.records import OffsetAndMetadata
from kbroker.clients.steps import Steps
from kbroker.errors import (
    BrokerUnavailable,
    KbrokerError,
    RequestError,
    RetriableError,
    StaleMemberEpoch,
    UnknownMemberId,
    UnknownTopicOrPartition,
    error_for,
)
from kbroker.types import TopicPartition
from kbroker.wire import group_messages as m

log = logging.getLogger(__name__)

STALE_PAUSE_MS = 20
"""A commit that was refused for its epoch is tried again when a heartbeat has brought the new one."""

STALE_PAUSE_MAX_MS = 200
"""It doubles up to this."""

OnCommit = Callable[[Mapping[TopicPartition, OffsetAndMetadata], KbrokerError | None], None]


@dataclass(slots=True)
class GroupOptions:
    """What `Consumer(group=…)` was given; see there. `auto_commit_interval_ms` None: the caller commits."""

    group: str
    instance_id: str | None
    assignor: str | None
    max_poll_interval_ms: int
    auto_commit_interval_ms: int | None
    timeout_ms: int
    client_id: str


class GroupSession:
    """`start` is called for each partition that comes in, with what was committed for it (None: nothing was)."""

    def __init__(
        self,
        options: GroupOptions,
        cluster: Cluster,
        core: ConsumerCore,
        member_id: str,
        heart: Callable[[Membership], Heartbeats],
        start: Callable[[Cursor, OffsetAndMetadata | None], None],
        changed: Callable[[], None],
    ) -> None:
        self._options = options
        self._cluster = cluster
        self._core = core
        self._start = start
        self._changed = changed
        self._make_heart = heart
        self._heart: Heartbeats | None = None
        self._listener = ConsumerRebalanceListener()
        self._membership = Membership(
            options.group,
            member_id,
            instance_id=options.instance_id,
            assignor=options.assignor,
            rebalance_timeout_ms=options.max_poll_interval_ms,
            client_id=options.client_id,
            host=socket.gethostname(),
        )
        self._asked: set[TopicPartition] = set()  # whose committed offsets are being asked for
        self._found: dict[TopicPartition, OffsetAndMetadata | None] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._commit_not_before_ms = 0
        self._ask_attempts = 0
        self._ask_not_before_ms = 0  # committed offsets; 0: whenever they are missing
        self._fault: KbrokerError | None = None
        self.polls = 0
        """Raised by one whenever the caller asks for records."""
        self.waiting = False
        """The caller waits inside the consumer."""

    # --- membership ---

    @property
    def subscribed(self) -> bool:
        """Whether the group says what is read; else the caller does, and the group only keeps the offsets."""
        return self._heart is not None

    @property
    def attention(self) -> bool:
        """Whether `follow` has something to do."""
        if self._heart is None:
            return False
        return (
            self._heart.attention
            or bool(self._found)
            or bool(self._ask_not_before_ms and now_ms() >= self._ask_not_before_ms)
        )

    def rest_ms(self, timeout_ms: int) -> int:
        """How long the caller may sleep before `attention` is true by itself, at most `timeout_ms`."""
        return min(timeout_ms, max(1, self._ask_not_before_ms - now_ms())) if self._ask_not_before_ms else timeout_ms

    @property
    def member_id(self) -> str:
        """As the group's description shows it."""
        return self._membership.member_id

    def subscribe(self, topics: Iterable[str], pattern: str, listener: ConsumerRebalanceListener | None) -> None:
        """Join, or change what is subscribed to."""
        self._listener = listener or ConsumerRebalanceListener()
        if self._heart is None:
            self._membership.subscribe(topics, pattern)
            self._heart = self._make_heart(self._membership)
            self._cluster.watch(self._heart.changed.fd, self._look)
            return
        with self._heart.lock:
            self._membership.subscribe(topics, pattern)
        self._heart.wake()

    def _look(self) -> None:
        """The descriptor is level-triggered: read, so that the caller's next sleep is one."""
        assert self._heart is not None
        attention = self._heart.attention
        self._heart.noticed()
        self._heart.attention = attention

    def follow(self) -> Steps[None]:
        """Do what the group asks for: give up, ask for committed offsets, take. Waits only for a last commit.

        Raises what the coordinator has refused for good, and what the listener raises.
        """
        heart = self._heart
        if heart is None:
            return
        heart.noticed()
        member = self._membership
        with heart.lock:
            wanted, lost, fault, expelled = member.wanted, member.lost, member.fault, heart.expelled
            heart.expelled = False
        owned = frozenset(self._core.cursors)
        if lost or expelled:
            self._lose(owned, rejoin=expelled)
            owned = frozenset()
            wanted = frozenset()
        if fault is not None:
            with heart.lock:
                member.fault = None
            raise fault
        if self._fault is not None:
            refusal, self._fault = self._fault, None
            raise refusal
        self._found = {tp: found for tp, found in self._found.items() if tp in wanted}
        revoked = owned - wanted
        if revoked:
            yield from self._revoke(revoked, owned & wanted)
            owned &= wanted
        missing = wanted - owned - self._asked - self._found.keys()
        if not missing:
            self._ask_not_before_ms = 0
        elif now_ms() >= self._ask_not_before_ms:
            self._ask(missing)
        if self._found:
            self._take(owned)
        self.commit_if_due()

    def _lose(self, lost: frozenset[TopicPartition], *, rejoin: bool) -> None:
        self._set({}, rejoin=rejoin)
        if lost:
            self._listener.on_partitions_lost(lost)

    def _revoke(self, revoked: frozenset[TopicPartition], kept: frozenset[TopicPartition]) -> Steps[None]:
        try:
            if self._options.auto_commit_interval_ms is not None:
                try:
                    yield from self.commit(self.positions(revoked), self._options.timeout_ms)
                except UnknownTopicOrPartition:
                    pass  # they are given up because their topic was deleted; the others' offsets were stored
                except KbrokerError as error:
                    log.warning("group %s: partitions are given up uncommitted: %s", self._options.group, error)
            self._listener.on_partitions_revoked(revoked)
        finally:
            self._set(kept)

    def _take(self, owned: frozenset[TopicPartition]) -> None:
        found, self._found = self._found, {}
        self._set([*owned, *found], found)
        self._listener.on_partitions_assigned(set(found))

    def _set(
        self,
        partitions: Iterable[TopicPartition],
        found: Mapping[TopicPartition, OffsetAndMetadata | None] | None = None,
        *,
        rejoin: bool = False,
    ) -> None:
        """Read these from now on, and tell the group so."""
        heart, partitions = self._heart, frozenset(partitions)
        assert heart is not None
        for cursor in self._core.assign(sorted(partitions)):
            self._start(cursor, (found or {}).get(cursor.topic_partition))
        self._committed = {tp: offset for tp, offset in self._committed.items() if tp in partitions}
        self._changed()
        with heart.lock:
            self._membership.own(partitions)
            if rejoin:
                self._membership.rejoin()
        heart.wake()

    def _ask(self, missing: frozenset[TopicPartition]) -> None:
        self._asked |= missing
        self._ask_not_before_ms = 0
        self._cluster.add_topics({tp.topic for tp in missing})

        def answered(reply: Reply) -> None:
            self._asked -= missing
            if reply.error is None:
                found = {TopicPartition(one.topic, one.partition): one for one in reply.answer.offsets}
                for tp in missing:
                    one = found.get(tp)
                    if one is not None and one.error == 0:
                        known = one.offset >= 0
                        self._found[tp] = (
                            OffsetAndMetadata(one.offset, one.metadata, one.leader_epoch) if known else None
                        )
            elif not isinstance(reply.error, RetriableError):
                self._fault = reply.error
            if missing <= self._found.keys():
                self._ask_attempts = 0
            else:  # those that are still wanted are asked for again
                self._ask_attempts += 1
                self._ask_not_before_ms = now_ms() + backoff_ms(self._ask_attempts, RETRY_MS, RETRY_MAX_MS)
            if self._heart is not None and (self._found or self._fault is not None):
                self._heart.attention = True

        self._cluster.ask_front(m.FetchOffsets(self._options.group, by_topic(missing)), m.CommittedOffsets, answered)

    def progress(self) -> object:
        """See Heartbeats. Within an iteration it is the record that was given last that changes."""
        if self.waiting:
            return None
        return self.polls, tuple(id(cursor.given) for cursor in tuple(self._core.cursors.values()))

    # --- offsets ---

    def positions(self, partitions: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, OffsetAndMetadata]:
        """Where the caller stands in these (None: all), as commits."""
        self._core.settle()
        cursors = self._core.cursors
        chosen = cursors.values() if partitions is None else [cursors[tp] for tp in partitions if tp in cursors]
        return {
            cursor.topic_partition: OffsetAndMetadata(cursor.now_at(), "", cursor.last_epoch)
            for cursor in chosen
            if cursor.known
        }

    def commit_if_due(self) -> None:
        """The automatic commit of what has moved since the last one; it does not wait."""
        if self._options.auto_commit_interval_ms is None or now_ms() < self._commit_not_before_ms:
            return
        moved = {tp: at for tp, at in self.positions().items() if self._committed.get(tp) != at.offset}
        if moved:
            self._commit_not_before_ms = now_ms() + self._options.auto_commit_interval_ms
            self.commit_async(moved, self._auto_committed)

    def _auto_committed(self, _offsets: Mapping[TopicPartition, OffsetAndMetadata], error: KbrokerError | None) -> None:
        if error is not None and not isinstance(error, (RetriableError, StaleMemberEpoch)):
            log.warning("group %s: an automatic commit failed: %s", self._options.group, error)

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], timeout_ms: int) -> Steps[None]:
        """Commit and wait until it is durable. Raises what the coordinator refuses with, BrokerUnavailable."""
        if not offsets:
            return
        deadline = now_ms() + timeout_ms
        attempt = 0
        while True:
            attempt += 1
            pause_ms = backoff_ms(attempt, STALE_PAUSE_MS, STALE_PAUSE_MAX_MS)
            try:
                answer: m.OffsetResults = yield from self._cluster.call(
                    self._commit_request(offsets), m.OffsetResults, timeout_ms=max(1, deadline - now_ms())
                )
                self._raise_first(answer)
            except StaleMemberEpoch:
                if now_ms() >= deadline:
                    raise
                yield from self._cluster.pause(pause_ms)
                continue
            except UnknownTopicOrPartition:
                raise  # retriable elsewhere; the coordinator knows all topics, so this one was deleted
            except RetriableError as error:
                if now_ms() >= deadline:
                    raise BrokerUnavailable(f"nothing was committed within {timeout_ms} ms: {error}") from error
                yield from self._cluster.pause(pause_ms)
                continue
            self._note(offsets)
            return

    def commit_async(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], on_commit: OnCommit | None) -> None:
        """Commit without waiting; `on_commit` is called from a later `poll`, with the error or None."""

        def answered(reply: Reply) -> None:
            error: KbrokerError | None = reply.error
            if error is None:
                try:
                    self._raise_first(reply.answer)
                except RequestError as refused:
                    error = refused
            if error is None:
                self._note(offsets)
            if on_commit is not None:
                on_commit(offsets, error)

        if offsets:
            self._cluster.ask_front(self._commit_request(offsets), m.OffsetResults, answered)

    def committed(self, partitions: Iterable[TopicPartition]) -> Steps[dict[TopicPartition, OffsetAndMetadata | None]]:
        """What the group has committed; None: nothing. Raises BrokerUnavailable, RequestError."""
        wanted = list(partitions)
        request = m.FetchOffsets(self._options.group, by_topic(wanted))
        answer: m.CommittedOffsets = yield from self._cluster.call(
            request, m.CommittedOffsets, timeout_ms=self._options.timeout_ms
        )
        found: dict[TopicPartition, OffsetAndMetadata | None] = dict.fromkeys(wanted)
        for one in answer.offsets:
            if one.error:
                raise error_for(one.error, f"{one.topic}-{one.partition} of group {self._options.group}")
            if one.offset >= 0:
                found[TopicPartition(one.topic, one.partition)] = OffsetAndMetadata(
                    one.offset, one.metadata, one.leader_epoch
                )
        return found

    def close(self) -> Steps[None]:
        """Commit what is to be committed, give up everything, leave."""
        heart = self._heart
        if heart is None:
            return
        try:
            owned = frozenset(self._core.cursors)
            if owned and not self._membership.lost:
                yield from self._revoke(owned, frozenset())
        finally:
            heart.leave(LEAVE_MS)
            deadline = now_ms() + LEAVE_MS
            while not heart.is_over and (left := deadline - now_ms()) > 0:
                yield from self._cluster.turn(left)
            self._heart = None
            self._cluster.unwatch(heart.changed.fd)
            heart.close()

    def abandon(self) -> Heartbeats | None:
        """The consumer is gone, and nobody closed it: leave without a commit. For a finalizer; never waits.

        The thread that does it is returned, if there is one.
        """
        if self._heart is not None:
            self._heart.abandon()
        return self._heart

    def _commit_request(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> m.CommitOffsets:
        entries = [
            m.OffsetCommit(tp.topic, tp.partition, at.offset, at.leader_epoch, at.metadata)
            for tp, at in offsets.items()
        ]
        heart, member = self._heart, self._membership
        if heart is None:
            return m.CommitOffsets(self._options.group, entries)
        with heart.lock:
            if member.lost or member.epoch <= 0:
                # With the epoch of a later membership this would overwrite what the new owner commits.
                raise UnknownMemberId(
                    f"group {member.group}: this consumer is no member at the moment, and its partitions may be "
                    "another's by now; poll joins again"
                )
            return m.CommitOffsets(member.group, entries, member.member_id, member.epoch, member.instance_id)

    def _note(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        self._committed.update({tp: at.offset for tp, at in offsets.items()})

    @staticmethod
    def _raise_first(answer: m.OffsetResults) -> None:
        for result in answer.offsets:
            if result.error:
                raise error_for(result.error, result.message or f"{result.topic}-{result.partition}")
