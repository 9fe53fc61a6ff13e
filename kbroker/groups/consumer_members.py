"""The members of a consumer group: who they are, the epochs of the group, what each is to read, and its next step.

Both kinds of members go through this: those that speak KIP-848 (`consumer.py`), and those of the classic protocol while
a group moves between the two (`consumer_classic.py`).
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from kbroker.errors import FencedInstanceId, GroupMaxSizeReached, InvalidRegularExpression, UnknownMemberId
from kbroker.groups.assignment import Assignment
from kbroker.groups.assignors import ASSIGNORS, Subscriber
from kbroker.groups.consumer_events import LEAVE_STATIC_EPOCH
from kbroker.groups.consumer_member import NEW, ConsumerMember, reconciled
from kbroker.groups.consumer_records import NOBODY, MemberFacts, MemberState
from kbroker.groups.consumer_state import ConsumerGroupState, metadata_hash
from kbroker.groups.effects import Effects, shown, shown_member
from kbroker.groups.kind import Topics
from kbroker.groups.patterns import Steps, matching_within
from kbroker.groups.room import MEMBER_BYTES, NAME_BYTES, PARTITION_BYTES, TARGET_BYTES, Room, no_room
from kbroker.groups.settings import GroupSettings

ASSIGNED_IN_A_MS: Final = 10
"""A group of N partitions and members is assigned anew every N / 10 ms at most: that is a tenth of the time."""
NO_ROOM_PAUSE_MS: Final = 60_000
"""So long after there was no room for an assignment it is tried again."""


class ConsumerMembers:
    """A group's members. What is stored of them is `stored`; the rest is deadlines."""

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
    def assignor(self) -> str:
        """The one that most members name; else the first that the settings name."""
        allowed = self._settings.consumer_assignors
        votes = Counter(m.facts.assignor for m in self.stored.members.values() if m.facts.assignor in allowed)
        return max(allowed, key=lambda name: votes[name])

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

    @property
    def _is_assigning(self) -> bool:
        return self.stored.epoch > self.stored.assignment_epoch

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
