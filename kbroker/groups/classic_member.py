"""A member of a classic group."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from kbroker.groups.events import DescribedMember, JoinedMember, JoinGroup, SyncGroup
from kbroker.groups.group_records import MemberFacts
from kbroker.groups.limits import metadata_bytes, names_bytes


@dataclass(slots=True)
class ClassicMember:
    """Who it is, what it can speak, what it was assigned, and which of its requests waits for an answer."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    protocols: dict[str, bytes]
    """Metadata by protocol, the one it likes best first."""
    assignment: bytes = b""
    is_new: bool = False
    """It has not taken part in a whole rebalance yet, so its session is counted even while it waits."""
    session_end_ms: int = 0
    joining: JoinGroup | None = None
    syncing: SyncGroup | None = None

    @property
    def size_bytes(self) -> int:
        """About what it has told."""
        names = (self.member_id, self.instance_id, self.client_id, self.client_host)
        return names_bytes(names) + metadata_bytes(self.protocols.items())

    @property
    def session_counts(self) -> bool:
        """One whose request waits here is known to be alive; unless it is new, and nobody may be waiting any more."""
        return self.is_new or (self.joining is None and self.syncing is None)

    def says_the_same(self, event: JoinGroup) -> bool:
        """Whether this request brings nothing new: the same protocols in the same order, with the same metadata."""
        return list(self.protocols.items()) == list(dict(event.protocols).items())

    def vote(self, candidates: Container[str]) -> str:
        """The protocol that it likes best of those that all members can speak."""
        return next(name for name in self.protocols if name in candidates)

    def joined(self, protocol_name: str) -> JoinedMember:
        """As the leader is told of it."""
        return JoinedMember(self.member_id, self.instance_id, self.protocols[protocol_name])

    def described(self, protocol_name: str | None) -> DescribedMember:
        """As an administrator is told of it; without a protocol metadata and assignment are left out."""
        metadata, assignment = (b"", b"") if protocol_name is None else (self.protocols[protocol_name], self.assignment)
        return DescribedMember(
            self.member_id, self.instance_id, self.client_id, self.client_host, metadata, assignment
        )  # fmt: skip

    def facts(self, protocol_name: str) -> MemberFacts:
        """As it is stored."""
        return MemberFacts(
            self.member_id,
            self.instance_id,
            self.client_id,
            self.client_host,
            self.rebalance_timeout_ms,
            self.session_timeout_ms,
            self.protocols[protocol_name],
            self.assignment,
        )


def from_join(event: JoinGroup, member_id: str) -> ClassicMember:
    """The member that this request makes."""
    return ClassicMember(
        member_id,
        event.instance_id,
        event.client_id,
        event.client_host,
        event.rebalance_timeout_ms,
        event.session_timeout_ms,
        dict(event.protocols),
        is_new=True,
    )


def from_facts(facts: MemberFacts, protocol_name: str | None) -> ClassicMember:
    """The member that was stored: of its protocols only the group's is known."""
    protocols = {} if protocol_name is None else {protocol_name: facts.subscription}
    return ClassicMember(
        facts.member_id,
        facts.instance_id,
        facts.client_id,
        facts.client_host,
        facts.rebalance_timeout_ms,
        facts.session_timeout_ms,
        protocols,
        facts.assignment,
    )
