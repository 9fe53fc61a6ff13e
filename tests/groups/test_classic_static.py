"""Static members (KIP-345): they keep their place across restarts, and whoever took it over fences off the old one."""

from __future__ import annotations

import pytest

from kbroker.groups import protocol
from kbroker.groups.events import LeavingMember, OffsetToCommit
from tests.groups.coordinator import SECOND, Coordinator, subscription

FENCED = 82


def stable_static(one: Coordinator) -> list[str]:
    """A stable group of the static members i0 (it leads) and i1."""
    joined = [one.join(instance_id=f"i{number}") for number in range(2)]
    one.advance(0)
    ids = [each.answer.member_id for each in joined]
    one.sync(ids[1], 1, instance_id="i1")
    one.sync(ids[0], 1, {member_id: b"for " + member_id.encode() for member_id in ids}, instance_id="i0")
    return ids


def test_a_static_member_joins_at_once_and_its_id_tells_the_instance() -> None:
    one = Coordinator()
    joining = one.join(instance_id="i0", requires_known_member_id=True)
    one.advance(0)
    assert joining.answer.member_id.startswith("i0-")


def test_a_returning_static_member_keeps_its_place_without_a_rebalance() -> None:
    one = Coordinator()
    leader, old = stable_static(one)
    records = len(one.log)
    back = one.join(instance_id="i1", client_host="10.0.0.9")
    assert (back.error, back.answer.generation_id, back.answer.leader) == (0, 1, leader)
    assert (back.answer.skip_assignment, back.answer.members) == (False, ())
    new = back.answer.member_id
    assert new != old
    assert len(one.log) == records + 1  # the new id is stored, or a crash would bring the old one back
    assert one.sync(new, 1, instance_id="i1").answer.assignment == b"for " + old.encode()
    assert one.state == "Stable"
    assert one.heartbeat(old, 1, "i1") == FENCED
    assert one.heartbeat(old, 1) == 25
    assert one.heartbeat(new, 1, "i1") == 0
    assert [each.client_host for each in one.describe().members] == ["127.0.0.1", "10.0.0.9"]


@pytest.mark.parametrize("supports_skip_assignment", [True, False])
def test_a_returning_leader_does_not_assign_anew(supports_skip_assignment: bool) -> None:
    one = Coordinator()
    old, other = stable_static(one)
    back = one.join(instance_id="i0", supports_skip_assignment=supports_skip_assignment)
    new = back.answer.member_id
    if supports_skip_assignment:
        assert (back.answer.leader, back.answer.skip_assignment) == (new, True)
        assert [each.member_id for each in back.answer.members] == [new, other]
    else:
        assert (back.answer.leader, back.answer.members) == (old, ())
    assert one.sync(new, 1, instance_id="i0").answer.assignment == b"for " + old.encode()
    assert one.join(new, instance_id="i0").waits  # it leads: joining again makes the group rebalance


@pytest.mark.parametrize(
    ("protocols", "rebalances"),
    [
        ((("range", subscription("a")),), False),
        ((("range", subscription("a")), ("roundrobin", subscription("a"))), False),
        # Where it owns nothing any more its metadata differs, and its topics do not.
        ((("range", protocol.encode_subscription(protocol.Subscription(("a",), b"", {"a": (1,)}, 7))),), False),
        ((("range", subscription("a", "b")),), True),
        ((("range", b"not understood"),), True),
    ],
)
def test_a_static_member_that_comes_back_with_other_topics_brings_about_a_rebalance(
    protocols: tuple[tuple[str, bytes], ...], rebalances: bool
) -> None:
    one = Coordinator()
    stable_static(one)
    assert one.join(instance_id="i1", protocols=protocols).waits == rebalances
    assert one.state == ("PreparingRebalance" if rebalances else "Stable")


def test_a_static_member_whose_return_changes_the_protocol_brings_about_a_rebalance() -> None:
    one = Coordinator()
    both = (("range", subscription("a")), ("roundrobin", subscription("a")))
    joined = [one.join(instance_id=f"i{number}", protocols=both) for number in range(2)]
    one.advance(0)
    one.sync(joined[0].answer.member_id, 1, instance_id="i0")
    assert one.join(instance_id="i1", protocols=both[1:]).waits
    assert one.state == "PreparingRebalance"


