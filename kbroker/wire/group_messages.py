"""The native protocol's messages about consumer groups; all are answered by the coordinator.

A native group is a consumer group of KIP-848: members send heartbeats and are told what to read; epochs and error codes
mean what they mean there. Topics are named, not numbered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

JOIN_EPOCH = 0
"""The member epoch of who wants to become a member."""
LEAVE_EPOCH = -1
"""The member epoch of who leaves for good."""
STATIC_LEAVE_EPOCH = -2
"""The member epoch of a static member who leaves and will be back."""
NO_EPOCH = -1
"""The member epoch of a commit by who is no member."""


@dataclass(slots=True)
class TopicPartitions:
    """Partitions of one topic."""

    topic: str
    partitions: list[int]


@dataclass(slots=True)
class GroupHeartbeat:
    """Join a group, stay in it, or leave it. None: as in the heartbeat before.

    `member_id`: chosen by the client, a UUID as text; the same for all its life. `owned`: what the member reads at this
    moment; who joins owns nothing. `pattern`: an RE2 expression that a topic's whole name must match.
    `rebalance_timeout_ms`: how long the member may take to let go of what it is to give up; -1: as before.
    `client_id`, `host`: as the group's description shows the member.
    """

    OP: ClassVar[str] = "group_heartbeat"
    group: str
    member_id: str
    member_epoch: int
    instance_id: str | None = None
    rebalance_timeout_ms: int = -1
    topics: list[str] | None = None
    pattern: str | None = None
    assignor: str | None = None
    owned: list[TopicPartitions] | None = None
    client_id: str = ""
    host: str = ""


@dataclass(slots=True)
class GroupHeartbeatAnswer:
    """`assignment`: what the member may read from now on, all of it; None: as before."""

    member_epoch: int
    heartbeat_interval_ms: int
    assignment: list[TopicPartitions] | None = None


@dataclass(slots=True)
class OffsetCommit:
    """`offset`: of the next record to be read. `leader_epoch` of the record before it; -1: not known."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int = -1
    metadata: str = ""


@dataclass(slots=True)
class CommitOffsets:
    """Store offsets, durably. Without membership: `member_id` "" and `member_epoch` NO_EPOCH."""

    OP: ClassVar[str] = "commit_offsets"
    group: str
    offsets: list[OffsetCommit]
    member_id: str = ""
    member_epoch: int = NO_EPOCH
    instance_id: str | None = None


@dataclass(slots=True)
class OffsetResult:
    topic: str
    partition: int
    error: int = 0
    message: str = ""


@dataclass(slots=True)
class OffsetResults:
    """One for each offset of the request, in its order."""

    offsets: list[OffsetResult]


@dataclass(slots=True)
class FetchOffsets:
    """What a group has committed. `partitions` None: all of it."""

    OP: ClassVar[str] = "fetch_offsets"
    group: str
    partitions: list[TopicPartitions] | None = None
    member_id: str = ""
    member_epoch: int = NO_EPOCH


@dataclass(slots=True)
class CommittedOffset:
    """`offset` -1: nothing was committed there. `commit_ms`: when it was, by the broker's clock (ms since 1970), which
    Kafka's OffsetFetch does not tell; -1: not known."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    error: int = 0
    commit_ms: int = -1


@dataclass(slots=True)
class CommittedOffsets:
    offsets: list[CommittedOffset]


@dataclass(slots=True)
class DeleteOffsets:
    """Forget what a group has committed for topics that no member reads now."""

    OP: ClassVar[str] = "delete_offsets"
    group: str
    partitions: list[TopicPartitions]


@dataclass(slots=True)
class ListGroups:
    """`states`, `types`: only these, by Kafka's names ("Stable", "consumer", …); empty: all."""

    OP: ClassVar[str] = "list_groups"
    states: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)


@dataclass(slots=True)
class GroupListing:
    group: str
    type: str
    state: str
    protocol_type: str = ""


@dataclass(slots=True)
class GroupListings:
    groups: list[GroupListing]


@dataclass(slots=True)
class DescribeGroups:
    OP: ClassVar[str] = "describe_groups"
    groups: list[str]


@dataclass(slots=True)
class MemberInfo:
    """`epoch`: the member's epoch, or the group's generation for a classic member. `target`: what it is to have."""

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    epoch: int
    is_classic: bool
    topics: list[str] = field(default_factory=list)
    pattern: str = ""
    assignment: list[TopicPartitions] = field(default_factory=list)
    target: list[TopicPartitions] = field(default_factory=list)


@dataclass(slots=True)
class GroupInfo:
    """A group of any kind; with `error` not 0 only `group` and `message` count."""

    group: str
    error: int = 0
    message: str = ""
    type: str = ""
    state: str = ""
    epoch: int = -1
    assignor: str = ""
    members: list[MemberInfo] = field(default_factory=list)


@dataclass(slots=True)
class GroupInfos:
    """In the order of the request."""

    groups: list[GroupInfo]


@dataclass(slots=True)
class DeleteGroups:
    """Forget groups that have no members, with their offsets."""

    OP: ClassVar[str] = "delete_groups"
    groups: list[str]


@dataclass(slots=True)
class GroupResult:
    group: str
    error: int = 0
    message: str = ""


@dataclass(slots=True)
class GroupResults:
    """In the order of the request."""

    groups: list[GroupResult]


GROUP_REQUESTS: tuple[Any, ...] = (
    GroupHeartbeat,
    CommitOffsets,
    FetchOffsets,
    DeleteOffsets,
    ListGroups,
    DescribeGroups,
    DeleteGroups,
)
