"""What clients fill is bounded in sum: refused before memory is full, and left out at a start under a smaller bound."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kbroker.errors import CoordinatorNotAvailable, GroupMaxSizeReached, InvalidCommitOffsetSize, InvalidRequest
from kbroker.groups import groups as groups_module
from kbroker.groups.effects import Record
from kbroker.groups.events import DeleteGroup, OffsetToCommit, TopicsChanged
from kbroker.groups.groups import Groups
from kbroker.groups.settings import GroupSettings
from tests.groups.coordinator import GROUP, START_MS, Coordinator, FakeTopics
from tests.groups.kip848 import ConsumerCoordinator

ROOM = 2 << 20
SETTINGS = GroupSettings(initial_rebalance_delay_ms=0, memory_max_bytes=ROOM)


def full(one: Coordinator, count: int = 1000) -> int:
    """Commit in one group after the other until one is refused; how many were taken."""
    for number in range(count):
        codes = one.commit(OffsetToCommit("a", 0, 5, metadata="x" * 4000), group_id=f"g{number}")
        if codes != (0,):
            assert codes == (InvalidCommitOffsetSize.code,)
            return number
    raise AssertionError("nobody was refused")


def delete(one: Coordinator, group: str) -> int:
    code: int = one.give(DeleteGroup(group, one.token())).error_code
    return code


class TestRefused:
    def test_commits_of_many_groups(self) -> None:
        one = Coordinator(SETTINGS)
        taken = full(one)
        assert 100 < taken < 600
        assert one.groups.room.held_bytes <= ROOM
        (notice,) = [notice for notice in one.notices if "groups.memory.max.bytes" in notice]
        assert "delete groups" in notice
        # Who is there goes on: an offset in the place of another takes no more.
        assert one.commit(OffsetToCommit("a", 0, 6, metadata="y" * 4000), group_id="g0") == (0,)
        assert delete(one, "g1") == 0
        assert one.commit(OffsetToCommit("a", 0, 6), group_id="another") == (0,)

    def test_members_of_many_groups(self) -> None:
        one = Coordinator(SETTINGS)
        protocols = (("range", bytes(50_000)),)
        joined = [one.join(protocols=protocols, group_id=f"g{number}") for number in range(100)]
        refused = [each for each in joined if not each.waits]
        assert refused
        assert {each.error for each in refused} == {GroupMaxSizeReached.code}
        assert one.groups.room.held_bytes <= ROOM

    def test_ids_that_were_given_out(self) -> None:
        one = Coordinator(SETTINGS)
        answers = [
            one.join(group_id=f"g{number}", client_id="c" * 1000, requires_known_member_id=True)
            for number in range(1000)
        ]
        assert answers[-1].error == GroupMaxSizeReached.code
        assert one.groups.room.held_bytes <= ROOM

    def test_what_an_assignment_unfolds_into(self) -> None:
        """One short request may ask for all partitions that there are."""
        one = ConsumerCoordinator(SETTINGS)
        one.topics.create("many", 2_000)
        for number in range(100):
            answer = one.beat("m", 0, topics=("many",), group_id=f"g{number}")
            if answer.error_code:
                break
        assert answer.error_code == GroupMaxSizeReached.code
        for number in range(100):
            one.beat("m", 0, topics=None, pattern="man.", group_id=f"p{number}")
        assert one.groups.room.held_bytes <= ROOM
        assert any("are not assigned" in notice for notice in one.notices)

    def test_assignments_of_who_does_not_lead(self) -> None:
        one = Coordinator(SETTINGS)
        joined = [one.join(), one.join()]
        one.advance(0)
        ids = [each.answer.member_id for each in joined]
        assert one.sync(ids[1], 1, {ids[1]: bytes(5_000)}).error == InvalidRequest.code


class TestReplay:
    @pytest.mark.parametrize("order", [1, -1])
    def test_the_largest_groups_are_left_out(self, order: int) -> None:
        one = Coordinator(replace(SETTINGS, memory_max_bytes=1 << 30))
        for number in range(20):
            items = [OffsetToCommit("a", p, 5, metadata="x" * 4000) for p in range(4)]
            assert one.commit(*items, group_id=f"large{number}") == (0,) * 4
        for number in range(50):
            assert one.commit(OffsetToCommit("a", 0, number), group_id=f"small{number}") == (0,)
        groups = replayed(one.log[::order], 300 << 10)
        assert groups.room.held_bytes <= 300 << 10
        assert groups.left_out
        assert all(name.startswith("large") for name in groups.left_out)
        assert len(groups.offsets_of("small49")) == 1
        (left, *_) = groups.left_out
        assert groups.records(left) == []

    def test_who_is_left_out_is_refused_and_told(self) -> None:
        one = Coordinator(replace(SETTINGS, memory_max_bytes=1 << 30))
        one.commit(*[OffsetToCommit("a", p, 5, metadata="x" * 4000) for p in range(4)], group_id="large")
        log = list(one.log)
        one.settings = replace(SETTINGS, memory_max_bytes=10_000)
        one.restart()
        assert one.groups.left_out == {"large"}
        assert one.commit(OffsetToCommit("a", 0, 6), group_id="large") == (CoordinatorNotAvailable.code,)
        assert one.fetch(("a", 0), group="large").error_code == CoordinatorNotAvailable.code
        assert delete(one, "large") == CoordinatorNotAvailable.code
        assert one.log == log, "the log keeps what it has"
        assert any("raise it and restart" in notice for notice in one.notices)
        one.settings = SETTINGS
        one.restart()
        assert one.fetch(("a", 0), group="large").offsets[0].offset == 5


def replayed(log: list[Record], bytes_max: int = ROOM) -> Groups:
    groups = Groups(replace(SETTINGS, memory_max_bytes=bytes_max), FakeTopics(a=4, b=2))
    for record in log:
        groups.replay(record, START_MS)
    groups.loaded(START_MS)
    return groups


def test_what_is_counted_is_what_is_there() -> None:
    """After any history the sum is what a replay of the log finds, and nothing when all is gone."""
    one = ConsumerCoordinator(SETTINGS)
    one.beat("m", 0)
    one.beat("n", 0, topics=None, pattern="a|b")
    one.advance(1_000)
    for _ in range(3):
        one.beat("m", one.group().stored.members["m"].current.epoch, owned={})
    one.commit(OffsetToCommit("a", 0, 6), group_id="other")
    stored = one.group().stored
    assert stored.names == sum(len(m.facts.topics) for m in stored.members.values())
    assert stored.matched == 2
    assert stored.targeted == 6
    assert stored.assigned == len(stored._owners)
    one.beat("m", -1)
    one.beat("n", -1)
    assert delete(one, GROUP) == delete(one, "other") == 0
    assert one.groups.room.held_bytes == 0


def test_a_deleted_topics_offsets_are_forgotten_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who asks sees them meanwhile, and a new topic of that name keeps its own."""
    monkeypatch.setattr(groups_module, "FORGOTTEN_AT_ONCE_MAX", 3)
    one = Coordinator(SETTINGS, FakeTopics(a=4, b=2))
    for number in range(5):
        one.commit(*[OffsetToCommit("a", p, 5) for p in range(4)], OffsetToCommit("b", 0, 5), group_id=f"g{number}")
    found = one.groups.topics_changed(TopicsChanged(deleted=frozenset({"a"})), one.now_ms)
    assert sum(len(effects.records) for _, effects in found) == 3
    assert one.groups.is_forgetting
    assert {one.fetch(("a", p), group=f"g{n}").offsets[0].offset for p in range(4) for n in range(5)} == {-1}
    one.now_ms += 1
    assert one.commit(OffsetToCommit("a", 3, 9), group_id="g4") == (0,)
    turns = 0
    while more := one.groups.forget_gone(one.now_ms):
        found += more
        turns += 1
    assert turns > 4
    assert sum(len(effects.records) for _, effects in found) == 19
    assert one.fetch(("a", 3), group="g4").offsets[0].offset == 9
    assert one.fetch(("b", 0), group="g0").offsets[0].offset == 5
