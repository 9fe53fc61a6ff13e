"""Members that live, die and leave; what they are told in which state."""

from __future__ import annotations

from typing import Any

import pytest

from kbroker.groups import classic
from kbroker.groups.classic import ClassicGroup
from kbroker.groups.classic_member import ClassicMember
from kbroker.groups.classic_state import ClassicGroupState, State
from kbroker.groups.effects import Record
from kbroker.groups.events import DeleteGroup, LeavingMember, OffsetToCommit, SyncGroup, TopicsChanged
from kbroker.groups.settings import GroupSettings
from tests.groups.coordinator import GROUP, SECOND, START_MS, Coordinator


@pytest.mark.parametrize(
    ("member", "generation_id", "error"),
    [("leader", 1, 0), ("follower", 1, 0), ("nobody", 1, 25), ("", 1, 25), ("leader", 0, 22), ("leader", 2, 22)],
)
def test_heartbeats_and_syncs_are_for_members_of_this_generation(member: str, generation_id: int, error: int) -> None:
    one = Coordinator()
    first, second = one.stable(2)
    member_id = {"leader": first, "follower": second}.get(member, member)
    assert one.heartbeat(member_id, generation_id) == error
    assert one.sync(member_id, generation_id).error == error


def test_without_a_group_nobody_is_a_member() -> None:
    one = Coordinator()
    assert one.heartbeat("m", 1) == 25
    assert one.sync("m", 1).error == 25
    left = one.leave(LeavingMember("m"), LeavingMember("", "i"))
    assert (left.error_code, [each.error_code for each in left.members]) == (0, [25, 25])
    assert one.heartbeat("m", 1, group="") == 24
    assert one.sync("m", 1, group_id="").error == 24
    assert one.leave(LeavingMember("m"), group="").error_code == 24


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"protocol_type": "consumer", "protocol_name": "range"}, 0),
        ({"protocol_type": "connect"}, 23),
        ({"protocol_name": "roundrobin"}, 23),
    ],
)
def test_a_sync_names_the_groups_protocol_or_none(changes: dict[str, Any], error: int) -> None:
    one = Coordinator()
    (member_id,) = one.stable(1)
    assert one.sync(member_id, 1, None, **changes).error == error


def test_while_members_join_a_sync_is_refused() -> None:
    one = Coordinator()
    first, _ = one.stable(2)
    one.join()
    assert one.sync(first, 1).error == 27


def test_a_session_lives_by_heartbeats() -> None:
    one = Coordinator()
    first, second = one.stable(2)
    for _ in range(5):
        one.advance(9 * SECOND)
        assert one.heartbeat(first, 1) == 0
        assert one.heartbeat(second, 1) == 0
    one.advance(9 * SECOND)
    assert one.heartbeat(first, 1) == 0
    one.advance(1 * SECOND)
    assert one.heartbeat(second, 1) == 25
    assert one.heartbeat(first, 1) == 27
    assert any(second in notice and "session" in notice for notice in one.notices)


def test_who_waits_for_an_answer_is_alive() -> None:
    one = Coordinator()
    first, second = one.stable(2, session_timeout_ms=6 * SECOND)
    waiting = one.join(first, session_timeout_ms=6 * SECOND)
    for _ in range(5):
        one.advance(5 * SECOND)
        assert one.heartbeat(second, 1) == 27
        assert waiting.waits
    one.join(second, session_timeout_ms=6 * SECOND)
    assert waiting.error == 0
    syncing = one.sync(second, 2)
    for _ in range(4):
        one.advance(5 * SECOND)
        assert one.heartbeat(first, 2) == 0
    assert syncing.waits
    one.sync(first, 2)
    assert syncing.error == 0


def test_heartbeats_bring_no_work_and_idle_groups_few_ticks() -> None:
    one = Coordinator()
    ids = one.stable(20, session_timeout_ms=45 * SECOND)
    ticks = 0
    tick = ClassicGroup.tick

    def counted(group: ClassicGroup, now_ms: int) -> object:
        nonlocal ticks
        ticks += 1
        return tick(group, now_ms)

    one.groups._groups[GROUP].tick = counted.__get__(one.groups._groups[GROUP])  # type: ignore[method-assign]
    for _ in range(60):
        one.advance(3 * SECOND)
        for member_id in ids:
            assert one.heartbeat(member_id, 1) == 0
    assert ticks <= 6  # 180 s, a session is 45 s long


