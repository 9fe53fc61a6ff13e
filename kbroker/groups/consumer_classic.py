"""Members of a consumer group that speak the classic protocol, while the group moves between the two (KIP-848).

Nobody of them leads: JoinGroup is answered at once with the member's epoch as generation, SyncGroup with what the
coordinator assigned. A heartbeat says REBALANCE_IN_PROGRESS when the member has to take its next step, which it does by
joining again: an eager member then owns nothing, a cooperative one says what it still owns.
"""

from __future__ import annotations

from collections.abc import Iterable

from kbroker.errors import (
    GroupIdNotFound,
    IllegalGeneration,
    InconsistentGroupProtocol,
    MemberIdRequired,
    RebalanceInProgress,
    RequestError,
    UnknownMemberId,
)
from kbroker.groups import protocol
from kbroker.groups.assignment import Assignment, difference, partitions_of
from kbroker.groups.consumer_member import ConsumerMember
from kbroker.groups.consumer_members import ConsumerMembers
from kbroker.groups.consumer_records import ClassicFacts, MemberFacts, MemberState
from kbroker.groups.effects import Effects, Reply, shown
from kbroker.groups.events import (
    DescribeGroup,
    Heartbeat,
    HeartbeatResult,
    JoinGroup,
    JoinGroupResult,
    LeaveGroup,
    LeaveGroupResult,
    LeavingMember,
    LeftMember,
    MembershipEvent,
    SyncGroup,
    SyncGroupResult,
)
from kbroker.groups.fields import MalformedFields
from kbroker.groups.kind import Topics


def handle_classic(group: ConsumerMembers, event: MembershipEvent, now_ms: int) -> Effects:
    """Take a classic member's request; RequestError when it may not be, with nothing changed."""
    match event:
        case JoinGroup():
            return _join(group, event, now_ms)
        case SyncGroup():
            return _sync(group, event, now_ms)
        case Heartbeat():
            return _heartbeat(group, event, now_ms)
        case LeaveGroup():
            return _leave(group, event, now_ms)
        case DescribeGroup():
            raise GroupIdNotFound(f"Group {group.group_id} is not a classic group.")


def classic_facts(event: JoinGroup, subscription: protocol.Subscription) -> MemberFacts:
    """What a JoinGroup tells about a member."""
    return MemberFacts(
        event.instance_id,
        subscription.rack_id,
        event.client_id,
        event.client_host,
        tuple(sorted(set(subscription.topics))),
        None,
        event.rebalance_timeout_ms,
        None,
        ClassicFacts(event.session_timeout_ms, event.protocols),
    )


def assignment_of(partitions: protocol.Partitions, topics: Topics) -> Assignment:
    """By topic id what the classic protocol names; what does not exist is left out."""
    found: dict[bytes, frozenset[int]] = {}
    for name, numbers in partitions.items():
        topic_id, count = topics.id_of(name), topics.partition_count(name)
        if topic_id is not None and count is not None:
            existing = frozenset(number for number in numbers if 0 <= number < count)
            if existing:
                found[topic_id] = existing
    return found


def encoded_assignment(member: ConsumerMember, topics: Topics) -> bytes:
    """What a classic member reads now, in the version of the protocol that it speaks."""
    assert member.facts.classic is not None
    named = {
        name: tuple(sorted(numbers))
        for topic_id, numbers in member.current.assigned.items()
        if (name := topics.name_of(topic_id)) is not None
    }
    version = protocol.version_of(member.facts.classic.protocols[0][1])
    return protocol.encode_assignment(protocol.Assignment(named), min(version, protocol.VERSION_NEWEST))


def common_protocols(members: Iterable[ConsumerMember]) -> list[str]:
    """The protocols that all classic members speak, as the first one likes them."""
    spoken = [[name for name, _ in m.facts.classic.protocols] for m in members if m.facts.classic is not None]
    return [name for name in spoken[0] if all(name in names for names in spoken)] if spoken else []


def _join(group: ConsumerMembers, event: JoinGroup, now_ms: int) -> Effects:
    subscription = _checked_subscription(group, event)
    effects = Effects()
    holder = group.stored.static_member(event.instance_id) if event.instance_id is not None else None
    if event.member_id and event.instance_id is not None:
        group.member(event.member_id, event.instance_id)
    member_id = event.member_id or f"{event.instance_id or event.client_id}-{event.fresh_id}"
    if holder is None:
        group.check_room(member_id)
    facts = classic_facts(event, subscription)
    group.check_size(member_id if holder is None else holder.member_id, facts)
    if not event.member_id and event.instance_id is None and event.requires_known_member_id:
        return Effects(replies=[Reply(event.token, JoinGroupResult(MemberIdRequired.code, member_id))])
    if holder is not None and holder.member_id != member_id:
        group.replace_static(holder, member_id, effects)
    changed = group.take_facts(member_id, facts, effects, now_ms)
    group.settle(effects, now_ms, changed=changed, at_once=True)
    member = group.stored.members[member_id]
    group.step(member, assignment_of(subscription.owned, group.topics), effects, now_ms)
    group.begin_session(member, now_ms)
    member.join_deadline_ms = None
    member.sync_deadline_ms = now_ms + event.rebalance_timeout_ms
    group.wake(effects, member.session_deadline_ms)
    group.wake(effects, member.sync_deadline_ms)
    result = JoinGroupResult(0, member_id, member.current.epoch, protocol.PROTOCOL_TYPE, event.protocols[0][0])
    effects.replies.append(Reply(event.token, result))
    return effects


