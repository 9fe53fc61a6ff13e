"""Committed offsets of classic groups: who may commit, what is fetched, what is forgotten and when."""

from __future__ import annotations

from typing import Any

import pytest

from kbroker.groups import committed
from kbroker.groups.events import (
    DeleteGroup,
    DeleteOffsets,
    DeleteOffsetsResult,
    FetchedOffset,
    LeavingMember,
    OffsetToCommit,
    TopicsChanged,
)
from kbroker.groups.settings import GroupSettings
from tests.groups.coordinator import GROUP, SECOND, Coordinator

A0 = OffsetToCommit("a", 0, 7, 3, "note")
DAY = 86_400 * SECOND


def in_state(one: Coordinator, state: str) -> str:
    """The id of a member of the group, which is in that state; "" where there is none."""
    if state == "none":
        return ""
    if state == "CompletingRebalance":
        joining = one.join()
        one.advance(0)
        member_id = joining.answer.member_id
    else:
        member_id = one.stable(2)[1]
    if state == "PreparingRebalance":
        one.join()
    if state == "Empty":
        one.leave(*[LeavingMember(each.member_id) for each in one.describe().members])
    assert one.state == state
    return member_id


@pytest.mark.parametrize(
    ("state", "who", "generation_id", "error"),
    [
        ("none", "", -1, 0),  # a client in no group
        ("none", "", 1, 69),
        ("none", "member", -1, 0),
        ("Empty", "", -1, 0),
        ("Empty", "nobody", -1, 0),
        ("Empty", "", 1, 25),
        ("Empty", "member", 1, 25),
        ("Stable", "member", 1, 0),
        ("Stable", "member", 0, 22),
        ("Stable", "member", -1, 22),
        ("Stable", "nobody", 1, 25),
        ("Stable", "", 1, 25),
        ("Stable", "", -1, 25),
        ("PreparingRebalance", "member", 1, 0),  # what was read before the rebalance
        ("PreparingRebalance", "member", 2, 22),
        ("PreparingRebalance", "", -1, 25),
        ("CompletingRebalance", "member", 1, 27),
        ("CompletingRebalance", "member", 0, 22),
        ("CompletingRebalance", "", -1, 25),
    ],
)
def test_who_may_commit_when(state: str, who: str, generation_id: int, error: int) -> None:
    one = Coordinator()
    member_id = in_state(one, state)
    asked = member_id if who == "member" else who
    assert one.commit(A0, member_id=asked, generation_id=generation_id) == (error,)
    assert dict(one.groups.offsets_of(GROUP)) == (
        {} if error else {("a", 0): committed.Committed(7, 3, "note", one.now_ms)}
    )


def test_below_version_9_a_generation_of_no_group_is_illegal() -> None:
    assert Coordinator().commit(A0, generation_id=1, knows_member_epochs=False) == (22,)


def test_a_static_member_commits_under_its_own_id_only() -> None:
    one = Coordinator()
    joining = one.join(instance_id="i")
    one.advance(0)
    member_id = joining.answer.member_id
    one.sync(member_id, 1, instance_id="i")
    assert one.commit(A0, member_id=member_id, instance_id="i", generation_id=1) == (0,)
    assert one.commit(A0, member_id="other", instance_id="i", generation_id=1) == (82,)
    assert one.commit(A0, member_id=member_id, instance_id="other", generation_id=1) == (25,)


def test_a_commit_is_as_good_as_a_heartbeat() -> None:
    one = Coordinator()
    (member_id,) = one.stable(1)
    for _ in range(4):
        one.advance(9 * SECOND)
        assert one.commit(A0, member_id=member_id, generation_id=1) == (0,)


def test_each_offset_is_decided_on_its_own() -> None:
    one = Coordinator()
    codes = one.commit(
        A0,
        OffsetToCommit("unknown", 0, 1),
        OffsetToCommit("a", 4, 1),
        OffsetToCommit("a", -1, 1),
        OffsetToCommit("a", 1, 1, -1, "x" * 4096),
        OffsetToCommit("a", 2, 1, -1, "x" * 4097),
        OffsetToCommit("a", 3, 1, -1, "é" * 2049),
        OffsetToCommit("b", 0, 1, -1, "x" * 1_000_000),
    )
    assert codes == (0, 3, 3, 3, 0, 12, 12, 12)
    assert sorted(one.groups.offsets_of(GROUP)) == [("a", 0), ("a", 1)]
    assert len(one.log) == 2


def test_unknown_topics_are_refused_before_the_group_is_asked() -> None:
    one = Coordinator()
    assert one.commit(OffsetToCommit("unknown", 0, 1), A0, generation_id=5) == (3, 69)
    assert one.commit(OffsetToCommit("unknown", 0, 1)) == (3,)
    assert one.groups.listed() == []


