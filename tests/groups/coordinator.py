"""A coordinator on paper for tests: `Groups` with a log, a clock that only tests move, and the answers it gave."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kbroker.groups import protocol
from kbroker.groups.effects import Effects, Record
from kbroker.groups.events import (
    CommitOffsets,
    CommitOffsetsResult,
    DescribeGroup,
    DescribeGroupResult,
    FetchOffsets,
    FetchOffsetsResult,
    Heartbeat,
    HeartbeatResult,
    JoinGroup,
    JoinGroupResult,
    LeaveGroup,
    LeaveGroupResult,
    LeavingMember,
    OffsetToCommit,
    SyncGroup,
    SyncGroupResult,
)
from kbroker.groups.groups import Groups
from kbroker.groups.settings import GroupSettings

START_MS = 1_700_000_000_000
GROUP = "g"
SECOND = 1_000


class FakeTopics:
    """Topics by name, with how many partitions they have."""

    def __init__(self, **counts: int) -> None:
        self.counts = dict(counts)

    def partition_count(self, name: str) -> int | None:
        return self.counts.get(name)

    def id_of(self, name: str) -> bytes | None:
        return name.encode().ljust(16, b"\0") if name in self.counts else None

    def name_of(self, topic_id: bytes) -> str | None:
        return next((name for name in self.counts if self.id_of(name) == topic_id), None)

    def names(self) -> Iterable[str]:
        return list(self.counts)


def subscription(*topics: str) -> bytes:
    return protocol.encode_subscription(protocol.Subscription(topics))


@dataclass
class Coordinator:
    """Everything that `Groups` gives is stored and sent at once."""

    settings: GroupSettings = field(default_factory=lambda: GroupSettings(initial_rebalance_delay_ms=0))
    topics: FakeTopics = field(default_factory=lambda: FakeTopics(a=4, b=2))
    now_ms: int = START_MS
    log: list[Record] = field(default_factory=list)
    answers: dict[Any, Any] = field(default_factory=dict)
    wakes: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    wanted: list[tuple[str, str]] = field(default_factory=list)
    """Patterns that are to be matched away from the loop, with their groups."""

    def __post_init__(self) -> None:
        self.groups = Groups(self.settings, self.topics)
        self._numbers = itertools.count()

    # --- what a driver does ---

    def perform(self, group_id: str, effects: Effects) -> None:
        self.log += effects.records
        self.notices += effects.notices
        self.wanted += [(group_id, pattern) for pattern in effects.patterns]
        for reply in effects.replies:
            assert reply.token not in self.answers, f"{reply.token} is answered twice"
            self.answers[reply.token] = reply.message
        if effects.wake_ms is not None:
            self.wakes[group_id] = effects.wake_ms

    def give(self, event: Any) -> Any:
        """Hand an event over; its answer, or None while it waits."""
        self.perform(event.group_id, self.groups.handle(event, self.now_ms))
        return self.answers.get(event.token)

    def advance(self, ms: int) -> None:
        """Let time pass, and tick whatever is due on the way."""
        end_ms = self.now_ms + ms
        for _ in range(100_000):
            due = [(at_ms, group_id) for group_id, at_ms in self.wakes.items() if at_ms <= end_ms]
            if not due:
                self.now_ms = end_ms
                return
            at_ms, group_id = min(due)
            self.now_ms = max(self.now_ms, at_ms)
            del self.wakes[group_id]
            self.perform(group_id, self.groups.tick(group_id, self.now_ms))
        raise AssertionError("the group asks to be woken without end")

    def restart(self) -> None:
        """A new process, which knows the log only."""
        self.groups = Groups(self.settings, self.topics)
        self.wakes.clear()
        for record in self.log:
            self.groups.replay(record, self.now_ms)
        for group_id, effects in self.groups.loaded(self.now_ms):
            self.perform(group_id, effects)

    # --- what clients ask ---

    def token(self) -> int:
        return next(self._numbers)

    def join(self, member_id: str = "", **changes: Any) -> Joining:
        token = self.token()
        facts: dict[str, Any] = {
            "group_id": GROUP,
            "member_id": member_id,
            "instance_id": None,
            "client_id": "c",
            "client_host": "127.0.0.1",
            "protocol_type": "consumer",
            "protocols": (("range", subscription("a")),),
            "session_timeout_ms": 10 * SECOND,
            "rebalance_timeout_ms": 30 * SECOND,
            "fresh_id": f"id{token}",
            "requires_known_member_id": False,
        }
        event = JoinGroup(token=token, **(facts | changes))
        self.give(event)
        return Joining(self, event)

    def sync(
        self, member_id: str, generation_id: int, assignments: dict[str, bytes] | None = None, **changes: Any
    ) -> Syncing:
        facts: dict[str, Any] = {"group_id": GROUP, "member_id": member_id, "instance_id": None}
        given = tuple((assignments or {}).items())
        event = SyncGroup(token=self.token(), generation_id=generation_id, assignments=given, **(facts | changes))
        self.give(event)
        return Syncing(self, event)

    def heartbeat(self, member_id: str, generation_id: int, instance_id: str | None = None, group: str = GROUP) -> int:
        answer = self.give(Heartbeat(group, self.token(), member_id, instance_id, generation_id))
        assert isinstance(answer, HeartbeatResult)
        return answer.error_code

    def leave(self, *members: LeavingMember, group: str = GROUP) -> LeaveGroupResult:
        answer = self.give(LeaveGroup(group, self.token(), members))
        assert isinstance(answer, LeaveGroupResult)
        return answer

    def commit(self, *offsets: OffsetToCommit, **changes: Any) -> tuple[int, ...]:
        facts: dict[str, Any] = {"group_id": GROUP, "member_id": "", "instance_id": None, "generation_id": -1}
        answer = self.give(CommitOffsets(token=self.token(), offsets=offsets, **(facts | changes)))
        assert isinstance(answer, CommitOffsetsResult)
        return answer.error_codes

    def fetch(self, *partitions: tuple[str, int], group: str = GROUP) -> FetchOffsetsResult:
        answer = self.give(FetchOffsets(group, self.token(), partitions or None))
        assert isinstance(answer, FetchOffsetsResult)
        return answer

    def describe(self, group: str = GROUP) -> DescribeGroupResult:
        answer = self.give(DescribeGroup(group, self.token()))
        assert isinstance(answer, DescribeGroupResult)
        return answer

    @property
    def state(self) -> str:
        return self.describe().state

    # --- whole steps ---

    def stable(self, count: int = 2, **changes: Any) -> list[str]:
        """A stable group of so many members; the first leads. Their ids."""
        joined = [self.join(**changes) for _ in range(count)]
        self.advance(0)
        ids = [each.answer.member_id for each in joined]
        self.synced(ids, joined[0].answer.generation_id)
        return ids

    def synced(self, ids: list[str], generation_id: int) -> None:
        """Members that have joined ask for their assignments; the first leads."""
        leader, *others = ids
        syncs = [self.sync(member_id, generation_id) for member_id in others]
        syncs.append(self.sync(leader, generation_id, {member_id: member_id.encode() for member_id in ids}))
        assert [each.error for each in syncs] == [0] * len(ids)


@dataclass
class _Asked:
    coordinator: Coordinator
    event: Any

    @property
    def waits(self) -> bool:
        return self.event.token not in self.coordinator.answers

    @property
    def error(self) -> int:
        code: int = self.coordinator.answers[self.event.token].error_code
        return code


class Joining(_Asked):
    @property
    def answer(self) -> JoinGroupResult:
        answer = self.coordinator.answers[self.event.token]
        assert isinstance(answer, JoinGroupResult)
        return answer


class Syncing(_Asked):
    @property
    def answer(self) -> SyncGroupResult:
        answer = self.coordinator.answers[self.event.token]
        assert isinstance(answer, SyncGroupResult)
        return answer
