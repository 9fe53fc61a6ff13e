"""Joining a classic group: ids, phases, the initial wait, protocols, who leads."""

from __future__ import annotations

from typing import Any

import pytest

from kbroker.groups.events import LeavingMember
from kbroker.groups.settings import GroupSettings
from tests.groups.coordinator import SECOND, Coordinator, subscription

RANGE, ROBIN, STICKY = ("range", b"r"), ("roundrobin", b"o"), ("cooperative-sticky", b"s")


def test_a_new_member_is_given_an_id_first() -> None:
    one = Coordinator()
    joining = one.join(requires_known_member_id=True)
    assert joining.error == 79  # MEMBER_ID_REQUIRED
    assert joining.answer.member_id.startswith("c-")
    again = one.join(joining.answer.member_id)
    assert again.waits
    one.advance(0)
    assert (again.error, again.answer.generation_id) == (0, 1)
    assert again.answer.leader == again.answer.member_id == joining.answer.member_id


def test_an_id_that_nobody_joins_with_is_forgotten() -> None:
    one = Coordinator()
    member_id = one.join(requires_known_member_id=True).answer.member_id
    one.advance(10 * SECOND)
    assert one.join(member_id).error == 25  # UNKNOWN_MEMBER_ID
    assert one.groups.listed() == []


def test_a_rebalance_waits_for_those_who_were_given_an_id() -> None:
    one = Coordinator()
    (member_id,) = one.stable(1)
    pending = one.join(requires_known_member_id=True).answer.member_id
    rejoining = one.join(member_id)
    assert rejoining.waits
    joining = one.join(pending)
    assert (rejoining.error, joining.error) == (0, 0)
    assert {each.member_id for each in rejoining.answer.members} == {member_id, pending}


def test_a_rebalance_goes_on_when_the_pending_member_does_not_come() -> None:
    one = Coordinator()
    (member_id,) = one.stable(1)
    one.join(requires_known_member_id=True, session_timeout_ms=6 * SECOND)
    rejoining = one.join(member_id)
    one.advance(6 * SECOND - 1)
    assert rejoining.waits
    one.advance(1)
    assert rejoining.error == 0


def test_the_first_rebalance_gives_a_stable_group() -> None:
    one = Coordinator()
    first, second = one.join(), one.join()
    one.advance(0)
    leader, member = first.answer, second.answer
    assert leader.generation_id == member.generation_id == 1
    assert leader.leader == member.leader == leader.member_id
    assert [each.member_id for each in leader.members] == [leader.member_id, member.member_id]
    assert member.members == ()
    assert one.state == "CompletingRebalance"

    waiting = one.sync(member.member_id, 1)
    assert waiting.waits
    own = one.sync(leader.member_id, 1, {leader.member_id: b"L", member.member_id: b"M"})
    assert (own.error, own.answer.assignment) == (0, b"L")
    assert (waiting.error, waiting.answer.assignment) == (0, b"M")
    assert one.state == "Stable"
    assert one.heartbeat(member.member_id, 1) == 0


def test_members_whom_the_leader_forgets_get_an_empty_assignment_and_strangers_none() -> None:
    one = Coordinator()
    first, second = one.join(), one.join()
    one.advance(0)
    waiting = one.sync(second.answer.member_id, 1)
    one.sync(first.answer.member_id, 1, {first.answer.member_id: b"L", "a stranger": b"X"})
    assert (waiting.error, waiting.answer.assignment) == (0, b"")
    assert len(one.describe().members) == 2


@pytest.mark.parametrize(
    ("joins_at_ms", "ready_after_ms"),
    [
        ([0], 3_000),
        ([0, 1_000], 6_000),
        ([0, 2_999, 4_000], 9_000),
        ([0, 2_000, 5_000, 8_000, 11_000], 10_000),  # at most the rebalance timeout; the last one comes too late
    ],
)
def test_the_initial_wait_is_prolonged_by_those_who_come(joins_at_ms: list[int], ready_after_ms: int) -> None:
    one = Coordinator(GroupSettings())
    begin_ms = one.now_ms
    joined = []
    for at_ms in joins_at_ms:
        if at_ms < ready_after_ms:
            one.advance(begin_ms + at_ms - one.now_ms)
            joined.append(one.join(rebalance_timeout_ms=10_000))
    one.advance(begin_ms + ready_after_ms - 1 - one.now_ms)
    assert all(each.waits for each in joined)
    one.advance(1)
    assert [each.error for each in joined] == [0] * len(joined)