def test_one_who_takes_a_static_members_place_fences_its_waiting_requests() -> None:
    one = Coordinator()
    leader, old = stable_static(one)
    third = one.join(session_timeout_ms=60 * SECOND)
    waiting = one.join(old, instance_id="i1")
    assert waiting.waits
    replacing = one.join(instance_id="i1")
    assert waiting.error == FENCED
    one.join(leader, instance_id="i0")
    assert (replacing.error, third.error) == (0, 0)

    syncing = one.sync(replacing.answer.member_id, 2, instance_id="i1")
    again = one.join(instance_id="i1")
    assert syncing.error == FENCED
    assert again.waits
    assert one.state == "PreparingRebalance"


def test_a_wrong_member_id_for_an_instance_is_fenced() -> None:
    one = Coordinator()
    other, _ = stable_static(one)
    for member_id in ("nobody", other):
        assert one.join(member_id, instance_id="i1").error == FENCED
        assert one.sync(member_id, 1, instance_id="i1").error == FENCED
        assert one.heartbeat(member_id, 1, "i1") == FENCED
        assert one.commit(OffsetToCommit("a", 0, 1), member_id=member_id, instance_id="i1", generation_id=1) == (
            FENCED,
        )
        left = one.leave(LeavingMember(member_id, "i1"))
        assert [each.error_code for each in left.members] == [FENCED]


def test_a_static_member_is_not_put_out_for_missing_a_rebalance() -> None:
    one = Coordinator()
    ids = stable_static(one)
    joining = one.join(session_timeout_ms=120 * SECOND)
    one.join(ids[0], instance_id="i0", session_timeout_ms=120 * SECOND)
    for _ in range(10):
        one.heartbeat(ids[1], 1, "i1")
        one.advance(3 * SECOND)
    assert joining.error == 0
    assert one.heartbeat(ids[1], 2, "i1") == 0


def test_a_rebalance_that_no_static_member_joins_waits_until_their_sessions_end() -> None:
    one = Coordinator()
    first, second = stable_static(one)
    gone = one.join()
    one.leave(LeavingMember(gone.event.client_id))  # not a member: nothing happens
    one.leave(LeavingMember(f"c-{gone.event.fresh_id}"))
    assert gone.error == 25
    for _ in range(4):
        one.advance(9 * SECOND)
        assert {one.heartbeat(first, 1, "i0"), one.heartbeat(second, 1, "i1")} == {27}
    assert one.state == "PreparingRebalance"
    one.advance(10 * SECOND)
    assert one.state == "Empty"


def test_an_administrator_puts_out_static_members_by_instance_id() -> None:
    one = Coordinator()
    ids = stable_static(one)
    left = one.leave(LeavingMember("", "i0"), LeavingMember("", "nobody"), LeavingMember("", None))
    assert [(each.instance_id, each.error_code) for each in left.members] == [("i0", 0), ("nobody", 25), (None, 25)]
    assert one.heartbeat(ids[0], 1, "i0") == 25
    assert one.heartbeat(ids[1], 1, "i1") == 27


def test_static_members_survive_a_restart() -> None:
    one = Coordinator()
    stable_static(one)
    new = one.join(instance_id="i1").answer.member_id
    one.restart()
    assert one.heartbeat(new, 1, "i1") == 0
    again = one.join(instance_id="i1")
    assert (again.error, again.answer.generation_id) == (0, 1)


def test_the_log_says_who_was_put_out_and_why() -> None:
    one = Coordinator()
    joined = one.join(instance_id="i", client_id="app", client_host="/10.0.0.7")
    one.advance(0)
    first = joined.answer.member_id
    one.synced([first], 1)
    one.join(instance_id="i", client_id="another", client_host="/10.0.0.8")
    who = f"group 'g': member {first!r} (client 'app' at '/10.0.0.7')"
    assert any(
        notice.startswith(f"{who} was put out: it is fenced") and "'another' at '/10.0.0.8'" in notice
        for notice in one.notices
    )
    one.leave(LeavingMember("", "i"))
    assert any("was put out by an administrator" in notice for notice in one.notices)
    dynamic = one.join(client_id="app", client_host="/10.0.0.7")
    one.advance(0)
    reason = "consumer poll timeout has expired."
    one.leave(LeavingMember(dynamic.answer.member_id, None, reason))
    assert f"(client 'app' at '/10.0.0.7') left: {reason!r}" in "".join(one.notices)