def test_a_lower_offset_is_accepted() -> None:
    one = Coordinator()
    one.commit(A0)
    assert one.commit(A0._replace(offset=2)) == (0,)
    assert one.fetch(("a", 0)).offsets == (FetchedOffset("a", 0, 2, 3, "note", commit_ms=one.now_ms),)


def test_what_was_committed_is_fetched() -> None:
    one = Coordinator()
    one.commit(OffsetToCommit("b", 1, 9), A0)
    when = one.now_ms
    one.advance(SECOND)
    known, other = FetchedOffset("a", 0, 7, 3, "note", commit_ms=when), FetchedOffset("b", 1, 9, commit_ms=when)
    assert one.fetch().offsets == (known, other)
    assert one.fetch(("b", 1), ("a", 1), ("a", 0)).offsets == (other, FetchedOffset("a", 1), known)
    assert one.fetch(group="other").offsets == ()
    assert one.fetch(("a", 0), group="other").offsets == (FetchedOffset("a", 0),)


def test_offsets_survive_a_restart_and_make_their_group_again() -> None:
    one = Coordinator()
    one.commit(A0)
    one.commit(OffsetToCommit("a", 1, 5), retention_ms=60_000)
    before = dict(one.groups.offsets_of(GROUP))
    one.restart()
    assert dict(one.groups.offsets_of(GROUP)) == before
    assert [tuple(each) for each in one.groups.listed()] == [(GROUP, "", "Empty", "classic")]
    assert one.groups.records(GROUP) == one.log


def test_above_the_limit_no_new_group_commits() -> None:
    one = Coordinator(GroupSettings(groups_max=1))
    assert one.commit(A0) == (0,)
    assert one.commit(A0, group_id="other") == (81,)
    assert one.commit(A0._replace(offset=8)) == (0,)
    assert any("groups.max" in notice for notice in one.notices)


def test_the_empty_name_is_good_for_offsets_only() -> None:
    one = Coordinator()
    assert one.commit(A0, group_id="") == (0,)
    assert one.fetch(("a", 0), group="").offsets[0].offset == 7
    assert one.join(group_id="").error == 24
    assert delete(one, ("a", 0), group_id="").error_code == 24


# --- forgetting ---


def delete(one: Coordinator, *partitions: tuple[str, int], group_id: str = GROUP) -> DeleteOffsetsResult:
    answer = one.give(DeleteOffsets(group_id, one.token(), partitions))
    assert isinstance(answer, DeleteOffsetsResult)
    return answer


def test_offsets_of_topics_that_nobody_reads_may_be_deleted() -> None:
    one = Coordinator()
    (member_id,) = one.stable(1)  # it reads "a"
    one.commit(A0, OffsetToCommit("b", 0, 1), member_id=member_id, generation_id=1)
    answer = delete(one, ("a", 0), ("b", 0), ("b", 1), ("unknown", 0))
    assert (answer.error_code, answer.error_codes) == (0, (86, 0, 0, 3))
    assert list(one.groups.offsets_of(GROUP)) == [("a", 0)]
    one.restart()
    assert list(one.groups.offsets_of(GROUP)) == [("a", 0)]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"protocol_type": "connect", "protocols": (("sessioned", b""),)}, 68),
        ({"protocols": (("range", b"not understood"),)}, 0),  # then every topic counts as read
    ],
)
def test_where_it_is_not_known_what_is_read_nothing_is_deleted(changes: dict[str, Any], error: int) -> None:
    one = Coordinator()
    (member_id,) = one.stable(1, **changes)
    one.commit(A0, member_id=member_id, generation_id=1)
    answer = delete(one, ("a", 0))
    assert (answer.error_code, answer.error_codes) == (error, () if error else (86,))
    assert len(one.groups.offsets_of(GROUP)) == 1


def test_offsets_of_no_group_cannot_be_deleted() -> None:
    assert delete(Coordinator(), ("a", 0)).error_code == 69


def test_a_deleted_group_takes_its_offsets_along() -> None:
    one = Coordinator()
    one.commit(A0)
    one.give(DeleteGroup(GROUP, one.token()))
    assert one.fetch().offsets == ()
    one.restart()
    assert one.fetch().offsets == ()


def test_offsets_in_deleted_topics_are_forgotten() -> None:
    one = Coordinator()
    one.commit(A0, OffsetToCommit("b", 0, 1))
    one.commit(OffsetToCommit("a", 1, 1), group_id="only a")
    del one.topics.counts["a"]
    changes = one.groups.topics_changed(TopicsChanged(deleted=frozenset({"a"})), one.now_ms)
    assert sorted(group_id for group_id, _ in changes) == [GROUP, "only a"]
    for group_id, effects in changes:
        one.perform(group_id, effects)
    one.topics.counts["a"] = 4
    for groups in ([GROUP, "only a"], [GROUP]):
        assert one.fetch().offsets == (FetchedOffset("b", 0, 1, commit_ms=one.now_ms),)
        assert [each.group_id for each in one.groups.listed()] == groups
        one.restart()