def _sync(group: ConsumerMembers, event: SyncGroup, now_ms: int) -> Effects:
    member = _classic_member(group, event.member_id, event.instance_id, event.generation_id)
    assert member.facts.classic is not None
    spoken = protocol.PROTOCOL_TYPE, member.facts.classic.protocols[0][0]
    for said, known in zip((event.protocol_type, event.protocol_name), spoken, strict=True):
        if said is not None and said != known:
            raise InconsistentGroupProtocol(f"the member's protocol is {known!r}, not {said!r}")
    effects = Effects()
    if _has_new_target(group, member):
        _expect_join(group, member, effects, now_ms)
        result = SyncGroupResult(RebalanceInProgress.code)
    else:
        group.begin_session(member, now_ms)
        member.sync_deadline_ms = None
        result = SyncGroupResult(0, *spoken, encoded_assignment(member, group.topics))
    effects.replies.append(Reply(event.token, result))
    return effects


def _heartbeat(group: ConsumerMembers, event: Heartbeat, now_ms: int) -> Effects:
    member = _classic_member(group, event.member_id, event.instance_id, event.generation_id)
    effects = Effects()
    group.begin_session(member, now_ms)
    group.wake(effects, member.session_deadline_ms)
    rejoins = (
        _has_new_target(group, member)
        or member.current.state is MemberState.UNREVOKED_PARTITIONS
        or (member.current.state is MemberState.UNRELEASED_PARTITIONS and _has_all_free(group, member))
    )
    if rejoins:
        _expect_join(group, member, effects, now_ms)
    effects.replies.append(Reply(event.token, HeartbeatResult(RebalanceInProgress.code if rejoins else 0)))
    return effects


def _leave(group: ConsumerMembers, event: LeaveGroup, now_ms: int) -> Effects:
    effects = Effects()
    size = len(group.stored.members)
    left = tuple(_leave_one(group, who, effects, now_ms) for who in event.members)
    group.settle(effects, now_ms, changed=len(group.stored.members) < size)
    effects.replies.append(Reply(event.token, LeaveGroupResult(0, left)))
    return effects


def _leave_one(group: ConsumerMembers, who: LeavingMember, effects: Effects, now_ms: int) -> LeftMember:
    """Administrators put out static members by the instance id alone, and members of either protocol."""
    try:
        holder = group.stored.static_member(who.instance_id) if who.instance_id is not None else None
        member_id = who.member_id or (holder.member_id if holder is not None else "")
        member = group.member(member_id, who.instance_id)
    except RequestError as error:
        return LeftMember(who.member_id, who.instance_id, error.code)
    how = "left" if who.member_id else "was put out by an administrator"
    effects.notices.append(f"{group.shown(member)} {how}{f': {shown(who.reason)}' if who.reason else ''}")
    group.remove(member, effects, now_ms)
    return LeftMember(member_id, who.instance_id, 0)


def _checked_subscription(group: ConsumerMembers, event: JoinGroup) -> protocol.Subscription:
    if event.protocol_type != protocol.PROTOCOL_TYPE or not event.protocols:
        raise InconsistentGroupProtocol(f"the group's protocol type is 'consumer', not {event.protocol_type!r}")
    others = [m for m in group.stored.members.values() if m.is_classic and m.member_id != event.member_id]
    spoken = common_protocols(others)
    if others and not any(name in spoken for name, _ in event.protocols):
        raise InconsistentGroupProtocol("the group's classic members have no protocol in common with this one")
    try:
        return protocol.decode_subscription(event.protocols[0][1])
    except MalformedFields as error:
        raise InconsistentGroupProtocol(f"the member's subscription is malformed: {error}") from error


def _classic_member(
    group: ConsumerMembers, member_id: str, instance_id: str | None, generation_id: int
) -> ConsumerMember:
    member = group.member(member_id, instance_id)
    _check_classic(member)
    if generation_id != member.current.epoch:
        raise IllegalGeneration(f"the member is at generation {member.current.epoch}, not {generation_id}")
    return member


def _check_classic(member: ConsumerMember) -> None:
    if not member.is_classic:
        raise UnknownMemberId(f"Member {member.member_id} does not use the classic protocol.")


def _has_new_target(group: ConsumerMembers, member: ConsumerMember) -> bool:
    """One that gives partitions up has joined already: it does that first."""
    waits = member.current.state is MemberState.UNREVOKED_PARTITIONS
    return member.current.epoch < group.stored.assignment_epoch and not waits


def _has_all_free(group: ConsumerMembers, member: ConsumerMember) -> bool:
    missing = difference(group.stored.target(member.member_id), member.current.assigned)
    return all(group.stored.is_free(partition, member.member_id) for partition in partitions_of(missing))


def _expect_join(group: ConsumerMembers, member: ConsumerMember, effects: Effects, now_ms: int) -> None:
    if member.join_deadline_ms is None:
        member.join_deadline_ms = now_ms + member.facts.rebalance_timeout_ms
        group.wake(effects, member.join_deadline_ms)
