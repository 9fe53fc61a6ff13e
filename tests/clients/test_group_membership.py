"""The member's side of KIP-848: what it tells the coordinator, and what the answers make of it."""

from __future__ import annotations

import pytest

from kbroker.clients.group_membership import UNRELEASED_MAX_MS, Membership, MemberState, by_topic
from kbroker.errors import (
    CoordinatorNotAvailable,
    FencedInstanceId,
    FencedMemberEpoch,
    GroupMaxSizeReached,
    RequestError,
    UnknownMemberId,
    UnreleasedInstanceId,
)
from kbroker.types import TopicPartition
from kbroker.wire.group_messages import GroupHeartbeat, GroupHeartbeatAnswer, TopicPartitions

A, B, C = (TopicPartition("t", number) for number in range(3))


@pytest.fixture
def member() -> Membership:
    return Membership("g", "m-1", instance_id=None, assignor="range", rebalance_timeout_ms=300_000)


def answer(member: Membership, epoch: int, *assigned: TopicPartition, unchanged: bool = False, now_ms: int = 0) -> None:
    member.answered(GroupHeartbeatAnswer(epoch, 5_000, None if unchanged else by_topic(assigned)), now_ms)


def facts(member: Membership) -> tuple[MemberState, int, set[TopicPartition], bool]:
    return member.state, member.epoch, set(member.wanted), member.beats


def joined(member: Membership, *assigned: TopicPartition) -> Membership:
    member.subscribe(["t"])
    member.heartbeat()
    answer(member, 1, *assigned)
    member.own(assigned)
    member.heartbeat()
    answer(member, 1, unchanged=True)
    return member


def test_joining_tells_everything(member: Membership) -> None:
    assert not facts(member)[3]
    member.subscribe(["u", "t"])
    assert facts(member)[3]
    assert member.due_ms == 0
    expected = GroupHeartbeat("g", "m-1", 0, None, 300_000, ["t", "u"], "", "range", [])
    assert member.heartbeat() == expected
    answer(member, 3, A, B, now_ms=100)
    assert facts(member) == (MemberState.MEMBER, 3, {A, B}, True)
    assert (member.interval_ms, member.due_ms) == (5_000, 5_100)
    assert member.has_changed


def test_what_was_taken_is_told_once_and_at_once(member: Membership) -> None:
    member.subscribe(["t"])
    member.heartbeat()
    answer(member, 1, A, now_ms=100)
    member.own([A])
    assert member.due_ms == 0
    assert member.heartbeat() == GroupHeartbeat("g", "m-1", 1, owned=[TopicPartitions("t", [0])])
    answer(member, 1, unchanged=True, now_ms=100)
    assert member.due_ms == 5_100
    assert member.heartbeat() == GroupHeartbeat("g", "m-1", 1)
    assert not member.has_changed


def test_what_is_taken_while_a_heartbeat_is_on_its_way_is_told_next(member: Membership) -> None:
    member.subscribe(["t"])
    member.heartbeat()
    answer(member, 1, A, B)
    member.own([A])
    member.heartbeat()
    member.own([A, B])
    answer(member, 1, unchanged=True, now_ms=100)
    assert member.due_ms == 100
    assert member.heartbeat().owned == [TopicPartitions("t", [0, 1])]


def test_another_subscription_is_told_at_once(member: Membership) -> None:
    joined(member, A)
    member.subscribe((), "t.*")
    assert member.due_ms == 0
    message = member.heartbeat()
    assert (message.topics, message.pattern, message.owned) == ([], "t.*", None)
    member.subscribe(["u"])
    answer(member, 1, unchanged=True, now_ms=7)
    assert member.due_ms == 7
    assert (member.heartbeat().topics) == ["u"]


