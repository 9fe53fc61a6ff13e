"""What a classic group is at any moment: its state, generation, protocol, members, and the record that stores it."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Final

from kbroker.errors import IllegalGeneration, RebalanceInProgress, UnknownMemberId
from kbroker.groups import group_records, protocol
from kbroker.groups.classic_member import ClassicMember, from_facts
from kbroker.groups.classic_members import ClassicMembers
from kbroker.groups.effects import Record
from kbroker.groups.events import CommitOffsets, DescribeGroupResult, JoinGroupResult, SyncGroupResult
from kbroker.groups.fields import MalformedFields
from kbroker.groups.group_records import GroupFacts


class State(StrEnum):
    """As Kafka names them."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


_TRANSITIONS: Final = frozenset(
    {
        (State.EMPTY, State.PREPARING),
        (State.PREPARING, State.EMPTY),
        (State.PREPARING, State.COMPLETING),
        (State.COMPLETING, State.STABLE),
        (State.COMPLETING, State.PREPARING),
        (State.STABLE, State.PREPARING),
    }
)


class ClassicGroupState:
    """No deadlines, no requests but those that wait at its members."""

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.state = State.EMPTY
        self.since_ms = -1
        """Since when it has been in that state; -1: not known."""
        self.generation_id = 0
        self.protocol_type: str | None = None
        self.protocol_name: str | None = None
        """None while the group is empty."""
        self.members = ClassicMembers()
        self.topics: frozenset[str] | None = None
        """What the members read; None: they do not say, or not so that we understand it."""

    def become(self, state: State, now_ms: int) -> None:
        """Go on to another state, which must be one that can follow."""
        if (self.state, state) not in _TRANSITIONS:
            raise AssertionError(f"a group does not go from {self.state} to {state}")
        self.state = state
        self.since_ms = now_ms

    def next_generation(self, now_ms: int) -> None:
        """Those who have joined are the group now, and what they have in common is its protocol."""
        self.generation_id += 1
        self.protocol_name = self.members.select_protocol() if len(self.members) else None
        self.topics = self._topics_of_all()
        self.become(State.COMPLETING if len(self.members) else State.EMPTY, now_ms)

    def check_generation(self, generation_id: int) -> None:
        """Raise for requests from before a rebalance."""
        if generation_id != self.generation_id:
            raise IllegalGeneration(f"the group is at generation {self.generation_id}, not {generation_id}")

    def understands(self, protocol_type: str, protocols: Collection[str]) -> bool:
        """Whether one who speaks these can be a member."""
        if self.state is State.EMPTY:
            return bool(protocol_type and protocols)
        return protocol_type == self.protocol_type and self.members.speak_one_of(protocols)

    # --- offsets ---

    def check_commit(self, event: CommitOffsets) -> ClassicMember | None:
        """Members commit in their generation, others (None) while there are no members; raise for the rest."""
        if event.generation_id < 0 and self.state is State.EMPTY:
            return None
        if event.generation_id < 0 and not event.member_id and event.instance_id is None:
            raise UnknownMemberId("the group has members: only they commit")
        member = self.members.check(event.member_id, event.instance_id)
        self.check_generation(event.generation_id)
        if self.state is State.COMPLETING:
            raise RebalanceInProgress("the assignment of this generation is not known yet")
        return member

    def kept_since_ms(self, commit_ms: int) -> int | None:
        """Offsets of an empty group count from when it became empty, those of a topic left by a stable group and those
        of clients that are no members from their commit; in other states nothing expires."""
        if self.protocol_type is None:
            return commit_ms
        if self.state is State.EMPTY:
            return commit_ms if self.since_ms < 0 else self.since_ms
        if self.state is State.STABLE and self.topics is not None:
            return commit_ms
        return None

    # --- topics ---

    def subscribes(self, topic: str) -> bool:
        """Whether a member reads that topic; consumers of whom it is not known may read any."""
        if self.topics is None:
            return self.protocol_type == protocol.PROTOCOL_TYPE
        return topic in self.topics

    def topics_of(self, member: ClassicMember) -> frozenset[str] | None:
        """The topics that a consumer reads; None for others, and where its metadata is not understood."""
        metadata = member.protocols.get(self.protocol_name or "")
        if metadata is None or self.protocol_type != protocol.PROTOCOL_TYPE:
            return None
        try:
            return protocol.subscribed_topics(metadata)
        except MalformedFields:
            return None

    def _topics_of_all(self) -> frozenset[str] | None:
        found: set[str] = set()
        if self.protocol_type != protocol.PROTOCOL_TYPE:
            return None
        for member in self.members:
            topics = self.topics_of(member)
            if topics is None:
                return None
            found |= topics
        return frozenset(found)

    # --- what is told ---

    def joined(
        self, member: ClassicMember, *, skip_assignment: bool = False, leader: str | None = None
    ) -> JoinGroupResult:
        """What a member is told after the joining phase. `leader`: whom it is to take for the leader."""
        name, leader = self.protocol_name, leader or self.members.leader
        assert name is not None
        assert leader is not None
        members = tuple(each.joined(name) for each in self.members) if leader == member.member_id else ()
        return JoinGroupResult(
            0, member.member_id, self.generation_id, self.protocol_type, name, leader, skip_assignment, members
        )

    def synced(self, member: ClassicMember) -> SyncGroupResult:
        """What a member is told when the leader's assignment is known."""
        return SyncGroupResult(0, self.protocol_type, self.protocol_name, member.assignment)

    def described(self) -> DescribeGroupResult:
        """For an administrator; metadata and assignments are shown while they belong together."""
        protocol_name = self.protocol_name if self.state is State.STABLE else None
        members = tuple(member.described(protocol_name) for member in self.members)
        state, protocol_type = self.state.value, self.protocol_type or ""
        return DescribeGroupResult(0, None, state, protocol_type, protocol_name or "", members)

    # --- what is stored ---

    def record(self) -> Record:
        """The record that stores it, between rebalances."""
        name = self.protocol_name
        return group_records.encode(
            self.group_id,
            GroupFacts(
                self.protocol_type or "",
                self.generation_id,
                name,
                self.members.leader,
                self.since_ms,
                () if name is None else tuple(member.facts(name) for member in self.members),
            ),
        )

    def load(self, facts: GroupFacts) -> None:
        """Become what was stored."""
        self.state = State.STABLE if facts.members else State.EMPTY
        self.since_ms = facts.since_ms
        self.generation_id = facts.generation_id
        self.protocol_type = facts.protocol_type or None
        self.protocol_name = facts.protocol_name
        self.members = ClassicMembers()
        for member in facts.members:
            self.members.add(from_facts(member, facts.protocol_name))
        self.members.leader = facts.leader
        self.topics = self._topics_of_all()
