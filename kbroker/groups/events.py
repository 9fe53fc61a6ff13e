"""What a classic group, and any group's committed offsets, are asked for, and the answers.

None of this is bound to a protocol: Kafka's requests of all versions and the native ones become these events. Error
codes are Kafka's; 0 is none. `token` is the caller's: the answer comes back as a `Reply` with the same token.
`event.refused(code)` is the answer that says no more than the code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

NO_GENERATION = -1
"""The generation (or epoch) that a commit names which is made outside of a group's membership."""


class JoinedMember(NamedTuple):
    """What the leader is told of a member: its metadata for the protocol that was chosen."""

    member_id: str
    instance_id: str | None
    metadata: bytes


@dataclass(frozen=True, slots=True)
class JoinGroupResult:
    """`leader` is a member id. Only the leader gets `members`. Texts are "" and None where there is nothing to say."""

    error_code: int
    member_id: str
    generation_id: int = NO_GENERATION
    protocol_type: str | None = None
    protocol_name: str | None = None
    leader: str = ""
    skip_assignment: bool = False
    members: tuple[JoinedMember, ...] = ()


@dataclass(frozen=True, slots=True)
class JoinGroup:
    """Become a member, or take part in a rebalance; answered when the rebalance's joining phase is over."""

    group_id: str
    token: Any
    member_id: str
    """"" for a new member."""
    instance_id: str | None
    client_id: str
    client_host: str
    protocol_type: str
    protocols: tuple[tuple[str, bytes], ...]
    """Names and metadata of the protocols that this member can speak, the one it likes best first."""
    session_timeout_ms: int
    rebalance_timeout_ms: int
    """JoinGroup v0 has none: the session timeout."""
    fresh_id: str
    """A new UUID as text: a new member's id is made of it."""
    requires_known_member_id: bool = True
    """JoinGroup v4 and up: a new member is given an id first (MEMBER_ID_REQUIRED) and joins with that."""
    supports_skip_assignment: bool = True
    """JoinGroup v9 and up: the leader can be told that nothing is to be assigned anew."""
    reason: str = ""
    """Why it joins, for the log."""

    def refused(self, error_code: int) -> JoinGroupResult:
        return JoinGroupResult(error_code, self.member_id)


@dataclass(frozen=True, slots=True)
class SyncGroupResult:
    error_code: int
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignment: bytes = b""


@dataclass(frozen=True, slots=True)
class SyncGroup:
    """Ask for one's own assignment; the leader brings everybody's. Answered when the leader's has come."""

    group_id: str
    token: Any
    member_id: str
    instance_id: str | None
    generation_id: int
    protocol_type: str | None = None
    """None where the request has no such field (below SyncGroup v5)."""
    protocol_name: str | None = None
    assignments: tuple[tuple[str, bytes], ...] = ()
    """By member id."""

    def refused(self, error_code: int) -> SyncGroupResult:
        return SyncGroupResult(error_code)


@dataclass(frozen=True, slots=True)
class HeartbeatResult:
    error_code: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    group_id: str
    token: Any
    member_id: str
    instance_id: str | None
    generation_id: int

    def refused(self, error_code: int) -> HeartbeatResult:
        return HeartbeatResult(error_code)


class LeavingMember(NamedTuple):
    """Who leaves: by member id, or a static one by its instance id (then `member_id` may be "")."""

    member_id: str
    instance_id: str | None = None
    reason: str = ""


class LeftMember(NamedTuple):
    """What became of one who asked to leave."""

    member_id: str
    instance_id: str | None
    error_code: int


