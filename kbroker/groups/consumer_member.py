"""A member of a consumer group, and the steps by which it comes to what it is to have (KIP-848).

A member first gives up what it is not to have any more and says so (UNREVOKED_PARTITIONS), then goes to the target's
epoch with what is free, then gets the rest as others let go of it (UNRELEASED_PARTITIONS), and is STABLE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kbroker.groups.assignment import (
    NOTHING,
    Assignment,
    TopicIdPartition,
    difference,
    intersection,
    of_partitions,
    overlap,
    partitions_of,
    size,
    union,
)
from kbroker.groups.consumer_records import CurrentFacts, MemberFacts, MemberState

NEW: Final = CurrentFacts(epoch=0, previous_epoch=-1, state=MemberState.STABLE, assigned=NOTHING, revoking=NOTHING)
"""What a member has that has just come."""


@dataclass(slots=True)
class ConsumerMember:
    """What is stored of a member, and its deadlines (ms since 1970), which are not."""

    member_id: str
    facts: MemberFacts
    current: CurrentFacts = NEW
    session_deadline_ms: int | None = None
    revoke_deadline_ms: int | None = None
    """By then it must have given up what it is to give up."""
    join_deadline_ms: int | None = None
    """By then a classic member that was told to join again must have done so."""
    sync_deadline_ms: int | None = None
    """By then a classic member that has joined must have asked for its assignment."""

    @property
    def is_classic(self) -> bool:
        """It speaks the classic protocol (JoinGroup …)."""
        return self.facts.classic is not None

    def is_reconciled(self, target_epoch: int) -> bool:
        """It has what it is to have."""
        return self.current.epoch == target_epoch and self.current.state is MemberState.STABLE

    def deadlines_ms(self) -> list[int]:
        """Those that are set."""
        all_of_them = (
            self.session_deadline_ms,
            self.revoke_deadline_ms,
            self.join_deadline_ms,
            self.sync_deadline_ms,
        )
        return [deadline for deadline in all_of_them if deadline is not None]


def reconciled(
    current: CurrentFacts,
    target: Assignment,
    target_epoch: int,
    owned: Assignment | None,
    is_free: Callable[[TopicIdPartition], bool],
) -> CurrentFacts:
    """The next step towards the target. `owned`: what the member says it has (None: it does not say). `is_free`: nobody
    else has that partition."""
    if current.state is MemberState.STABLE and current.epoch == target_epoch:
        return current
    if current.state is MemberState.UNREVOKED_PARTITIONS and (owned is None or overlap(owned, current.revoking)):
        return current
    assigned = intersection(current.assigned, target)
    revoking = difference(current.assigned, assigned)
    if revoking and (owned is None or overlap(owned, revoking)):
        return current._replace(state=MemberState.UNREVOKED_PARTITIONS, assigned=assigned, revoking=revoking)
    wanted = difference(target, assigned)
    free = of_partitions(partition for partition in partitions_of(wanted) if is_free(partition))
    return CurrentFacts(
        epoch=target_epoch,
        # As long as its epoch stays, what it had before may still be all that the member has heard of.
        previous_epoch=current.epoch if current.epoch != target_epoch else current.previous_epoch,
        state=MemberState.STABLE if size(free) == size(wanted) else MemberState.UNRELEASED_PARTITIONS,
        assigned=union(assigned, free),
        revoking=NOTHING,
    )