def test_members_who_leave_are_answered_one_by_one() -> None:
    one = Coordinator()
    first, second, third = one.stable(3)
    pending = one.join(requires_known_member_id=True).answer.member_id
    left = one.leave(LeavingMember(second), LeavingMember(pending), LeavingMember("nobody"), LeavingMember(second))
    assert [(each.member_id, each.error_code) for each in left.members] == [
        (second, 0),
        (pending, 0),
        ("nobody", 25),
        (second, 25),
    ]
    assert one.heartbeat(first, 1) == 27
    again = [one.join(first), one.join(third)]
    assert [each.error for each in again] == [0, 0]


def test_who_waits_and_leaves_is_answered() -> None:
    one = Coordinator()
    first, _ = one.stable(2)
    joining = one.join(first)
    one.leave(LeavingMember(first))
    assert joining.error == 25
    joined = [one.join(), one.join()]
    one.advance(10 * SECOND)  # until the session of the other one ends
    assert {each.error for each in joined} == {0}
    waiting = one.sync(joined[1].answer.member_id, 2)
    assert waiting.waits
    one.leave(LeavingMember(joined[1].answer.member_id))
    assert waiting.error == 25


def test_the_last_one_leaves_an_empty_group() -> None:
    one = Coordinator()
    (member_id,) = one.stable(1)
    one.advance(0)
    one.leave(LeavingMember(member_id))
    described = one.describe()
    assert (described.state, described.protocol_type, described.members) == ("Empty", "consumer", ())
    assert one.heartbeat(member_id, 1) == 25
    joining = one.join()
    one.advance(0)
    assert joining.answer.generation_id == 3  # the empty one was the second


def test_what_an_administrator_sees() -> None:
    one = Coordinator()
    joined = [one.join(client_id=f"client {number}", instance_id=f"i{number}") for number in range(2)]
    assert one.state == "PreparingRebalance"
    one.advance(0)
    described = one.describe()
    assert (described.error_code, described.state, described.protocol_name) == (0, "CompletingRebalance", "")
    assert [(each.metadata, each.assignment) for each in described.members] == [(b"", b"")] * 2
    ids = [each.answer.member_id for each in joined]
    one.sync(ids[0], 1, {ids[0]: b"first", ids[1]: b"second"}, instance_id="i0")
    described = one.describe()
    assert (described.state, described.protocol_type, described.protocol_name) == ("Stable", "consumer", "range")
    (_, second) = described.members
    assert second == (ids[1], "i1", "client 1", "127.0.0.1", joined[1].event.protocols[0][1], b"second")


def test_a_group_that_is_not_there_is_dead() -> None:
    described = Coordinator().describe("none")
    assert (described.error_code, described.state) == (69, "Dead")
    assert described.error_message == "there is no group 'none'"


def test_groups_are_listed_by_state_and_type() -> None:
    one = Coordinator()
    one.stable(1)
    one.commit(OffsetToCommit("a", 0, 5), group_id="e")
    listed = one.groups.listed()
    assert [tuple(each) for each in listed] == [("e", "", "Empty", "classic"), ("g", "consumer", "Stable", "classic")]
    assert one.groups.listed(["stable"]) == listed[1:]
    assert one.groups.listed(["EMPTY", "Dead"]) == listed[:1]
    assert one.groups.listed(["Stable"], ["Consumer"]) == []
    assert one.groups.listed([], ["Classic"]) == listed


@pytest.mark.parametrize(("state", "error"), [("Stable", 68), ("PreparingRebalance", 68), ("Empty", 0), ("none", 69)])
def test_only_an_empty_group_is_deleted(state: str, error: int) -> None:
    one = Coordinator()
    if state != "none":
        (member_id,) = one.stable(1)
        if state == "PreparingRebalance":
            one.join()
        elif state == "Empty":
            one.leave(LeavingMember(member_id))
    assert one.give(DeleteGroup(GROUP, one.token())).error_code == error
    assert bool(one.groups.listed()) == (error == 68)
    one.restart()
    assert bool(one.groups.listed()) == (error == 68)


