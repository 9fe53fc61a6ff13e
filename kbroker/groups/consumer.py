"""A consumer group (KIP-848): the coordinator decides who reads what, and leads each member there by its heartbeats.

    heartbeat ──► what the member tells ──► group epoch ──► targets (assignment epoch) ──► its next step ──► answer

The group epoch rises when members, subscriptions or topics change. Targets are computed once per epoch at most, and in
a burst of changes once per `consumer_assignment_interval_ms`. A member's step is a pure function of what it has, its
target, and what others still hold (`consumer_member.reconciled`).
"""

from __future__ import annotations

from typing import ClassVar, Final

from kbroker.errors import (
    FencedMemberEpoch,
    IllegalGeneration,
    StaleMemberEpoch,
    UnreleasedInstanceId,
    UnsupportedVersion,
)
from kbroker.groups.assignment import is_subset
from kbroker.groups.consumer_checks import check_heartbeat
from kbroker.groups.consumer_classic import handle_classic
from kbroker.groups.consumer_events import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH,
    ConsumerGroupDescribe,
    ConsumerGroupDescribeResult,
    ConsumerGroupHeartbeat,
    ConsumerGroupHeartbeatResult,
    DescribedConsumer,
)
from kbroker.groups.consumer_member import NEW, ConsumerMember
from kbroker.groups.consumer_members import ConsumerMembers
from kbroker.groups.consumer_records import NOBODY, MemberFacts, MemberState
from kbroker.groups.effects import Effects, Record, Reply
from kbroker.groups.events import (
    CommitOffsets,
    DescribeGroup,
    FetchOffsets,
    Heartbeat,
    JoinGroup,
    LeaveGroup,
    SyncGroup,
)
from kbroker.groups.patterns import Steps
from kbroker.groups.protocol import PROTOCOL_TYPE


