"""What a consumer group (KIP-848) is asked for, and the answers. See `events.py` for what they have in common.

Errors come with a message that names the fault: `event.refused(code, message)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from kbroker.groups.assignment import Assignment

JOIN_EPOCH: Final = 0
LEAVE_EPOCH: Final = -1
LEAVE_STATIC_EPOCH: Final = -2
"""A static member goes, and will be back before its session ends."""


@dataclass(frozen=True, slots=True)
class ConsumerGroupHeartbeatResult:
    """`assignment` is all that the member may read now; None: unchanged."""

    error_code: int
    error_message: str | None = None
    member_id: str | None = None
    member_epoch: int = 0
    heartbeat_interval_ms: int = 0
    """When to be back."""
    assignment: Assignment | None = None


@dataclass(frozen=True, slots=True)
class ConsumerGroupHeartbeat:
    """Join, stay, leave: `member_epoch` is 0, the last one told, -1, or -2 (static, back soon).

    A field that is None has not changed since the last heartbeat.
    """

    group_id: str
    token: Any
    member_id: str
    """"" for a new member that is given an id (v0)."""
    member_epoch: int
    client_id: str
    client_host: str
    fresh_id: str | None = None
    """A new id for a member without one (v0); None: clients make their own (v1 and up)."""
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    """How long it may take to give partitions up; -1: unchanged."""
    topics: tuple[str, ...] | None = None
    pattern: str | None = None
    """RE2, matched against whole names; "" for none."""
    assignor: str | None = None
    owned: Assignment | None = None
    """What it reads now."""

    def refused(self, error_code: int, message: str | None = None) -> ConsumerGroupHeartbeatResult:
        return ConsumerGroupHeartbeatResult(error_code, message)


@dataclass(frozen=True, slots=True)
class DescribedConsumer:
    """A member. The assignments are by topic id; v0 has no `is_classic`."""

    member_id: str
    instance_id: str | None
    rack_id: str | None
    member_epoch: int
    client_id: str
    client_host: str
    topics: tuple[str, ...]
    pattern: str | None
    assigned: Assignment
    target: Assignment
    is_classic: bool


@dataclass(frozen=True, slots=True)
class ConsumerGroupDescribeResult:
    error_code: int
    error_message: str | None = None
    state: str = "Dead"
    group_epoch: int = 0
    assignment_epoch: int = 0
    assignor: str = ""
    members: tuple[DescribedConsumer, ...] = ()


@dataclass(frozen=True, slots=True)
class ConsumerGroupDescribe:
    """About one consumer group; GROUP_ID_NOT_FOUND for a classic one, which DescribeGroup is for."""

    group_id: str
    token: Any

    def refused(self, error_code: int, message: str | None = None) -> ConsumerGroupDescribeResult:
        return ConsumerGroupDescribeResult(error_code, message)


ConsumerEvent = ConsumerGroupHeartbeat | ConsumerGroupDescribe
