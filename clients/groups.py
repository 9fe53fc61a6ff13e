"""What Admin tells of consumer groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kbroker.types import TopicPartition


class GroupListing(NamedTuple):
    """A group. `type`: "consumer" (KIP-848 and native), "classic"; `state` as Kafka names it: Stable, Empty, …"""

    group: str
    type: str
    state: str
    protocol_type: str


@dataclass(slots=True)
class MemberDescription:
    """A member: `assignment` is what it reads, `target` what it is to read when the group has settled."""

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    epoch: int
    is_classic: bool
    topics: list[str]
    pattern: str
    assignment: list[TopicPartition]
    target: list[TopicPartition]


@dataclass(slots=True)
class GroupDescription:
    """A group and its members. `epoch`: of the group, or a classic group's generation."""

    group: str
    type: str
    state: str
    epoch: int
    assignor: str
    members: list[MemberDescription]