@pytest.mark.parametrize("error", [UnknownMemberId("gone"), FencedMemberEpoch("gone")])
def test_who_was_put_out_has_lost_everything_and_joins_again(member: Membership, error: RequestError) -> None:
    joined(member, A)
    member.heartbeat()
    member.refused(error, 0, 10)
    assert member.lost
    assert member.has_changed
    assert facts(member) == (MemberState.JOINING, 0, set(), True)
    again = member.heartbeat()
    assert (again.member_epoch, again.topics, again.owned) == (0, ["t"], [])
    member.own([])
    assert not member.lost


def test_after_a_failure_all_is_told_again(member: Membership) -> None:
    joined(member, A)
    member.heartbeat()
    member.refused(CoordinatorNotAvailable("away"), 50, 10)
    assert facts(member) == (MemberState.MEMBER, 1, {A}, True)
    assert (member.due_ms, member.lost) == (60, False)
    message = member.heartbeat()
    assert (message.topics, message.owned, message.member_epoch) == (["t"], [TopicPartitions("t", [0])], 1)


def test_a_place_that_is_still_taken_is_waited_for(member: Membership) -> None:
    member.subscribe(["t"])
    member.heartbeat()
    member.refused(UnreleasedInstanceId("not yet"), 0, 10)
    assert (member.state, member.fault, member.due_ms) == (MemberState.JOINING, None, 10)


def test_an_instance_id_that_another_keeps_is_not_waited_for_without_end(member: Membership) -> None:
    taken = UnreleasedInstanceId("another has it")
    member.subscribe(["t"])
    for now_ms in (5, UNRELEASED_MAX_MS + 4):
        member.heartbeat()
        member.refused(taken, now_ms, 10)
        assert (member.state, member.fault, member.unreleased_since_ms) == (MemberState.JOINING, None, 5)
    member.heartbeat()
    member.refused(taken, UNRELEASED_MAX_MS + 5, 10)
    assert (member.state, member.fault) == (MemberState.FAILED, taken)
    member.subscribe(["t"])
    member.heartbeat()
    member.refused(taken, UNRELEASED_MAX_MS + 6, 10)
    assert (member.state, member.fault) == (MemberState.JOINING, None), "the time begins anew"
    member.heartbeat()
    answer(member, 1, A)
    assert member.unreleased_since_ms is None


@pytest.mark.parametrize("error", [FencedInstanceId("another"), GroupMaxSizeReached("full")])
def test_a_refusal_for_good_ends_it_until_it_is_told_to_try_again(member: Membership, error: RequestError) -> None:
    joined(member, A)
    member.heartbeat()
    member.refused(error, 0, 10)
    assert (member.state, member.fault, member.lost) == (MemberState.FAILED, error, True)
    assert not facts(member)[3]
    member.subscribe(["t"])
    assert facts(member)[3]
    assert member.fault is None


@pytest.mark.parametrize(("instance_id", "epoch"), [(None, -1), ("static", -2)])
def test_leaving(instance_id: str | None, epoch: int) -> None:
    member = Membership("g", "m-1", instance_id=instance_id, assignor=None, rebalance_timeout_ms=1)
    joined(member, A)
    member.leave()
    assert member.heartbeat() == GroupHeartbeat("g", "m-1", epoch, instance_id)
    answer(member, epoch, unchanged=True)
    assert member.state is MemberState.IDLE
    assert not member.beats


def test_who_joins_again_while_leaving_is_on_its_way_joins(member: Membership) -> None:
    joined(member, A)
    member.leave()
    member.heartbeat()
    member.own([])
    member.rejoin()
    answer(member, -1, unchanged=True, now_ms=30)
    assert (member.state, member.epoch, member.due_ms) == (MemberState.JOINING, 0, 30)
    assert member.heartbeat().member_epoch == 0


def test_who_leaves_while_joining_is_on_its_way_leaves(member: Membership) -> None:
    member.subscribe(["t"])
    member.heartbeat()
    member.leave()
    answer(member, 1, A, now_ms=5)
    assert not member.wanted
    assert member.due_ms == 5
    assert member.heartbeat().member_epoch == -1
