"""Clients of a classic group on paper: each does what a real one does with the answers that it gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kbroker.groups import protocol
from kbroker.groups.events import (
    Heartbeat,
    JoinedMember,
    JoinGroup,
    JoinGroupResult,
    SyncGroup,
    SyncGroupResult,
)

MEMBER_ID_REQUIRED, UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID = 79, 25, 82

TopicPartition = tuple[str, int]


def range_assigned(members: tuple[JoinedMember, ...], counts: Mapping[str, int]) -> dict[str, bytes]:
    """What a leader does: of each topic, every subscriber gets a stretch."""
    subscribed = {each.member_id: protocol.subscribed_topics(each.metadata) for each in members}
    given: dict[str, dict[str, tuple[int, ...]]] = {each.member_id: {} for each in members}
    for topic, count in sorted(counts.items()):
        readers = sorted(member_id for member_id, topics in subscribed.items() if topic in topics)
        for number, member_id in enumerate(readers):
            stretch = range(count * number // len(readers), count * (number + 1) // len(readers))
            given[member_id][topic] = tuple(stretch)
    return {who: protocol.encode_assignment(protocol.Assignment(parts)) for who, parts in given.items()}


@dataclass
class Consumer:
    """One client. It has one request on its way at most; `number` tells clients apart."""

    number: int
    group_id: str
    topics: tuple[str, ...]
    instance_id: str | None = None
    knows_member_id_required: bool = True
    supports_skip_assignment: bool = True
    session_timeout_ms: int = 10_000
    rebalance_timeout_ms: int = 20_000

    member_id: str = ""
    generation_id: int = -1
    owned: frozenset[TopicPartition] = frozenset()
    asked: JoinGroup | SyncGroup | Heartbeat | None = None
    """The event that waits for its answer."""
    joined: JoinGroupResult | None = None
    """It has joined, and is to ask for its assignment next."""
    joined_with: tuple[str, ...] = ()
    """The topics that its last JoinGroup said."""
    stable: bool = False
    fenced: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    """The topics' partitions, as the client knows them."""

    @property
    def is_about_to_assign(self) -> bool:
        """It was told that it leads."""
        return self.joined is not None and self.joined.leader == self.member_id

    def next_event(self, token: Any) -> JoinGroup | SyncGroup | Heartbeat | None:
        """What it asks next, when it has nothing on its way."""
        if self.asked is not None or self.fenced:
            return None
        if self.joined is not None:
            return self._sync(self.joined, token)
        if self.stable:
            heartbeat = Heartbeat(self.group_id, token, self.member_id, self.instance_id, self.generation_id)
            self.asked = heartbeat
            return heartbeat
        self.owned = frozenset()  # eager: nothing is read during a rebalance
        self.joined_with = self.topics
        joining = JoinGroup(
            self.group_id,
            token,
            self.member_id,
            self.instance_id,
            f"client-{self.number}",
            "127.0.0.1",
            protocol.PROTOCOL_TYPE,
            (("range", protocol.encode_subscription(protocol.Subscription(self.topics))),),
            self.session_timeout_ms,
            self.rebalance_timeout_ms,
            f"{self.number}.{token}",
            self.knows_member_id_required,
            self.supports_skip_assignment,
        )
        self.asked = joining
        return joining

    def disconnected(self) -> None:
        """The coordinator died: whatever was on its way is asked again, by joining or a heartbeat."""
        if not isinstance(self.asked, Heartbeat):
            self.stable = False
        self.asked = self.joined = None

    def take(self, answer: Any) -> None:
        """Its answer has come."""
        self.asked = None
        if isinstance(answer, JoinGroupResult) and answer.error_code == MEMBER_ID_REQUIRED:
            self.member_id = answer.member_id
        elif answer.error_code != 0:
            self._refused(answer.error_code)
        elif isinstance(answer, JoinGroupResult):
            self.member_id, self.generation_id = answer.member_id, answer.generation_id
            self.joined = answer
        elif isinstance(answer, SyncGroupResult):
            partitions = protocol.decode_assignment(answer.assignment).partitions
            self.owned = frozenset((topic, number) for topic, numbers in partitions.items() for number in numbers)
            self.stable = self.joined_with == self.topics  # else it joins again at once

    def _sync(self, answer: JoinGroupResult, token: Any) -> SyncGroup:
        self.joined = None
        leads = answer.leader == self.member_id and not answer.skip_assignment
        assignments = range_assigned(answer.members, self.counts) if leads else {}
        syncing = SyncGroup(
            self.group_id,
            token,
            self.member_id,
            self.instance_id,
            self.generation_id,
            answer.protocol_type,
            answer.protocol_name,
            tuple(assignments.items()),
        )
        self.asked = syncing
        return syncing

    def _refused(self, error_code: int) -> None:
        self.stable = False
        if error_code == FENCED_INSTANCE_ID:
            self.fenced = True
            self.owned = frozenset()
        elif error_code == UNKNOWN_MEMBER_ID:
            self.member_id, self.generation_id = "", -1
