"""Topics come, grow and go under a consumer group, by name and by pattern; offsets know the group's epochs."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from kbroker.errors import (
    GroupSubscribedToTopic,
    InvalidRegularExpression,
    NonEmptyGroup,
    StaleMemberEpoch,
    UnknownMemberId,
)
from kbroker.groups.assignment import NOTHING
from kbroker.groups.events import DeleteGroup, DeleteOffsets, FetchOffsets, OffsetToCommit
from kbroker.groups.patterns import compiled, matching
from kbroker.groups.settings import GroupSettings
from tests.groups.coordinator import GROUP
from tests.groups.kip848 import Consumer, ConsumerCoordinator, Topics, settle


@pytest.fixture
def coordinator() -> ConsumerCoordinator:
    return ConsumerCoordinator()


def settled(coordinator: ConsumerCoordinator, *consumers: Consumer) -> None:
    settle(coordinator, consumers)


class TestTopics:
    def test_more_partitions_are_assigned(self, coordinator: ConsumerCoordinator) -> None:
        consumer = Consumer(coordinator, "m")
        settled(coordinator, consumer)
        coordinator.topics.counts["a"] = 6
        coordinator.topics_change(changed=["a"])
        settled(coordinator, consumer)
        assert consumer.owned == coordinator.topics.all_of("a")
        assert coordinator.consumers().group_epoch == 2

    def test_a_topic_that_was_missing_is_assigned_when_it_comes(self, coordinator: ConsumerCoordinator) -> None:
        consumer = Consumer(coordinator, "m", topics=("new",))
        settled(coordinator, consumer)
        assert consumer.owned == NOTHING
        coordinator.topics.create("new", 3)
        coordinator.topics_change(changed=["new"])
        settled(coordinator, consumer)
        assert consumer.owned == coordinator.topics.all_of("new")

    def test_a_topic_that_was_deleted_is_taken_away_and_one_of_the_same_name_is_another(
        self, coordinator: ConsumerCoordinator
    ) -> None:
        consumer = Consumer(coordinator, "m", topics=("a", "b"))
        settled(coordinator, consumer)
        coordinator.topics.delete("a")
        coordinator.topics.create("a", 1)
        coordinator.topics_change(deleted=["a"], changed=["a"])
        settled(coordinator, consumer)
        assert consumer.owned == coordinator.topics.all_of("a", "b")

    def test_other_topics_are_none_of_its_business(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0)
        stored = len(coordinator.log)
        coordinator.topics.create("other", 1)
        coordinator.topics_change(changed=["other"])
        assert len(coordinator.log) == stored

    def test_what_changed_while_nobody_looked_is_noticed_at_start(self, coordinator: ConsumerCoordinator) -> None:
        consumer = Consumer(coordinator, "m", topics=(), pattern="a|new")
        settled(coordinator, consumer)
        coordinator.topics.create("new", 2)
        coordinator.restart()
        settled(coordinator, consumer)
        assert consumer.owned == coordinator.topics.all_of("a", "new")


class TestPatterns:
    def test_topics_that_match_as_a_whole(self, coordinator: ConsumerCoordinator) -> None:
        for name in ("ab", "xa", "__consumer_offsets", "__transaction_state"):
            coordinator.topics.create(name, 1)
        by_pattern = {"a": "a", "a.*": "a ab", ".*a": "a xa", "a|b": "a b", ".*": "a b ab xa"}
        for pattern, names in by_pattern.items():
            coordinator.beat(pattern, 0, topics=None, pattern=pattern, group_id=pattern)
            coordinator.advance(0)
            (member,) = coordinator.consumers(pattern).members
            assert member.assigned == coordinator.topics.all_of(*names.split()), pattern

    def test_names_and_a_pattern_together(self, coordinator: ConsumerCoordinator) -> None:
        assert coordinator.beat("m", 0, pattern="b").assignment == coordinator.topics.all_of("a", "b")

    def test_an_empty_pattern_takes_the_pattern_back(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0, topics=(), pattern="a")
        assert coordinator.beat("m", 1, pattern="").assignment == NOTHING
        assert coordinator.consumers().members[0].pattern is None
        assert coordinator.group().stored.patterns == {}

    def test_patterns_are_matched_anew_now_and_then_whatever_happens(self) -> None:
        coordinator = ConsumerCoordinator(replace(GroupSettings(), consumer_regex_refresh_interval_ms=30_000))
        coordinator.beat("m", 0, topics=None, pattern="new")
        coordinator.topics.create("new", 1)
        coordinator.advance(29_999)
        assert coordinator.beat("m", 1).assignment is None
        coordinator.advance(1)
        assert coordinator.beat("m", 1).assignment == coordinator.topics.all_of("new")

    def test_a_hostile_pattern_takes_no_time(self) -> None:
        assert matching("(a*)*(a*)*(a*)*b", ["a" * 249] * 10) == frozenset()
        compiled(".*" * 1000)

    @pytest.mark.parametrize(
        "pattern",
        [
            r"(((a?.?){0,40}.?){0,25})z",
            r"(?:.?.?.?){0,1000}x",
            r".{0,1000}.{0,1000}.{0,1000}x",
            "x{0,1000}" * 400,
            r"\pL" * 1000,
            r"(?:(?:[^a]{0,9}){0,9}){0,9}[^b]{0,99}[^c]{0,99}",
        ],
    )
    def test_a_dear_pattern_is_refused_and_costs_little(self, coordinator: ConsumerCoordinator, pattern: str) -> None:
        started = time.thread_time()
        for number in range(20):
            answer = coordinator.beat("m", 0, topics=None, pattern=pattern, group_id=f"g{number}")
            assert answer.error_code == InvalidRegularExpression.code
            assert "dear" in (answer.error_message or "")
        assert time.thread_time() - started < 0.5

    def test_what_takes_long_is_left_to_a_thread(self, coordinator: ConsumerCoordinator) -> None:
        for number in range(200):
            coordinator.topics.create(f"topic-{number:03}" + "x" * 200, 1)
        pattern = "(?:.?.?.?){0,80}"
        answer = coordinator.beat("m", 0, topics=("a",), pattern=pattern)
        assert answer.error_code == 0
        assert coordinator.wanted == [(GROUP, pattern)]
        found = matching(pattern, coordinator.topics.names())
        assert len(found) > 200
        coordinator.perform(GROUP, coordinator.groups.matched(GROUP, pattern, found | {"gone"}, coordinator.now_ms))
        assert coordinator.group().stored.matches(pattern) == found, "one that was deleted meanwhile is left out"
        coordinator.wanted.clear()
        coordinator.topics.create("short", 1)
        coordinator.topics_change(changed=["short"])
        assert "short" in coordinator.group().stored.matches(pattern)
        assert coordinator.wanted == [], "one new name is little"
        coordinator.restart()
        assert coordinator.wanted == [(GROUP, pattern)]
        assert coordinator.group().stored.matches(pattern) == found | {"short"}, "until then it is as it was"

    def test_a_dear_pattern_in_an_older_brokers_log_is_not_matched_any_more(
        self, coordinator: ConsumerCoordinator
    ) -> None:
        pattern = r"(((a?.?){0,40}.?){0,25})"
        coordinator.beat("m", 0, topics=("b",))
        group = coordinator.group().stored
        facts = group.members["m"].facts._replace(pattern=pattern)
        coordinator.log += [group.set_facts("m", facts), group.set_pattern(pattern, ["a"], coordinator.now_ms)]
        coordinator.wanted.clear()
        coordinator.restart()
        coordinator.topics.create("c", 1)
        coordinator.topics_change(changed=["c"])
        assert coordinator.group().stored.matches(pattern) == {"a"}
        assert any("is not matched any more" in notice for notice in coordinator.notices)
        assert coordinator.wanted == []


class TestOffsets:
    def test_members_commit_and_fetch_at_their_epoch(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0)
        offset = OffsetToCommit("a", 0, 5)
        table = [("m", 1, 0), ("m", 0, StaleMemberEpoch.code), ("m", 2, StaleMemberEpoch.code)]
        table += [("n", 1, UnknownMemberId.code), ("", -1, UnknownMemberId.code)]
        for member_id, epoch, code in table:
            assert coordinator.commit(offset, member_id=member_id, generation_id=epoch) == (code,), (member_id, epoch)
        for member_id, epoch, code in table[:-1]:
            answer = coordinator.give(FetchOffsets(GROUP, coordinator.token(), (("a", 0),), member_id, epoch))
            assert answer.error_code == code
        assert coordinator.fetch(("a", 0)).offsets[0].offset == 5

    def test_anybody_commits_while_nobody_is_there(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0)
        coordinator.beat("m", -1)
        assert coordinator.commit(OffsetToCommit("a", 0, 5)) == (0,)

    def test_offsets_of_what_is_read_stay(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0, topics=(), pattern="a")
        for topic in ("a", "b"):
            coordinator.commit(OffsetToCommit(topic, 0, 5), member_id="m", generation_id=1)
        answer = coordinator.give(DeleteOffsets(GROUP, coordinator.token(), (("a", 0), ("b", 0))))
        assert answer.error_codes == (GroupSubscribedToTopic.code, 0)

    def test_an_empty_group_lives_as_long_as_its_offsets(self, coordinator: ConsumerCoordinator) -> None:
        settings = coordinator.settings
        coordinator.beat("m", 0)
        coordinator.commit(OffsetToCommit("a", 0, 5), member_id="m", generation_id=1)
        coordinator.beat("m", -1)
        coordinator.advance(settings.offsets_retention_ms - 1)
        assert coordinator.fetch(("a", 0)).offsets[0].offset == 5
        coordinator.advance(settings.offsets_retention_check_interval_ms + 1)
        assert coordinator.groups.listed() == []
        coordinator.restart()
        assert coordinator.groups.listed() == []

    def test_deleting_a_group(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0, topics=None, pattern="a")
        assert coordinator.give(DeleteGroup(GROUP, coordinator.token())).error_code == NonEmptyGroup.code
        coordinator.beat("m", -1)
        assert coordinator.give(DeleteGroup(GROUP, coordinator.token())).error_code == 0
        latest = {record.key: record.value for record in coordinator.log}
        assert set(latest.values()) == {None}


def test_200_members_settle_with_few_assignments() -> None:
    coordinator = ConsumerCoordinator(topics=Topics(a=400))
    consumers = [Consumer(coordinator, f"m{i}") for i in range(200)]
    settle(coordinator, consumers)
    assert {sum(map(len, c.owned.values())) for c in consumers} == {2}
    computed = [record for record in coordinator.log if record.key[:2] == b"\0\6"]
    assert len(computed) <= 2