class ConsumerGroup(ConsumerMembers):
    """One group: its members' requests, and what others ask about it."""

    type_name: ClassVar = "consumer"
    protocol_type: Final = PROTOCOL_TYPE

    @property
    def state(self) -> str:
        """Kafka's names: Empty, Assigning, Reconciling, Stable."""
        stored = self.stored
        if not stored.members:
            return "Empty"
        if stored.epoch > stored.assignment_epoch:
            return "Assigning"
        if all(member.is_reconciled(stored.assignment_epoch) for member in stored.members.values()):
            return "Stable"
        return "Reconciling"

    @property
    def is_empty(self) -> bool:
        return not self.stored.members

    def handle(self, event: object, now_ms: int) -> Effects:
        """Take a heartbeat or a question; RequestError when it may not be, with nothing changed."""
        match event:
            case ConsumerGroupHeartbeat():
                return self._heartbeat(event, now_ms)
            case ConsumerGroupDescribe():
                return Effects(replies=[Reply(event.token, self._described())])
            case JoinGroup() | SyncGroup() | Heartbeat() | LeaveGroup() | DescribeGroup():
                return handle_classic(self, event, now_ms)
        raise TypeError(f"a consumer group takes no {type(event).__name__}")

    def tick(self, now_ms: int) -> Effects:
        """Put out who is silent or holds on too long; compute targets that were put off."""
        effects = Effects()
        self._wake_ms = None
        late = [(m, why) for m in self.stored.members.values() if (why := _overdue(m, now_ms))]
        for member, why in late:
            effects.notices.append(f"{self.shown(member)} was put out: {why}")
            self.remove(member, effects, now_ms)
        differ = False
        if self._patterns_due_ms is not None and now_ms >= self._patterns_due_ms:
            self._match_patterns(effects, Steps(), now_ms)
            differ = self._topics_differ()
        self.settle(effects, now_ms, changed=bool(late) or differ)
        return effects

    @property
    def room_bytes(self) -> int:
        """About the memory that it takes."""
        return self.stored.room_bytes

    def topics_changed(self, deleted: frozenset[str], changed: frozenset[str], steps: Steps, now_ms: int) -> Effects:
        """Match patterns against the new topics only; a new epoch when a subscribed topic is not as it was."""
        effects = Effects()
        differ = any(self.stored.subscribes(name) for names in (deleted, changed) for name in names)
        for pattern in self.stored.used_patterns():
            before = self.stored.matches(pattern)
            matched = self._matching(pattern, changed, before & changed, steps, effects)
            after = (before - deleted - changed) | matched
            if after != before:
                effects.records.append(self.stored.set_pattern(pattern, after, now_ms))
                differ = True
        if differ:
            self.settle(effects, now_ms, changed=self._topics_differ())
        return effects

    def matched(self, pattern: str, topics: frozenset[str], now_ms: int) -> Effects:
        """`Effects.patterns` asked for this."""
        effects = Effects()
        if pattern in self.stored.patterns:
            existing = frozenset(name for name in topics if self.topics.partition_count(name) is not None)
            if existing != self.stored.matches(pattern):
                effects.records.append(self.stored.set_pattern(pattern, existing, now_ms))
                self.settle(effects, now_ms, changed=self._topics_differ())
        return effects

    def uses(self, pattern: str) -> bool:
        """Whether a member subscribes by that pattern."""
        return pattern in self.stored.used_patterns()

    def replay(self, record: Record, now_ms: int) -> None:  # noqa: ARG002  (as every kind of group)
        """Take over a stored record."""
        self.stored.replay(record)

    def loaded(self, steps: Steps, now_ms: int) -> Effects:
        """Sessions begin anew; what changed about topics in between is noticed. The topics must be known by now."""
        effects = Effects()
        for member in self.stored.members.values():
            self.begin_session(member, now_ms)
            self._begin_revocation(member, now_ms)
        self._match_patterns(effects, steps, now_ms)
        self.settle(effects, now_ms, changed=self._topics_differ())
        return effects

    def records(self) -> list[Record]:
        """All that makes this group again."""
        return self.stored.records()

    def tombstones(self) -> list[Record]:
        """All that makes the log forget it."""
        return self.stored.tombstones()

    def subscribes(self, topic: str) -> bool:
        """Whether a member reads it, by name or pattern."""
        return self.stored.subscribes(topic)

    def kept_since_ms(self, commit_ms: int) -> int | None:
        """An offset's retention counts from its commit, but not from before the last member went."""
        return max(commit_ms, self._empty_since_ms or commit_ms) if self.is_empty else commit_ms

    def check_commit(self, event: CommitOffsets, now_ms: int) -> None:
        """Raise unless it comes from a member at its epoch, or from outside while there are no members."""
        if event.generation_id < 0 and self.is_empty:
            return
        member = self.member(event.member_id, event.instance_id)
        if not member.is_classic and not event.knows_member_epochs:
            raise UnsupportedVersion("Members that speak KIP-848 commit by OffsetCommit version 9 or above.")
        _check_epoch_of_offsets(member, event.generation_id)
        if member.is_classic:
            self.begin_session(member, now_ms)

    def check_fetch(self, event: FetchOffsets) -> None:
        """Raise when a member asks that is none, or at another epoch."""
        if event.member_id is None or event.member_epoch < 0:
            return
        _check_epoch_of_offsets(self.member(event.member_id), event.member_epoch)

    def _heartbeat(self, event: ConsumerGroupHeartbeat, now_ms: int) -> Effects:
        check_heartbeat(event, self._settings, self.stored.patterns)
        if event.member_epoch < JOIN_EPOCH:
            return self._leave(event, now_ms)
        known = self.stored.members.get(event.member_id)
        self.check_size(event.member_id, _facts_told(event, known.facts if known else NOBODY))
        effects = Effects()
        joins = event.member_epoch == JOIN_EPOCH
        member_id = self._place(event, effects) if joins else self._checked(event).member_id
        known = self.stored.members.get(member_id)
        facts = _facts_told(event, known.facts if known else NOBODY)
        changed = self.take_facts(member_id, facts, effects, now_ms)
        member = self.stored.members[member_id]
        self.begin_session(member, now_ms)
        if changed or self._is_assigning:
            # A member's new subscription takes effect at once: it must not be told to read what it does not want.
            self.settle(effects, now_ms, changed=changed, at_once=changed and known is not None)
        had = member.current.assigned
        self.step(member, event.owned, effects, now_ms)
        self.wake(effects, member.session_deadline_ms)
        self.wake(effects, member.revoke_deadline_ms)
        told = member.current.assigned if _is_full(event) or member.current.assigned != had else None
        result = ConsumerGroupHeartbeatResult(
            0, None, member_id, member.current.epoch, self._interval_ms(event, now_ms), told
        )
        effects.replies.append(Reply(event.token, result))
        return effects

    def _leave(self, event: ConsumerGroupHeartbeat, now_ms: int) -> Effects:
        effects = Effects()
        member = self.member(event.member_id, event.instance_id)
        if event.member_epoch == LEAVE_EPOCH:
            effects.notices.append(f"{self.shown(member)} left")
            self.remove(member, effects, now_ms)
            self.settle(effects, now_ms, changed=True)
        else:
            left = member.current._replace(epoch=LEAVE_STATIC_EPOCH, state=MemberState.STABLE, revoking={})
            effects.records.append(self.stored.set_current(member, left))
            member.revoke_deadline_ms = None
        result = ConsumerGroupHeartbeatResult(0, None, event.member_id, event.member_epoch)
        effects.replies.append(Reply(event.token, result))
        return effects

    def _place(self, event: ConsumerGroupHeartbeat, effects: Effects) -> str:
        """The member id under which one joins, or joins again: that of a new member, or of one that is there."""
        member_id = event.member_id or event.fresh_id or ""
        holder = self.stored.static_member(event.instance_id) if event.instance_id is not None else None
        if holder is None:
            self.check_room(member_id)
        elif holder.member_id != member_id:
            if holder.current.epoch != LEAVE_STATIC_EPOCH and not holder.is_classic:
                raise UnreleasedInstanceId(
                    f"Static member {member_id} with instance id {event.instance_id} cannot join the group: "
                    f"member {holder.member_id} still holds the instance id."
                )
            self.replace_static(holder, member_id, effects)
        elif holder.current.epoch == LEAVE_STATIC_EPOCH:
            back = NEW._replace(previous_epoch=0, assigned=holder.current.assigned)
            effects.records.append(self.stored.set_current(holder, back))
        return member_id

    def _checked(self, event: ConsumerGroupHeartbeat) -> ConsumerMember:
        """A member at its epoch, or at the one before if it may not have heard of the new one."""
        member = self.member(event.member_id, event.instance_id)
        current = member.current
        told = f"({event.member_epoch}) than the one known by the group coordinator ({current.epoch})"
        if event.member_epoch > current.epoch:
            raise FencedMemberEpoch(
                f"The consumer group member has a greater member epoch {told}. "
                "The member must abandon all its partitions and rejoin."
            )
        if event.member_epoch < current.epoch:
            missed = event.member_epoch == current.previous_epoch and event.owned is not None
            if not missed or not is_subset(event.owned or {}, current.assigned):
                raise FencedMemberEpoch(
                    f"The consumer group member has a smaller member epoch {told}. "
                    "The member must abandon all its partitions and rejoin."
                )
        return member

    def _interval_ms(self, event: ConsumerGroupHeartbeat, now_ms: int) -> int:
        interval_ms = self._settings.consumer_heartbeat_interval_ms
        if event.member_epoch != JOIN_EPOCH or self._assign_at_ms is None:
            return interval_ms
        return min(interval_ms, max(1, self._assign_at_ms - now_ms))  # its first partitions are but a moment away

    def _described(self) -> ConsumerGroupDescribeResult:
        stored = self.stored
        members = tuple(
            DescribedConsumer(
                member.member_id,
                member.facts.instance_id,
                member.facts.rack_id,
                member.current.epoch,
                member.facts.client_id,
                member.facts.client_host,
                member.facts.topics,
                member.facts.pattern,
                member.current.assigned,
                stored.target(member.member_id),
                member.is_classic,
            )
            for member in stored.members.values()
        )
        return ConsumerGroupDescribeResult(
            0, None, self.state, stored.epoch, stored.assignment_epoch, self.assignor, members
        )


