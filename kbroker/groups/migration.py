"""Groups move between the classic protocol and KIP-848 while their members go on (`group.consumer.migration.policy`).

A classic group of consumers becomes a consumer group when the first member joins that speaks KIP-848; a consumer group
becomes a classic one when the last such member has gone and classic ones are left.
"""

from __future__ import annotations

from typing import Final

from kbroker.errors import GroupIdNotFound, RebalanceInProgress
from kbroker.groups import group_records, protocol
from kbroker.groups.assignment import NOTHING, Assignment, of_partitions, partitions_of
from kbroker.groups.classic import ClassicGroup
from kbroker.groups.classic_member import ClassicMember
from kbroker.groups.consumer import ConsumerGroup
from kbroker.groups.consumer_classic import assignment_of, common_protocols, encoded_assignment
from kbroker.groups.consumer_events import ConsumerGroupHeartbeat
from kbroker.groups.consumer_records import ClassicFacts, CurrentFacts, MemberFacts, MemberState
from kbroker.groups.consumer_state import metadata_hash
from kbroker.groups.effects import Effects, shown
from kbroker.groups.fields import MalformedFields
from kbroker.groups.kind import Topics
from kbroker.groups.patterns import Steps
from kbroker.groups.room import Room
from kbroker.groups.settings import GroupSettings

_UPGRADES: Final = {"bidirectional", "upgrade"}
_DOWNGRADES: Final = {"bidirectional", "downgrade"}


def upgrade(
    classic: ClassicGroup,
    event: ConsumerGroupHeartbeat,
    settings: GroupSettings,
    topics: Topics,
    room: Room,
    now_ms: int,
) -> tuple[ConsumerGroup, Effects]:
    """The consumer group that a classic group becomes as this member joins. Members keep what they have; who waits for
    an answer is told to join again. RequestError when it may not be, with nothing changed."""
    _check_upgrade(classic, settings)
    group = ConsumerGroup(classic.group_id, settings, topics, room)
    _adopt(group, classic, topics)
    for member in group.stored.members.values():
        group.begin_session(member, now_ms)
    effects = Effects(records=classic.tombstones() + group.records())
    joined = group.handle(event, now_ms)
    effects.extend(classic.end_waiting(RebalanceInProgress.code))
    effects.extend(joined)
    effects.notices.append(
        f"group {shown(group.group_id)} is a consumer group now: member {shown(event.member_id)} joins by KIP-848"
    )
    return group, effects


def downgrades(group: ConsumerGroup, settings: GroupSettings) -> bool:
    """Whether only classic members are left, and the group may become a classic one."""
    return (
        settings.consumer_migration_policy in _DOWNGRADES
        and 0 < len(group.stored.members) <= settings.max_size
        and group.stored.classic_count == len(group.stored.members)
    )


def downgrade(
    group: ConsumerGroup, settings: GroupSettings, topics: Topics, now_ms: int
) -> tuple[ClassicGroup, Effects]:
    """The classic group that it becomes: its members keep what they have, and are to join again."""
    members = list(group.stored.members.values())
    name = common_protocols(members)[0]
    stored = []
    for member in members:
        facts = member.facts
        assert facts.classic is not None
        stored.append(
            group_records.MemberFacts(
                member.member_id,
                facts.instance_id,
                facts.client_id,
                facts.client_host,
                facts.rebalance_timeout_ms,
                facts.classic.session_timeout_ms,
                dict(facts.classic.protocols)[name],
                encoded_assignment(member, topics),
            )
        )
    record = group_records.encode(
        group.group_id,
        group_records.GroupFacts(
            protocol.PROTOCOL_TYPE, group.stored.epoch, name, members[0].member_id, now_ms, tuple(stored)
        ),
    )
    classic = ClassicGroup(group.group_id, settings)
    classic.replay(record, now_ms)
    classic.loaded(Steps(), now_ms)
    effects = classic.rebalance("its last member that speaks KIP-848 has gone", now_ms)
    effects.records = [*group.tombstones(), record, *effects.records]
    effects.notices.insert(0, f"group {shown(group.group_id)} is a classic group again")
    return classic, effects


def _check_upgrade(classic: ClassicGroup, settings: GroupSettings) -> None:
    why = ""
    if settings.consumer_migration_policy not in _UPGRADES:
        why = f"group.consumer.migration.policy={settings.consumer_migration_policy} keeps it from becoming one"
    elif classic.protocol_type != protocol.PROTOCOL_TYPE:
        why = f"its members' protocol type is {classic.protocol_type!r}"
    elif len(classic.members) > settings.consumer_max_size:
        why = f"it has more than group.consumer.max.size={settings.consumer_max_size} members"
    if why:
        raise GroupIdNotFound(f"Group {classic.group_id} is not a consumer group: {why}.")


def _adopt(group: ConsumerGroup, classic: ClassicGroup, topics: Topics) -> None:
    stored = group.stored
    stored.epoch = classic.group.generation_id
    claimed: set[tuple[bytes, int]] = set()
    targets: dict[str, Assignment] = {}
    for member in classic.members:
        try:
            subscription = protocol.decode_subscription(next(iter(member.protocols.values())))
            # Without an assignment it may still read what it said when it joined.
            reads = (
                protocol.decode_assignment(member.assignment).partitions if member.assignment else subscription.owned
            )
        except (MalformedFields, StopIteration) as error:
            raise GroupIdNotFound(
                f"Group {classic.group_id} is not a consumer group: what its member {member.member_id} says is "
                f"malformed: {error}."
            ) from error
        has = of_partitions(p for p in partitions_of(assignment_of(reads, topics)) if p not in claimed)
        claimed.update(partitions_of(has))
        targets[member.member_id] = has
        stored.set_facts(member.member_id, _facts(member, subscription))
        epoch = classic.group.generation_id
        current = CurrentFacts(epoch, epoch, MemberState.STABLE, has, NOTHING)
        stored.set_current(stored.members[member.member_id], current)
    stored.set_targets(targets)
    stored.set_epoch(classic.group.generation_id, metadata_hash(stored.metadata(topics)))


def _facts(member: ClassicMember, subscription: protocol.Subscription) -> MemberFacts:
    return MemberFacts(
        member.instance_id,
        subscription.rack_id,
        member.client_id,
        member.client_host,
        tuple(sorted(set(subscription.topics))),
        None,
        member.rebalance_timeout_ms,
        None,
        ClassicFacts(member.session_timeout_ms, tuple(member.protocols.items())),
    )