def test_a_new_member_makes_the_others_join_again() -> None:
    one = Coordinator()
    first, second = one.stable(2)
    third = one.join()
    assert one.state == "PreparingRebalance"
    assert one.heartbeat(first, 1) == 27  # REBALANCE_IN_PROGRESS
    again = [one.join(first), one.join(second)]
    assert {each.answer.generation_id for each in (third, *again)} == {2}
    assert again[0].answer.leader == first


def test_those_who_do_not_join_again_are_put_out_after_the_rebalance_timeout() -> None:
    one = Coordinator()
    first, second = one.stable(2, session_timeout_ms=60 * SECOND)
    third = one.join(session_timeout_ms=60 * SECOND, rebalance_timeout_ms=20 * SECOND)
    again = one.join(second, session_timeout_ms=60 * SECOND)
    one.advance(30 * SECOND - 1)  # the longest rebalance timeout of any member
    assert again.waits
    one.advance(1)
    assert (again.error, third.error) == (0, 0)
    assert again.answer.leader == second  # the leader was the one who stayed away
    assert one.heartbeat(first, 1) == 25
    assert any(first in notice and "did not join" in notice for notice in one.notices)


def test_those_who_join_and_never_ask_for_their_assignment_are_put_out() -> None:
    one = Coordinator()
    joined = [one.join() for _ in range(3)]
    one.advance(0)
    first, second, third = (each.answer.member_id for each in joined)
    one.sync(first, 1)
    one.sync(second, 1)
    for _ in range(10):
        one.advance(3 * SECOND - 1)
        assert {one.heartbeat(member_id, 1) for member_id in (first, second, third)} == {0}
    one.advance(10)
    assert one.heartbeat(first, 1) == 27
    assert one.heartbeat(third, 1) == 25
    assert any(third in notice and "never asked" in notice for notice in one.notices)


def test_without_the_leaders_assignment_the_leader_goes_and_the_others_rebalance() -> None:
    one = Coordinator()
    joined = [one.join() for _ in range(2)]
    one.advance(0)
    leader, member = (each.answer.member_id for each in joined)
    waiting = one.sync(member, 1)
    one.advance(10 * SECOND)  # the leader's session ends
    assert waiting.error == 27
    again = one.join(member)
    assert (again.error, again.answer.leader) == (0, member)
    assert one.heartbeat(leader, 1) == 25


def test_a_new_member_whose_client_is_gone_waits_five_minutes_at_most() -> None:
    one = Coordinator()
    (first,) = one.stable(1, rebalance_timeout_ms=600 * SECOND)
    joining = one.join(rebalance_timeout_ms=600 * SECOND)
    for _ in range(60):
        one.advance(5 * SECOND)
        one.heartbeat(first, 1)
    assert joining.error == 25


def test_a_follower_that_has_not_changed_gets_the_same_generation_again() -> None:
    one = Coordinator()
    first, second = one.stable(2)
    again = one.join(second)
    assert (again.error, again.answer.generation_id, again.answer.leader) == (0, 1, first)
    assert one.state == "Stable"


@pytest.mark.parametrize(("number", "topics"), [(0, ("a",)), (1, ("a", "b"))], ids=["leader", "changed follower"])
def test_a_leader_or_a_changed_follower_brings_about_a_rebalance(number: int, topics: tuple[str, ...]) -> None:
    one = Coordinator()
    ids = one.stable(2)
    assert one.join(ids[number], protocols=(("range", subscription(*topics)),)).waits
    assert one.state == "PreparingRebalance"


def test_an_answer_that_was_lost_is_given_again_while_the_assignment_is_awaited() -> None:
    one = Coordinator()
    joined = [one.join() for _ in range(2)]
    one.advance(0)
    leader = one.join(joined[0].answer.member_id)
    assert leader.answer == joined[0].answer
    member = one.join(joined[1].answer.member_id)
    assert member.answer == joined[1].answer
    changed = one.join(joined[1].answer.member_id, protocols=(("range", subscription("b")),))
    assert changed.waits
    assert one.state == "PreparingRebalance"


