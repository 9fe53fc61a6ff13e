"""The members of a classic group: who they are, what they have in common, who leads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from kbroker.errors import FencedInstanceId, UnknownMemberId
from kbroker.groups.classic_member import ClassicMember
from kbroker.groups.events import JoinGroup
from kbroker.groups.room import NAME_BYTES


class ClassicMembers:
    """All members of one group, and those who were given a member id to join with and have not come yet (pending)."""

    def __init__(self) -> None:
        self.pending: dict[str, int] = {}
        """When their time to join is over (ms since 1970), by member id. Changed by `expect` and `forget_pending`."""
        self.pending_bytes = 0
        """About the memory of those."""
        self.leader: str | None = None
        self.size_bytes = 0
        """What all members have told."""
        self._by_id: dict[str, ClassicMember] = {}
        self._static: dict[str, str] = {}
        self._speakers: Counter[str] = Counter()
        self._joining = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[ClassicMember]:
        """A copy: members may be removed meanwhile."""
        return iter(list(self._by_id.values()))

    def get(self, member_id: str) -> ClassicMember | None:
        """The member with that id."""
        return self._by_id.get(member_id)

    def static(self, instance_id: str) -> ClassicMember | None:
        """The static member with that instance id."""
        member_id = self._static.get(instance_id)
        return None if member_id is None else self._by_id[member_id]

    def check(self, member_id: str, instance_id: str | None) -> ClassicMember:
        """The member that a request speaks for; raises when it may not."""
        if instance_id is not None:
            member = self.static(instance_id)
            if member is None:
                raise UnknownMemberId(f"no member has the instance id {instance_id!r}")
            if member.member_id != member_id:
                raise FencedInstanceId(f"the instance id {instance_id!r} belongs to another member now")
        found = self._by_id.get(member_id)
        if found is None:
            raise UnknownMemberId(f"no member has the id {member_id!r}")
        return found

    # --- coming and going ---

    def add(self, member: ClassicMember) -> None:
        """One more; the first becomes the leader."""
        assert member.member_id not in self._by_id
        self._by_id[member.member_id] = member
        self.size_bytes += member.size_bytes
        self._speakers.update(list(member.protocols))
        if member.instance_id is not None:
            assert member.instance_id not in self._static
            self._static[member.instance_id] = member.member_id
        if self.leader is None:
            self.leader = member.member_id
        self.forget_pending(member.member_id)

    def expect(self, member_id: str, end_ms: int) -> None:
        """This id was given out: it may be joined with until then."""
        self.pending[member_id] = end_ms
        self.pending_bytes += _pending_room(member_id)

    def forget_pending(self, member_id: str) -> bool:
        """Nobody will join with that id, or somebody has; whether it was given out."""
        found = self.pending.pop(member_id, None) is not None
        if found:
            self.pending_bytes -= _pending_room(member_id)
        return found

    def remove(self, member: ClassicMember) -> None:
        """One less; its requests that wait must have been answered. Who has been there longest leads after a leader."""
        assert member.joining is None
        assert member.syncing is None
        del self._by_id[member.member_id]
        self.size_bytes -= member.size_bytes
        self._speakers.subtract(list(member.protocols))
        if member.instance_id is not None:
            del self._static[member.instance_id]
        if self.leader == member.member_id:
            self.leader = next(iter(self._by_id), None)

    def rename(self, member: ClassicMember, member_id: str) -> None:
        """A static member comes back under a new id: it keeps its place, and leads if it led."""
        assert member.instance_id is not None
        self._by_id = {member_id if old == member.member_id else old: item for old, item in self._by_id.items()}
        self._static[member.instance_id] = member_id
        if self.leader == member.member_id:
            self.leader = member_id
        self.size_bytes -= member.size_bytes
        member.member_id = member_id
        self.size_bytes += member.size_bytes

    # --- the joining phase ---

    @property
    def joining(self) -> int:
        """How many wait for the joining phase to end."""
        return self._joining

    @property
    def all_joined(self) -> bool:
        """Nobody is missing."""
        return self._joining == len(self._by_id) and not self.pending

    def park(self, member: ClassicMember, event: JoinGroup) -> None:
        """Let the member's request wait; it had none waiting."""
        assert member.joining is None
        member.joining = event
        self._joining += 1

    def unpark(self, member: ClassicMember) -> JoinGroup | None:
        """The member's request that waits, which is to be answered now."""
        event, member.joining = member.joining, None
        self._joining -= event is not None
        return event

    def update(self, member: ClassicMember, event: JoinGroup) -> None:
        """What the member says of itself now."""
        self._speakers.subtract(list(member.protocols))
        self.size_bytes -= member.size_bytes
        member.client_id, member.client_host = event.client_id, event.client_host
        member.protocols = dict(event.protocols)
        self.size_bytes += member.size_bytes
        self._speakers.update(list(member.protocols))
        member.rebalance_timeout_ms = event.rebalance_timeout_ms
        member.session_timeout_ms = event.session_timeout_ms

    def lead_by_one_who_joined(self) -> bool:
        """A leader who has not joined is replaced by somebody who has; False when nobody has."""
        leader = self._by_id.get(self.leader or "")
        if leader is not None and leader.joining is not None:
            return True
        found = next((member for member in self._by_id.values() if member.joining is not None), None)
        if found is not None:
            self.leader = found.member_id
        return found is not None

    # --- what they have in common ---

    @property
    def rebalance_timeout_ms(self) -> int:
        """The longest that one of them wants to have for a rebalance."""
        return max((member.rebalance_timeout_ms for member in self._by_id.values()), default=0)

    def speak_one_of(self, protocols: Collection[str]) -> bool:
        """Whether one of these protocols is spoken by every member."""
        return any(self._speakers[name] == len(self._by_id) for name in protocols)

    def select_protocol(self) -> str:
        """Of the protocols that all speak, the one with the most votes; of several, the one voted for first."""
        candidates = {name for name, count in self._speakers.items() if count == len(self._by_id)}
        votes = Counter(member.vote(candidates) for member in self._by_id.values())
        return max(votes, key=lambda name: votes[name])


def _pending_room(member_id: str) -> int:
    return NAME_BYTES + len(member_id.encode())
