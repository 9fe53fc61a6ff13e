"""One member of a consumer group as the client sees itself: KIP-848's member side. No I/O, no clock, no lock.

The coordinator says what this member may read (`wanted`). The consumer lets go of what is no longer wanted, takes what
is new, and says so (`own`); the next heartbeat tells the coordinator, which gives what was let go of to others.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from kbroker.errors import (
    FencedMemberEpoch,
    RequestError,
    RetriableError,
    UnknownMemberId,
    UnreleasedInstanceId,
)
from kbroker.types import TopicPartition
from kbroker.wire.group_messages import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    STATIC_LEAVE_EPOCH,
    GroupHeartbeat,
    GroupHeartbeatAnswer,
    TopicPartitions,
)

_Subscription = tuple[frozenset[str], str]

FIRST_INTERVAL_MS = 1_000
"""Between heartbeats until the coordinator has named an interval."""
UNRELEASED_MAX_MS = 60_000
"""So long another may hold this member's instance id: one that died does until its session is over, which is sooner
unless the broker's group.consumer.session.timeout.ms was raised. Longer means that there are two of the same name."""


class MemberState(enum.Enum):
    """What the next heartbeat is for."""

    IDLE = "idle"
    """Nothing is subscribed to, or the member has left."""
    JOINING = "joining"
    MEMBER = "member"
    LEAVING = "leaving"
    FAILED = "failed"
    """The coordinator has refused for good; `fault` says why."""


