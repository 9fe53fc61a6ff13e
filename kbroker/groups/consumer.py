"""A consumer group (KIP-848): the coordinator decides who reads what, and leads each member there by its heartbeats.

    heartbeat ──► what the member tells ──► group epoch ──► targets (assignment epoch) ──► its next step ──► answer

The group epoch rises when members, subscriptions or topics change. Targets are computed once per epoch at most, and in
a burst of changes once per `consumer_assignment_interval_ms`. A member's step is a pure function of what it has, its
target, and what others still hold (`consumer_member.reconciled`).
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Final

from kbroker.errors import (
    FencedInstanceId,
    FencedMemberEpoch,
    GroupMaxSizeReached,
    IllegalGeneration,
    InvalidRegularExpression,
    StaleMemberEpoch,
    UnknownMemberId,
    UnreleasedInstanceId,
    UnsupportedVersion,
)
from kbroker.groups.assignment import Assignment, is_subset
from kbroker.groups.assignors import ASSIGNORS, Subscriber
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
from kbroker.groups.consumer_member import NEW, ConsumerMember, reconciled
from kbroker.groups.consumer_records import NOBODY, MemberFacts, MemberState
from kbroker.groups.consumer_state import ConsumerGroupState, metadata_hash
from kbroker.groups.effects import Effects, Record, Reply, shown, shown_member
from kbroker.groups.events import (
    CommitOffsets,
    DescribeGroup,
    FetchOffsets,
    Heartbeat,
    JoinGroup,
    LeaveGroup,
    SyncGroup,
)
from kbroker.groups.kind import Topics
from kbroker.groups.patterns import Steps, matching_within
from kbroker.groups.protocol import PROTOCOL_TYPE
from kbroker.groups.room import MEMBER_BYTES, NAME_BYTES, PARTITION_BYTES, TARGET_BYTES, Room, no_room
from kbroker.groups.settings import GroupSettings

ASSIGNED_IN_A_MS: Final = 10
"""A group of N partitions and members is assigned anew every N / 10 ms at most: that is a tenth of the time."""
NO_ROOM_PAUSE_MS: Final = 60_000
"""So long after there was no room for an assignment it is tried again."""


class ConsumerGroup:
    """One group. What is stored of it is `stored`; the rest is deadlines."""

    type_name: ClassVar = "consumer"
    protocol_type: Final = PROTOCOL_TYPE

    def __init__(self, group_id: str, settings: GroupSettings, topics: Topics, room: Room) -> None:
        self.group_id = group_id
        self._room = room
        self.stored = ConsumerGroupState(group_id)
        self._settings = settings
        self.topics = topics
        self._assigned_ms: int | None = None
        self._assign_at_ms: int | None = None
        self._assign_pause_ms = 0
        """Between two assignments at least, so that a large group's members cannot keep the loop busy."""
        self._patterns_due_ms: int | None = None
        self._wake_ms: int | None = None
        self._empty_since_ms: int | None = None

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

    @property
    def assignor(self) -> str:
        """The one that most members name; else the first that the settings name."""
        allowed = self._settings.consumer_assignors
        votes = Counter(m.facts.assignor for m in self.stored.members.values() if m.facts.assignor in allowed)
        return max(allowed, key=lambda name: votes[name])

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

    # --- for this group's own files: this one, and its classic members' (consumer_classic.py) ---

    def member(self, member_id: str, instance_id: str | None = None) -> ConsumerMember:
        """The member that an event names, or an error that says why there is none."""
        if instance_id is not None:
            holder = self.stored.static_member(instance_id)
            if holder is None:
                raise UnknownMemberId(f"Instance id {instance_id} is unknown in group {self.group_id}.")
            if holder.member_id != member_id:
                raise FencedInstanceId(
                    f"Member {member_id} was fenced: instance id {instance_id} belongs to {holder.member_id} now."
                )
        member = self.stored.members.get(member_id)
        if member is None:
            raise UnknownMemberId(f"Member {member_id} is not a member of group {self.group_id}.")
        return member

    def check_room(self, member_id: str) -> None:
        """Raise when the group is full and this is nobody of it."""
        most = self._settings.consumer_max_size
        if len(self.stored.members) >= most and member_id not in self.stored.members:
            raise GroupMaxSizeReached(f"The consumer group has reached its maximum capacity of {most} members.")

    def check_size(self, member_id: str, facts: MemberFacts) -> None:
        """Raise when what this member tells is too much beside what the others have told."""
        member = self.stored.members.get(member_id)
        before = member.facts if member else NOBODY
        if facts is before:
            return
        told_bytes = facts.size_bytes - before.size_bytes
        most = self._settings.group_bytes_max
        if self.stored.facts_bytes + told_bytes > most:
            raise GroupMaxSizeReached(f"The group's members tell more than {most} bytes about themselves.")
        added = [name for name in facts.topics if not self.stored.subscribes(name)]
        partitions = sum(self.topics.partition_count(name) or 0 for name in added)
        more_bytes = told_bytes + (len(facts.topics) - len(before.topics)) * NAME_BYTES
        more_bytes += partitions * (PARTITION_BYTES + TARGET_BYTES) + (MEMBER_BYTES if member is None else 0)
        if not self._room.has(more_bytes):
            raise GroupMaxSizeReached(no_room(self._room))

    def take_facts(self, member_id: str, facts: MemberFacts, effects: Effects, now_ms: int) -> bool:
        """Store what a member tells about itself, if that is news; whether it changes who may read what."""
        member = self.stored.members.get(member_id)
        before = member.facts if member else None
        if facts == before:
            return False
        effects.records.append(self.stored.set_facts(member_id, facts))
        if facts.pattern is not None and facts.pattern not in self.stored.patterns:
            topics = self._matching(facts.pattern, self._names(), frozenset(), Steps(), effects)
            effects.records.append(self.stored.set_pattern(facts.pattern, topics, now_ms))
            self._patterns_due_ms = self._patterns_due_ms or now_ms + self._settings.consumer_regex_refresh_interval_ms
        effects.records += self.stored.drop_unused_patterns()
        return before is None or (before.topics, before.pattern) != (facts.topics, facts.pattern)

    def shown(self, member: ConsumerMember) -> str:
        """As it stands in a notice."""
        facts = member.facts
        return shown_member(self.group_id, member.member_id, facts.client_id, facts.client_host)

    def replace_static(self, holder: ConsumerMember, member_id: str, effects: Effects) -> ConsumerMember:
        """The same static member under a new id: it keeps its target, and owns nothing until it is told."""
        if holder.current.epoch != LEAVE_STATIC_EPOCH:
            effects.notices.append(
                f"{self.shown(holder)} was put out: it is fenced, for {shown(member_id)} has come with its instance id "
                f"{shown(holder.facts.instance_id or '')}"
            )
        current = NEW._replace(previous_epoch=0, assigned=holder.current.assigned)
        effects.records += self.stored.rename(holder, member_id, current)
        return self.stored.members[member_id]

    def remove(self, member: ConsumerMember, effects: Effects, now_ms: int) -> None:
        """Forget a member; the caller settles."""
        effects.records += self.stored.remove(member)
        if not self.stored.members:
            self._empty_since_ms = now_ms

    def settle(self, effects: Effects, now_ms: int, *, changed: bool = False, at_once: bool = False) -> None:
        """After a change: the next epoch, its targets now or soon, and when to look again."""
        if changed:
            topics = metadata_hash(self.stored.metadata(self.topics))
            effects.records.append(self.stored.set_epoch(self.stored.epoch + 1, topics))
        if self.stored.members and self.stored.epoch > self.stored.assignment_epoch:
            self._assign_when_due(effects, now_ms, at_once)
        else:
            self._assign_at_ms = None
        self._wake_by_deadlines(effects)

    def step(self, member: ConsumerMember, owned: Assignment | None, effects: Effects, now_ms: int) -> None:
        """Lead a member one step on. `owned`: what it says that it has."""
        stored = self.stored
        if member.is_reconciled(stored.assignment_epoch):
            return
        after = reconciled(
            member.current,
            stored.target(member.member_id),
            stored.assignment_epoch,
            owned,
            lambda partition: stored.is_free(partition, member.member_id),
        )
        if after != member.current:
            effects.records.append(stored.set_current(member, after))
            self._begin_revocation(member, now_ms)

    def begin_session(self, member: ConsumerMember, now_ms: int) -> None:
        """It was heard of just now."""
        classic = member.facts.classic
        timeout_ms = classic.session_timeout_ms if classic else self._settings.consumer_session_timeout_ms
        member.session_deadline_ms = now_ms + timeout_ms

    def wake(self, effects: Effects, deadline_ms: int | None) -> None:
        """Tick at that time, unless there is an earlier one."""
        if deadline_ms is not None and (self._wake_ms is None or deadline_ms < self._wake_ms):
            self._wake_ms = effects.wake_ms = deadline_ms

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

    @property
    def _is_assigning(self) -> bool:
        return self.stored.epoch > self.stored.assignment_epoch

    def _interval_ms(self, event: ConsumerGroupHeartbeat, now_ms: int) -> int:
        interval_ms = self._settings.consumer_heartbeat_interval_ms
        if event.member_epoch != JOIN_EPOCH or self._assign_at_ms is None:
            return interval_ms
        return min(interval_ms, max(1, self._assign_at_ms - now_ms))  # its first partitions are but a moment away

    def _assign_when_due(self, effects: Effects, now_ms: int, at_once: bool) -> None:
        since_ms, interval_ms = self._assigned_ms, self._settings.consumer_assignment_interval_ms
        due_ms = 0 if since_ms is None else since_ms + max(interval_ms, self._assign_pause_ms)
        if (at_once and self._assign_pause_ms <= interval_ms) or now_ms >= due_ms:
            self._assign(effects, now_ms)
        else:
            self._assign_at_ms = due_ms

    def _assign(self, effects: Effects, now_ms: int) -> None:
        stored = self.stored
        topics = stored.metadata(self.topics)
        partitions = sum(count for _, count in topics.values())
        self._assigned_ms, self._assign_at_ms = now_ms, None
        self._assign_pause_ms = (partitions + len(stored.members)) // ASSIGNED_IN_A_MS
        if not self._room.has(partitions * (PARTITION_BYTES + TARGET_BYTES) - stored.partitions_bytes):
            self._assign_pause_ms = NO_ROOM_PAUSE_MS
            self._assign_at_ms = now_ms + NO_ROOM_PAUSE_MS
            effects.notices.append(
                f"group {shown(self.group_id)}: {partitions} partitions are not assigned: {no_room(self._room)}"
            )
            return
        ids: dict[tuple[tuple[str, ...], str | None], frozenset[bytes]] = {}
        subscribers = {}
        for member in stored.members.values():
            subscription = member.facts.topics, member.facts.pattern
            if subscription not in ids:
                ids[subscription] = frozenset(topics[name][0] for name in stored.topics_of(member) if name in topics)
            subscribers[member.member_id] = Subscriber(
                ids[subscription], stored.target(member.member_id), member.facts.instance_id
            )
        effects.records += stored.set_targets(ASSIGNORS[self.assignor](subscribers, dict(topics.values())))

    def _topics_differ(self) -> bool:
        """Whether a subscribed topic came, went or grew since this epoch."""
        stored = self.stored
        return bool(stored.members) and metadata_hash(stored.metadata(self.topics)) != stored.metadata_hash

    def _match_patterns(self, effects: Effects, steps: Steps, now_ms: int) -> None:
        """Match every pattern against every topic."""
        names = self._names()
        for pattern in list(self.stored.patterns):
            before = self.stored.matches(pattern)
            topics = self._matching(pattern, names, before & names, steps, effects)
            if topics != before:
                effects.records.append(self.stored.set_pattern(pattern, topics, now_ms))
        due_ms = now_ms + self._settings.consumer_regex_refresh_interval_ms
        self._patterns_due_ms = due_ms if self.stored.patterns else None

    def _matching(
        self, pattern: str, names: frozenset[str], otherwise: frozenset[str], steps: Steps, effects: Effects
    ) -> frozenset[str]:
        """Those that match. `otherwise`: what counts for now where it takes long, and always for a pattern that is too
        dear, as an older broker may have taken one."""
        try:
            found = matching_within(pattern, names, steps)
        except InvalidRegularExpression as error:
            effects.notices.append(f"group {shown(self.group_id)}: a pattern is not matched any more: {error}")
            return otherwise
        if found is None:
            effects.patterns.append(pattern)
            return otherwise
        return found

    def _names(self) -> frozenset[str]:
        return frozenset(self.topics.names())

    def _begin_revocation(self, member: ConsumerMember, now_ms: int) -> None:
        waits = member.current.state is MemberState.UNREVOKED_PARTITIONS and not member.is_classic
        member.revoke_deadline_ms = now_ms + member.facts.rebalance_timeout_ms if waits else None

    def _wake_by_deadlines(self, effects: Effects) -> None:
        if self._wake_ms is not None:
            self.wake(effects, self._assign_at_ms)
            return
        for member in self.stored.members.values():
            for deadline_ms in member.deadlines_ms():
                self.wake(effects, deadline_ms)
        self.wake(effects, self._assign_at_ms)
        self.wake(effects, self._patterns_due_ms)

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