@pytest.mark.parametrize("how", ["offset", "topic"])
def test_a_group_without_its_last_offset_can_be_deleted_until_it_is_looked_at(how: str) -> None:
    for deletes in (True, False):
        one = Coordinator()
        one.commit(A0)
        if how == "offset":
            assert delete(one, ("a", 0)).error_codes == (0,)
        else:
            for group_id, effects in one.groups.topics_changed(TopicsChanged(frozenset({"a"})), one.now_ms):
                one.perform(group_id, effects)
        assert [each.state for each in one.groups.listed()] == ["Empty"]
        if deletes:
            assert one.give(DeleteGroup(GROUP, one.token())).error_code == 0
        else:
            one.advance(one.groups.settings.offsets_retention_check_interval_ms)
        assert one.groups.listed() == []


# --- retention ---


def kept(one: Coordinator) -> list[tuple[str, int]]:
    return sorted(one.groups.offsets_of(GROUP))


def test_offsets_of_a_client_in_no_group_expire_one_by_one_after_their_commit() -> None:
    one = Coordinator()
    one.commit(A0)
    one.advance(3 * DAY)
    one.commit(OffsetToCommit("a", 1, 1))
    one.advance(4 * DAY - 700 * SECOND)
    assert len(kept(one)) == 2
    one.advance(1300 * SECOND)  # looked at every ten minutes
    assert kept(one) == [("a", 1)]
    one.advance(3 * DAY)
    assert kept(one) == []
    assert one.groups.listed() == []
    one.restart()
    assert (kept(one), one.groups.listed(), one.wakes) == ([], [], {})


def test_offsets_of_an_empty_group_expire_together_after_it_became_empty() -> None:
    one = Coordinator()
    (member_id,) = one.stable(1)
    one.commit(A0, OffsetToCommit("b", 0, 1), member_id=member_id, generation_id=1)
    for _ in range(100):
        one.advance(9 * SECOND)
        one.heartbeat(member_id, 1)
    one.leave(LeavingMember(member_id))
    one.advance(5 * DAY)
    one.restart()  # since when it is empty is stored
    one.advance(2 * DAY - 700 * SECOND)
    assert len(kept(one)) == 2
    one.advance(1300 * SECOND)
    assert kept(one) == []
    assert one.groups.listed() == []
    assert one.log[-1].value is None


def test_a_group_with_members_keeps_the_offsets_of_its_topics_only() -> None:
    one = Coordinator(GroupSettings(initial_rebalance_delay_ms=0, offsets_retention_ms=900 * SECOND))
    (member_id,) = one.stable(1, session_timeout_ms=1800 * SECOND)  # it reads "a"
    one.commit(A0, OffsetToCommit("b", 0, 1), member_id=member_id, generation_id=1)
    one.advance(800 * SECOND)
    assert len(kept(one)) == 2
    one.advance(500 * SECOND)
    assert kept(one) == [("a", 0)]
    assert one.state == "Stable"


@pytest.mark.parametrize("changes", [{"protocols": (("range", b"?"),)}, {"protocol_type": "connect"}])
def test_members_whose_topics_are_not_known_keep_all(changes: dict[str, Any]) -> None:
    one = Coordinator(GroupSettings(initial_rebalance_delay_ms=0, offsets_retention_ms=900 * SECOND))
    (member_id,) = one.stable(1, session_timeout_ms=1800 * SECOND, **changes)
    one.commit(A0, OffsetToCommit("b", 0, 1), member_id=member_id, generation_id=1)
    one.advance(1700 * SECOND)
    assert len(kept(one)) == 2


def test_a_retention_that_came_with_the_commit_counts_instead() -> None:
    one = Coordinator()
    one.commit(A0, retention_ms=DAY)
    one.commit(OffsetToCommit("a", 1, 1), retention_ms=30 * DAY)
    one.restart()
    one.advance(DAY + 601 * SECOND)
    assert kept(one) == [("a", 1)]
    one.advance(28 * DAY)
    assert kept(one) == [("a", 1)]
    one.advance(DAY)
    assert kept(one) == []


def test_many_groups_are_looked_at_spread_over_the_interval() -> None:
    one = Coordinator()
    for number in range(600):
        one.commit(A0, group_id=f"g{number}")
    one.restart()
    first_ms, last_ms = min(one.wakes.values()), max(one.wakes.values())
    assert (first_ms - one.now_ms, last_ms - one.now_ms) == (1_000, 600_000)
    assert len(set(one.wakes.values())) == 600
