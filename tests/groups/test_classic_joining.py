"""Joining a classic group: ids, phases, timeouts, protocols."""

from __future__ import annotations

from tests.groups.coordinator import Coordinator


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