@dataclass(frozen=True, slots=True)
class LeaveGroupResult:
    """`members` in the order of the request. Below LeaveGroup v3 the only member's error is the answer's."""

    error_code: int
    members: tuple[LeftMember, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaveGroup:
    group_id: str
    token: Any
    members: tuple[LeavingMember, ...]

    def refused(self, error_code: int) -> LeaveGroupResult:
        return LeaveGroupResult(error_code)


class OffsetToCommit(NamedTuple):
    """`leader_epoch` -1: not known."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int = -1
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class CommitOffsetsResult:
    """One code for each of the request's offsets, in their order."""

    error_codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CommitOffsets:
    """Store offsets. Topics and partitions that do not exist are refused one by one."""

    group_id: str
    token: Any
    member_id: str
    """"" outside of a group's membership."""
    instance_id: str | None
    generation_id: int
    """A classic group's generation or a consumer group's member epoch; NO_GENERATION outside of membership."""
    offsets: tuple[OffsetToCommit, ...]
    retention_ms: int = -1
    """How long to keep them from now on (OffsetCommit v2 to v4); -1: the broker's setting."""
    knows_member_epochs: bool = True
    """OffsetCommit v9 and up. Below, members of KIP-848 may not use it, and there is no code GROUP_ID_NOT_FOUND."""

    def refused(self, error_code: int) -> CommitOffsetsResult:
        return CommitOffsetsResult((error_code,) * len(self.offsets))


class FetchedOffset(NamedTuple):
    """A committed offset; `offset` -1: none. `commit_ms`: when it was committed, ms since 1970."""

    topic: str
    partition: int
    offset: int = -1
    leader_epoch: int = -1
    metadata: str = ""
    error_code: int = 0
    commit_ms: int = -1


@dataclass(frozen=True, slots=True)
class FetchOffsetsResult:
    """`error_code` is the whole group's; the offsets are in the order of the request, or by topic and partition."""

    error_code: int
    offsets: tuple[FetchedOffset, ...] = ()


@dataclass(frozen=True, slots=True)
class FetchOffsets:
    """Ask for committed offsets. One who names a member (OffsetFetch v9) must be one."""

    group_id: str
    token: Any
    partitions: tuple[tuple[str, int], ...] | None
    """Topics and partitions; None: all that the group has committed."""
    member_id: str | None = None
    member_epoch: int = NO_GENERATION
    require_stable: bool = False
    """UNSTABLE_OFFSET_COMMIT for what an open transaction may still change."""

    def refused(self, error_code: int) -> FetchOffsetsResult:
        return FetchOffsetsResult(error_code)


@dataclass(frozen=True, slots=True)
class DeleteOffsetsResult:
    """`error_code` is the whole group's; else one code for each of the request's partitions, in their order."""

    error_code: int
    error_codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DeleteOffsets:
    """Forget committed offsets of topics that no member reads now."""

    group_id: str
    token: Any
    partitions: tuple[tuple[str, int], ...]

    def refused(self, error_code: int) -> DeleteOffsetsResult:
        return DeleteOffsetsResult(error_code)


class DescribedMember(NamedTuple):
    """`metadata` is for the chosen protocol; it and the assignment are b"" while there is none."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True)
class DescribeGroupResult:
    """A group that is not there is `Dead` with GROUP_ID_NOT_FOUND; below DescribeGroups v6 that is no error."""

    error_code: int
    error_message: str | None = None
    state: str = "Dead"
    protocol_type: str = ""
    protocol_name: str = ""
    members: tuple[DescribedMember, ...] = ()


@dataclass(frozen=True, slots=True)
class DescribeGroup:
    """About one classic group."""

    group_id: str
    token: Any

    def refused(self, error_code: int) -> DescribeGroupResult:
        return DescribeGroupResult(error_code)


@dataclass(frozen=True, slots=True)
class DeleteGroupResult:
    error_code: int


@dataclass(frozen=True, slots=True)
class DeleteGroup:
    """Forget a group of any kind that has no members, and its offsets."""

    group_id: str
    token: Any

    def refused(self, error_code: int) -> DeleteGroupResult:
        return DeleteGroupResult(error_code)


@dataclass(frozen=True, slots=True)
class TopicsChanged:
    """Not one group's event, so there is no answer: given to `Groups.topics_changed`."""

    deleted: frozenset[str] = field(default_factory=frozenset)
    changed: frozenset[str] = field(default_factory=frozenset)
    """Made anew, or with more partitions than before."""


class ListedGroup(NamedTuple):
    """`state` and `type` are Kafka's names: "Stable", "classic" …"""

    group_id: str
    protocol_type: str
    state: str
    type: str


OffsetEvent = CommitOffsets | FetchOffsets | DeleteOffsets
"""For the offsets of a group of any kind."""
MembershipEvent = JoinGroup | SyncGroup | Heartbeat | LeaveGroup | DescribeGroup
"""For a classic group, or the classic members of a consumer group."""
Event = OffsetEvent | MembershipEvent | DeleteGroup