def test_an_empty_group_without_offsets_is_forgotten_after_a_while() -> None:
    one = Coordinator()
    (member_id,) = one.stable(1)
    one.leave(LeavingMember(member_id))
    one.advance(599 * SECOND)
    assert one.state == "Empty"
    one.advance(1 * SECOND)
    assert one.groups.listed() == []
    assert one.log[-1].value is None
    assert one.wakes == {}


def test_after_a_restart_members_go_on_where_they_were() -> None:
    one = Coordinator()
    first, second = one.stable(2)
    one.advance(9 * SECOND)
    one.restart()
    one.advance(9 * SECOND)  # a whole session from now on
    assert one.heartbeat(second, 1) == 0
    assert one.sync(second, 1).answer.assignment == second.encode()
    one.advance(2 * SECOND)
    assert one.heartbeat(first, 1) == 25


def test_a_restart_in_the_middle_of_a_rebalance_goes_back_to_the_generation_before() -> None:
    one = Coordinator()
    first, second = one.stable(2)
    one.join(first)
    one.join(second)
    one.restart()
    assert one.sync(first, 2).error == 22
    assert one.heartbeat(first, 2) == 22
    again = [one.join(first), one.join(second)]
    assert [each.answer.generation_id for each in again] == [2, 2]


def test_who_was_about_to_join_does_so_after_a_restart() -> None:
    one = Coordinator()
    one.stable(2)
    given = one.join(requires_known_member_id=True).answer.member_id
    one.restart()
    assert one.join("nobody").error == 25
    assert one.join(given, client_id="another").error == 25
    assert one.join(given, instance_id="i").error == 25
    assert one.join(given).waits
    one.restart()
    one.advance(10 * SECOND)
    assert one.join(given).error == 25, "that was too long ago"


def test_above_the_limit_new_groups_are_refused_and_the_log_says_so_once() -> None:
    one = Coordinator(GroupSettings(initial_rebalance_delay_ms=0, groups_max=2))
    first, _ = one.stable(2)
    one.join(group_id="h")
    for number in range(3):
        assert one.join(group_id=f"more {number}").error == 81
    assert [notice for notice in one.notices if "groups.max" in notice] == [
        "group 'more 0' was refused: there are 2 groups, as many as groups.max allows; "
        "delete groups that nobody needs, or raise it (said at most once a minute)"
    ]
    assert one.heartbeat(first, 1) == 0
    assert len(one.groups.listed()) == 2


def test_topics_that_come_are_the_leaders_business() -> None:
    one = Coordinator()
    one.stable(1)
    assert one.groups.topics_changed(TopicsChanged(changed=frozenset({"a"})), START_MS) == []


def test_pairs_that_cannot_be_are_our_mistake() -> None:
    state = ClassicGroupState("g")
    with pytest.raises(AssertionError, match="a group does not go from Empty to Stable"):
        state.become(State.STABLE, START_MS)
    group = ClassicGroup("g", GroupSettings())
    group.group.members.add(ClassicMember("m", None, "c", "h", 1, 1, {}))
    with pytest.raises(AssertionError, match="a member's SyncGroup has come to a group that is Empty"):
        group.handle(SyncGroup("g", 0, "m", None, 0), START_MS)


def test_so_many_may_be_about_to_join_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classic, "PENDING_MEMBERS_MAX", 3)
    one = Coordinator()
    codes = [one.join(requires_known_member_id=True).error for _ in range(5)]
    assert codes == [79, 79, 79, 81, 81]
    one.advance(10 * SECOND)
    assert one.join(requires_known_member_id=True).error == 79


def test_records_of_other_kinds_are_passed_over() -> None:
    one = Coordinator()
    one.stable(1)
    before = one.describe()
    one.groups.replay(Record(b"\0\x63unknown", b"?"), START_MS)
    one.groups._groups[GROUP].replay(Record(b"\0\x63unknown", b"?"), START_MS)
    assert one.describe() == before


def test_unknown_events_are_our_mistake() -> None:
    one = Coordinator()
    with pytest.raises(TypeError, match="groups take no int"):
        one.groups.handle(5, START_MS)
    with pytest.raises(TypeError, match="a classic group takes no DeleteGroup"):
        ClassicGroup("g", GroupSettings()).handle(DeleteGroup("g", 0), START_MS)