def test_the_same_request_again_ends_the_older_one() -> None:
    one = Coordinator()
    first, second = one.stable(2)
    older = one.join(first)
    newer = one.join(first)
    assert older.error == 27
    assert newer.waits
    one.join(second)
    assert newer.error == 0
    older_sync = one.sync(second, 2)
    newer_sync = one.sync(second, 2)
    assert (older_sync.error, newer_sync.waits) == (27, True)
    one.sync(first, 2, {second: b"2"})
    assert newer_sync.answer.assignment == b"2"


def test_a_rebalance_ends_the_wait_for_an_assignment() -> None:
    one = Coordinator()
    joined = [one.join() for _ in range(2)]
    one.advance(0)
    waiting = one.sync(joined[1].answer.member_id, 1)
    one.join()
    assert waiting.error == 27


@pytest.mark.parametrize(
    ("members", "chosen"),
    [
        ([[RANGE]], "range"),
        ([[RANGE, ROBIN], [ROBIN, RANGE], [ROBIN, RANGE]], "roundrobin"),
        ([[RANGE, ROBIN], [ROBIN, RANGE]], "range"),
        ([[RANGE, STICKY], [STICKY, RANGE], [ROBIN, RANGE]], "range"),
        ([[STICKY, RANGE], [STICKY, RANGE]], "cooperative-sticky"),
    ],
)
def test_the_protocol_is_the_one_most_members_like_best(members: list[list[tuple[str, bytes]]], chosen: str) -> None:
    one = Coordinator()
    joined = [one.join(protocol_type="x", protocols=tuple(protocols)) for protocols in members]
    one.advance(0)
    assert {each.answer.protocol_name for each in joined} == {chosen}
    metadata = [dict(protocols)[chosen] for protocols in members]
    assert [each.metadata for each in joined[0].answer.members] == metadata


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"protocols": (("roundrobin", b""),)}, 23),
        ({"protocol_type": "connect"}, 23),
        ({"protocol_type": ""}, 23),
        ({"protocols": ()}, 23),
        ({"group_id": ""}, 24),
        ({"group_id": "g" * 65_536}, 24),
        ({"instance_id": "i" * 5_000}, 42),
        ({"client_id": "c" * 5_000}, 42),
        ({"protocols": (("range", b""), ("p" * 5_000, b""))}, 42),
        ({"session_timeout_ms": 5_999}, 26),
        ({"session_timeout_ms": 1_800_001}, 26),
        ({"member_id": "nobody"}, 25),
        ({"member_id": "nobody", "group_id": "other"}, 25),
        ({"instance_id": "nobody", "member_id": "nobody"}, 25),
    ],
)
def test_who_may_not_join_is_told_why(changes: dict[str, Any], error: int) -> None:
    one = Coordinator()
    one.stable(2)
    before = one.describe()
    assert one.join(**{"member_id": "", **changes}).error == error
    assert one.describe() == before
    assert [each.group_id for each in one.groups.listed()] == ["g"]


@pytest.mark.parametrize("changes", [{"protocols": ()}, {"protocol_type": ""}, {"session_timeout_ms": 1}])
def test_who_may_not_join_makes_no_group(changes: dict[str, Any]) -> None:
    one = Coordinator()
    assert one.join(**changes).error in (23, 26)
    assert one.groups.listed() == []
    assert one.wakes == {}


def test_a_full_group_takes_nobody_new() -> None:
    one = Coordinator(GroupSettings(initial_rebalance_delay_ms=0, max_size=2))
    first, second = one.stable(2)
    assert one.join().error == 81  # GROUP_MAX_SIZE_REACHED
    again = [one.join(first), one.join(second)]
    assert [each.error for each in again] == [0, 0]


def test_a_group_over_a_lowered_limit_lets_the_last_one_go() -> None:
    one = Coordinator()
    ids = one.stable(3)
    one.settings = GroupSettings(initial_rebalance_delay_ms=0, max_size=2)
    one.restart()
    assert one.state == "PreparingRebalance"
    joined = [one.join(member_id) for member_id in ids]
    assert [each.error for each in joined] == [0, 0, 81]


def test_an_empty_group_may_be_joined_with_another_protocol_type() -> None:
    one = Coordinator()
    (member_id,) = one.stable(1)
    one.leave(LeavingMember(member_id))
    assert one.state == "Empty"
    joining = one.join(protocol_type="connect", protocols=(("sessioned", b"w"),))
    one.advance(0)
    assert (joining.answer.protocol_type, joining.answer.generation_id) == ("connect", 3)