def _facts_told(event: ConsumerGroupHeartbeat, before: MemberFacts) -> MemberFacts:
    """What is known of a member after this heartbeat: None means unchanged."""
    same_client = (event.client_id, event.client_host) == (before.client_id, before.client_host)
    if same_client and event.topics is None and event.pattern is None and event.rebalance_timeout_ms == -1:
        told = (event.instance_id, event.rack_id, event.assignor)
        if told in ((None, None, None), (before.instance_id, before.rack_id, before.assignor)) and not before.classic:
            return before  # the heartbeat of a member to which nothing happened
    return MemberFacts(
        before.instance_id if event.instance_id is None else event.instance_id,
        before.rack_id if event.rack_id is None else event.rack_id,
        event.client_id,
        event.client_host,
        before.topics if event.topics is None else tuple(sorted(set(event.topics))),
        before.pattern if event.pattern is None else event.pattern or None,
        before.rebalance_timeout_ms if event.rebalance_timeout_ms == -1 else event.rebalance_timeout_ms,
        before.assignor if event.assignor is None else event.assignor,
    )


def _is_full(event: ConsumerGroupHeartbeat) -> bool:
    """It tells all, so it must be told all: it joins, or has lost an answer."""
    subscription = event.topics is not None or event.pattern is not None
    return event.member_epoch == JOIN_EPOCH or (
        event.rebalance_timeout_ms != -1 and subscription and event.owned is not None
    )


def _overdue(member: ConsumerMember, now_ms: int) -> str:
    """Why a member is to be put out; "" when it is not."""
    reasons = (
        (member.session_deadline_ms, "its session timed out without a heartbeat"),
        (member.revoke_deadline_ms, "it did not give up its partitions within its rebalance timeout"),
        (member.join_deadline_ms, "it did not join again within its rebalance timeout"),
        (member.sync_deadline_ms, "it did not ask for its assignment within its rebalance timeout"),
    )
    return next((why for deadline_ms, why in reasons if deadline_ms is not None and now_ms >= deadline_ms), "")


def _check_epoch_of_offsets(member: ConsumerMember, epoch: int) -> None:
    if epoch == member.current.epoch:
        return
    known = f"member {member.member_id} is at {member.current.epoch}, not at {epoch}."
    if member.is_classic:
        raise IllegalGeneration(f"The generation is not the member's: {known}")
    raise StaleMemberEpoch(f"The member epoch is stale: {known}")