class Membership:
    """`epoch`: as the coordinator has told it last. `wanted`: what may be read; `owned`: what is. `lost`: the
    coordinator has put the member out, so that what it owned may be somebody else's by now."""

    def __init__(
        self,
        group: str,
        member_id: str,
        *,
        instance_id: str | None,
        assignor: str | None,
        rebalance_timeout_ms: int,
        client_id: str = "",
        host: str = "",
    ) -> None:
        self.group = group
        self.member_id = member_id
        self.instance_id = instance_id
        self.state = MemberState.IDLE
        self.epoch = JOIN_EPOCH
        self.interval_ms = FIRST_INTERVAL_MS
        self.wanted: frozenset[TopicPartition] = frozenset()
        self.owned: frozenset[TopicPartition] = frozenset()
        self.lost = False
        self.fault: RequestError | None = None
        self.due_ms = 0
        """When the next heartbeat is to be sent; it means nothing while one is on its way."""
        self.in_flight = False
        self.unreleased_since_ms: int | None = None
        """Since when another holds the instance id."""
        self._assignor = assignor
        self._rebalance_timeout_ms = rebalance_timeout_ms
        self._client_id = client_id
        self._host = host
        # Each as it is, as the heartbeat on its way says, and as the coordinator knows it (None: not at all).
        self._subscription: _Subscription = (frozenset(), "")
        self._sent_subscription: _Subscription | None = None
        self._told_subscription: _Subscription | None = None
        self._sent_owned: frozenset[TopicPartition] | None = None
        self._told_owned: frozenset[TopicPartition] | None = None
        self._sent_state = MemberState.IDLE

    # --- what the consumer wants ---

    def subscribe(self, topics: Iterable[str] = (), pattern: str = "") -> None:
        """Read these topics, or those whose whole name matches `pattern`. Joins when this is no member yet."""
        self._subscription = (frozenset(topics), pattern)
        self.due_ms = 0
        if self.state in (MemberState.IDLE, MemberState.FAILED):
            self._begin()

    def own(self, partitions: Iterable[TopicPartition]) -> None:
        """The consumer has let go of what it was to give up, or has taken what it was given."""
        self.owned = frozenset(partitions)
        self.lost = False
        if self.owned != self._told_owned and self.state is MemberState.MEMBER:
            self.due_ms = 0

    def leave(self) -> None:
        """Give up membership; a static member keeps its place until its session is over."""
        if self.state is MemberState.MEMBER or (self.state is MemberState.JOINING and self.in_flight):
            self.state = MemberState.LEAVING
            self.due_ms = 0
        elif self.state is not MemberState.LEAVING:
            self.state = MemberState.IDLE

    def rejoin(self) -> None:
        """Join again after `leave`, as a member without partitions."""
        if self.state in (MemberState.IDLE, MemberState.LEAVING):
            self._begin()

    @property
    def has_changed(self) -> bool:
        """Whether the consumer is to let go of partitions, or to take some."""
        return self.lost or self.wanted != self.owned or self.fault is not None

    # --- heartbeats ---

    @property
    def beats(self) -> bool:
        """Whether heartbeats are to be sent at all."""
        return self.state in (MemberState.JOINING, MemberState.MEMBER, MemberState.LEAVING)

    @property
    def takes_part(self) -> bool:
        """Whether this is a member, or about to be one."""
        return self.state in (MemberState.JOINING, MemberState.MEMBER)

    def heartbeat(self) -> GroupHeartbeat:
        """The heartbeat to be sent now; `answered` or `refused` must follow before the next."""
        self.in_flight = True
        self._sent_state = self.state
        if self.state is MemberState.LEAVING:
            epoch = LEAVE_EPOCH if self.instance_id is None else STATIC_LEAVE_EPOCH
            return GroupHeartbeat(self.group, self.member_id, epoch, self.instance_id)
        message = GroupHeartbeat(
            self.group, self.member_id, self.epoch, self.instance_id, client_id=self._client_id, host=self._host
        )
        joins = self.state is MemberState.JOINING
        self._sent_subscription = self._subscription
        if joins or self._sent_subscription != self._told_subscription:
            topics, message.pattern = self._subscription
            message.topics = sorted(topics)
        if joins:
            message.rebalance_timeout_ms = self._rebalance_timeout_ms
            message.assignor = self._assignor
        self._sent_owned = frozenset() if joins else self.owned
        if joins or self._sent_owned != self._told_owned:
            message.owned = by_topic(self._sent_owned)
        return message

    def answered(self, answer: GroupHeartbeatAnswer, now_ms: int) -> None:
        """The coordinator has taken the heartbeat."""
        self.in_flight = False
        self.unreleased_since_ms = None
        self.interval_ms = max(1, answer.heartbeat_interval_ms)
        self.due_ms = now_ms + self.interval_ms
        if self._sent_state is MemberState.LEAVING:
            if self.state is MemberState.LEAVING:
                self.state = MemberState.IDLE
            self.due_ms = now_ms  # for who joins again meanwhile
            return
        if self.state is MemberState.LEAVING:
            self.due_ms = now_ms
            return
        if not self.beats:
            return
        self.state = MemberState.MEMBER
        self.epoch = answer.member_epoch
        self._told_owned = self._sent_owned
        self._told_subscription = self._sent_subscription
        if answer.assignment is not None:
            self.wanted = frozenset(
                TopicPartition(entry.topic, number) for entry in answer.assignment for number in entry.partitions
            )
        if self.owned != self._told_owned or self._subscription != self._told_subscription:
            self.due_ms = now_ms

    def refused(self, error: RequestError, now_ms: int, retry_ms: int) -> None:
        """The heartbeat failed; what may be tried again is sent again in `retry_ms`."""
        self.in_flight = False
        self.due_ms = now_ms + retry_ms
        self._told_owned = self._told_subscription = None  # taken or not: all is told again
        if self.state is MemberState.LEAVING:
            if not isinstance(error, RetriableError):
                self.state = MemberState.IDLE
        elif isinstance(error, (UnknownMemberId, FencedMemberEpoch)):
            self._put_out(MemberState.JOINING)
        elif isinstance(error, UnreleasedInstanceId) and self._may_be_released(now_ms):
            pass
        elif not isinstance(error, RetriableError):
            self.fault = error
            self._put_out(MemberState.FAILED)

    def _may_be_released(self, now_ms: int) -> bool:
        if self.unreleased_since_ms is None:
            self.unreleased_since_ms = now_ms
        return now_ms - self.unreleased_since_ms < UNRELEASED_MAX_MS

    def _begin(self) -> None:
        self.fault = None
        self.unreleased_since_ms = None
        self.due_ms = 0
        self._put_out(MemberState.JOINING)

    def _put_out(self, state: MemberState) -> None:
        self.state = state
        self.epoch = JOIN_EPOCH
        self._told_owned = self._told_subscription = None
        self.lost = bool(self.owned)
        self.wanted = frozenset()


def by_topic(partitions: Iterable[TopicPartition]) -> list[TopicPartitions]:
    """Partitions as messages name them."""
    topics: dict[str, list[int]] = {}
    for topic, partition in sorted(partitions):
        topics.setdefault(topic, []).append(partition)
    return [TopicPartitions(topic, numbers) for topic, numbers in topics.items()]
