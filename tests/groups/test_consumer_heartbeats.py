"""ConsumerGroupHeartbeat: each step of a member, each error and its message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kbroker.errors import (
    FencedInstanceId,
    FencedMemberEpoch,
    GroupIdNotFound,
    GroupMaxSizeReached,
    InvalidRegularExpression,
    InvalidRequest,
    RequestError,
    UnknownMemberId,
    UnreleasedInstanceId,
    UnsupportedAssignor,
)
from kbroker.groups.assignment import NOTHING
from kbroker.groups.consumer_records import MemberState
from kbroker.groups.limits import NAME_BYTES_MAX, PATTERN_BYTES_MAX, SUBSCRIPTION_BYTES_MAX
from kbroker.groups.settings import GroupSettings
from tests.groups.coordinator import GROUP
from tests.groups.kip848 import REBALANCE_TIMEOUT_MS, Consumer, ConsumerCoordinator, Topics, settle

SESSION_MS = GroupSettings().consumer_session_timeout_ms
INTERVAL_MS = GroupSettings().consumer_heartbeat_interval_ms
LATER_MS = GroupSettings().consumer_assignment_interval_ms


@pytest.fixture
def coordinator() -> ConsumerCoordinator:
    return ConsumerCoordinator()


def partitions(coordinator: ConsumerCoordinator, *numbers: int, topic: str = "a") -> dict[bytes, frozenset[int]]:
    return {coordinator.topics.ids[topic]: frozenset(numbers)}


def member_state(coordinator: ConsumerCoordinator, member_id: str) -> MemberState:
    return coordinator.group().stored.members[member_id].current.state


class TestJoining:
    def test_the_first_member_is_given_everything_at_once(self, coordinator: ConsumerCoordinator) -> None:
        answer = coordinator.beat("m", 0)
        assert (answer.error_code, answer.member_id, answer.member_epoch) == (0, "m", 1)
        assert answer.assignment == partitions(coordinator, 0, 1, 2, 3)
        assert answer.heartbeat_interval_ms == INTERVAL_MS
        assert coordinator.state_of() == "Stable"

    def test_v0_is_given_an_id_and_v1_brings_its_own(self, coordinator: ConsumerCoordinator) -> None:
        assert coordinator.beat("", 0, fresh_id="made here").member_id == "made here"
        assert coordinator.beat("", 0).error_code == InvalidRequest.code
        assert coordinator.beat("own", 0).member_id == "own"

    def test_a_second_member_waits_for_what_the_first_gives_up(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m1", 0)
        coordinator.advance(LATER_MS)
        joined = coordinator.beat("m2", 0)
        assert (joined.member_epoch, joined.assignment) == (2, NOTHING)
        assert member_state(coordinator, "m2") is MemberState.UNRELEASED_PARTITIONS
        assert coordinator.state_of() == "Reconciling"
        told = coordinator.beat("m1", 1)
        assert (told.member_epoch, told.assignment) == (1, partitions(coordinator, 0, 1))
        assert member_state(coordinator, "m1") is MemberState.UNREVOKED_PARTITIONS
        assert coordinator.beat("m2", 2).assignment is None
        # Still reading them:
        assert coordinator.beat("m1", 1, owned=partitions(coordinator, 0, 1, 2)).member_epoch == 1
        assert coordinator.beat("m1", 1, owned=partitions(coordinator, 0, 1)).member_epoch == 2
        assert coordinator.beat("m2", 2).assignment == partitions(coordinator, 2, 3)
        assert coordinator.state_of() == "Stable"

    def test_a_burst_of_joins_is_assigned_once_and_newcomers_are_called_back_soon(
        self, coordinator: ConsumerCoordinator
    ) -> None:
        coordinator.beat("m1", 0)
        coordinator.now_ms += 50
        waits = [coordinator.beat(f"m{i}", 0).heartbeat_interval_ms for i in (2, 3, 4)]
        assert waits == [LATER_MS - 50] * 3
        assert coordinator.state_of() == "Assigning"
        assert coordinator.consumers().assignment_epoch == 1
        coordinator.advance(LATER_MS)
        described = coordinator.consumers()
        assert (described.group_epoch, described.assignment_epoch) == (4, 4)

    def test_a_member_that_joins_again_is_told_everything_again(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0)
        again = coordinator.beat("m", 0)
        assert (again.member_epoch, again.assignment) == (1, partitions(coordinator, 0, 1, 2, 3))
        assert coordinator.consumers().group_epoch == 1

    def test_a_group_that_is_full_refuses_only_strangers(self) -> None:
        coordinator = ConsumerCoordinator(replace(GroupSettings(), consumer_max_size=1))
        coordinator.beat("m", 0)
        answer = coordinator.beat("n", 0)
        assert answer.error_code == GroupMaxSizeReached.code
        assert answer.error_message == "The consumer group has reached its maximum capacity of 1 members."
        assert coordinator.beat("m", 0).error_code == 0


class TestHeartbeats:
    def test_what_has_not_changed_is_not_said_again(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0)
        stored = len(coordinator.log)
        answer = coordinator.beat("m", 1)
        assert (answer.member_epoch, answer.assignment) == (1, None)
        assert len(coordinator.log) == stored

    def test_a_full_request_is_answered_in_full(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0)
        owned = partitions(coordinator, 0, 1, 2, 3)
        answer = coordinator.beat("m", 1, rebalance_timeout_ms=REBALANCE_TIMEOUT_MS, topics=("a",), owned=owned)
        assert answer.assignment == owned

    def test_a_new_subscription_counts_at_once(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0)
        answer = coordinator.beat("m", 1, topics=("b",))
        assert (answer.member_epoch, answer.assignment) == (1, NOTHING)
        answer = coordinator.beat("m", 1, owned=NOTHING)
        assert (answer.member_epoch, answer.assignment) == (2, partitions(coordinator, 0, 1, topic="b"))

    def test_a_lost_answer_is_made_good(self, coordinator: ConsumerCoordinator) -> None:
        consumers = [Consumer(coordinator, "m1"), Consumer(coordinator, "m2")]
        consumers[0].beat()
        coordinator.advance(LATER_MS)
        consumers[1].beat(answer_is_lost=True)
        settle(coordinator, consumers)
        assert sorted(len(n) for c in consumers for n in c.owned.values()) == [2, 2]

    def test_one_epoch_behind_is_forgiven_if_it_owns_nothing_foreign(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0)
        coordinator.topics.counts["a"] = 5
        coordinator.topics_change(changed=["a"])
        coordinator.advance(LATER_MS)
        assert coordinator.beat("m", 1).member_epoch == 2
        owned = partitions(coordinator, 0, 1, 2, 3)
        assert coordinator.beat("m", 1, owned=owned).member_epoch == 2
        for fault in (None, partitions(coordinator, 9), partitions(coordinator, 0, topic="b")):
            answer = coordinator.beat("m", 1, owned=fault)
            assert answer.error_code == FencedMemberEpoch.code
            assert answer.error_message is not None
            assert "smaller member epoch (1) than the one known by the group coordinator (2)" in answer.error_message

    def test_two_epochs_behind_or_ahead_is_fenced(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0)
        for count in (5, 6):
            coordinator.topics.counts["a"] = count
            coordinator.topics_change(changed=["a"])
            coordinator.advance(LATER_MS)
            coordinator.beat("m", count - 4)
        assert coordinator.consumers().members[0].member_epoch == 3
        assert coordinator.beat("m", 1, owned=NOTHING).error_code == FencedMemberEpoch.code
        ahead = coordinator.beat("m", 4)
        assert ahead.error_code == FencedMemberEpoch.code
        assert ahead.error_message is not None
        assert "greater member epoch (4)" in ahead.error_message
        assert coordinator.beat("m", 0).error_code == 0  # it abandons all and joins again


class TestLeavingAndDying:
    def test_leaving_frees_at_once(self, coordinator: ConsumerCoordinator) -> None:
        consumers = [Consumer(coordinator, "m1"), Consumer(coordinator, "m2")]
        settle(coordinator, consumers)
        consumers[0].leave()
        assert coordinator.consumers().members[0].member_id == "m2"
        settle(coordinator, consumers[1:])
        assert consumers[1].owned == partitions(coordinator, 0, 1, 2, 3)

    def test_the_last_to_leave_leaves_an_empty_group_that_expires(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0)
        answer = coordinator.beat("m", -1)
        assert (answer.error_code, answer.member_id, answer.member_epoch) == (0, "m", -1)
        assert coordinator.state_of() == "Empty"
        coordinator.advance(GroupSettings().offsets_retention_check_interval_ms)
        assert coordinator.groups.listed() == []
        coordinator.restart()
        assert coordinator.groups.listed() == []

    def test_silence_ends_a_session(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0)
        coordinator.advance(SESSION_MS - 1)
        assert coordinator.beat("m", 1).error_code == 0
        coordinator.advance(SESSION_MS - 1)
        assert coordinator.state_of() == "Stable"
        coordinator.advance(1)
        assert coordinator.state_of() == "Empty"
        assert "member 'm' (client 'c' at '127.0.0.1') was put out: its session timed out" in coordinator.notices[-1]
        assert coordinator.beat("m", 1).error_code == UnknownMemberId.code

    def test_who_holds_on_too_long_is_put_out(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m1", 0)
        coordinator.advance(LATER_MS)
        coordinator.beat("m2", 0)
        coordinator.beat("m1", 1)
        for _ in range(REBALANCE_TIMEOUT_MS // INTERVAL_MS):
            assert coordinator.beat("m1", 1).error_code == 0
            coordinator.beat("m2", 2)
            coordinator.advance(INTERVAL_MS)
        assert coordinator.beat("m1", 1).error_code == UnknownMemberId.code
        assert "did not give up its partitions within its rebalance timeout" in coordinator.notices[-1]
        coordinator.beat("m2", 2)
        assert coordinator.consumers().members[0].assigned == partitions(coordinator, 0, 1, 2, 3)

    @pytest.mark.parametrize("count", [2, 3, 7])
    def test_a_death_moves_only_what_the_dead_had(self, count: int) -> None:
        coordinator = ConsumerCoordinator(topics=Topics(a=29))
        consumers = [Consumer(coordinator, f"m{i}") for i in range(count)]
        settle(coordinator, consumers)
        dead, *others = consumers
        dead_had = len(dead.owned[coordinator.topics.ids["a"]])
        for other in others:
            other.gained, other.lost = 0, {}
        for _ in range(SESSION_MS // INTERVAL_MS + 1):
            coordinator.advance(INTERVAL_MS)
            for other in others:
                other.beat()
        settle(coordinator, others)
        assert sum(other.gained for other in others) == dead_had
        assert all(not other.lost for other in others)


class TestStaticMembers:
    def test_a_restart_moves_nothing(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m1", 0, instance_id="i")
        left = coordinator.beat("m1", -2, instance_id="i")
        assert (left.error_code, left.member_id, left.member_epoch) == (0, "m1", -2)
        assert coordinator.consumers().members[0].member_epoch == -2
        back = coordinator.beat("m2", 0, instance_id="i")
        assert (back.member_id, back.member_epoch) == ("m2", 1)
        assert back.assignment == partitions(coordinator, 0, 1, 2, 3)
        assert [m.member_id for m in coordinator.consumers().members] == ["m2"]
        assert coordinator.consumers().group_epoch == 1

    def test_who_does_not_come_back_in_time_is_put_out(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m1", 0, instance_id="i")
        coordinator.beat("m1", -2, instance_id="i")
        coordinator.advance(SESSION_MS)
        assert coordinator.state_of() == "Empty"

    def test_the_same_member_id_may_come_back(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m1", 0, instance_id="i")
        coordinator.beat("m1", -2, instance_id="i")
        back = coordinator.beat("m1", 0, instance_id="i")
        assert (back.member_epoch, back.assignment) == (1, partitions(coordinator, 0, 1, 2, 3))

    @pytest.mark.parametrize(
        ("member_id", "epoch", "instance_id", "error", "says"),
        [
            ("m2", 0, "i", UnreleasedInstanceId, "instance id i cannot join the group: member m1 still holds"),
            ("m2", 1, "i", FencedInstanceId, "instance id i belongs to m1 now"),
            ("m2", -1, "i", FencedInstanceId, "instance id i belongs to m1 now"),
            ("m1", 1, "j", UnknownMemberId, "Instance id j is unknown"),
            ("m1", -2, None, InvalidRequest, "InstanceId can't be null"),
        ],
    )
    def test_errors(
        self,
        coordinator: ConsumerCoordinator,
        member_id: str,
        epoch: int,
        instance_id: str | None,
        error: type[RequestError],
        says: str,
    ) -> None:
        coordinator.beat("m1", 0, instance_id="i")
        before = coordinator.groups.records(GROUP)
        answer = coordinator.beat(member_id, epoch, instance_id=instance_id)
        assert answer.error_code == error.code
        assert answer.error_message is not None
        assert says in answer.error_message
        assert coordinator.groups.records(GROUP) == before


@pytest.mark.parametrize(
    ("epoch", "changes", "error", "says"),
    [
        (0, {"member_id": " "}, InvalidRequest, "MemberId can't be empty"),
        (1, {"member_id": ""}, InvalidRequest, "MemberId can't be empty"),
        (1, {"member_id": "", "fresh_id": "f"}, InvalidRequest, "MemberId can't be empty"),
        (0, {"instance_id": ""}, InvalidRequest, "InstanceId can't be empty"),
        (0, {"rack_id": " "}, InvalidRequest, "RackId can't be empty"),
        (0, {"member_id": "m" * (NAME_BYTES_MAX + 1)}, InvalidRequest, "MemberId is too long"),
        (0, {"rebalance_timeout_ms": -1}, InvalidRequest, "RebalanceTimeoutMs must be provided"),
        (0, {"rebalance_timeout_ms": -2}, InvalidRequest, "RebalanceTimeoutMs is invalid: -2"),
        (0, {"owned": None}, InvalidRequest, "TopicPartitions must be empty when (re-)joining"),
        (0, {"owned": {b"x" * 16: frozenset({0})}}, InvalidRequest, "TopicPartitions must be empty"),
        (0, {"topics": None}, InvalidRequest, "Either SubscribedTopicNames or SubscribedTopicRegex"),
        (0, {"topics": ("t" * SUBSCRIPTION_BYTES_MAX,)}, InvalidRequest, "SubscribedTopicNames is too long"),
        (-3, {}, InvalidRequest, "MemberEpoch is invalid: -3"),
        (0, {"assignor": "mine"}, UnsupportedAssignor, "mine is not supported. Supported assignors: uniform, range."),
        (0, {"pattern": "(a"}, InvalidRegularExpression, "`(a` is not a valid regular expression (RE2): missing )"),
        (0, {"pattern": "(?=a)"}, InvalidRegularExpression, "invalid perl operator"),
        (0, {"pattern": "a" * (PATTERN_BYTES_MAX + 1)}, InvalidRegularExpression, "at most 4096 are allowed"),
        (1, {"pattern": "["}, InvalidRegularExpression, "is not a valid regular expression"),
        (1, {"member_id": "nobody"}, UnknownMemberId, "Member nobody is not a member of group g"),
        (-1, {"member_id": "nobody"}, UnknownMemberId, "Member nobody is not a member of group g"),
        (7, {}, FencedMemberEpoch, "greater member epoch (7)"),
        (1, {"group_id": "none"}, UnknownMemberId, "Group none is not found"),
        (0, {"group_id": ""}, InvalidRequest, "GroupId can't be empty"),
    ],
)
def test_bad_requests(
    coordinator: ConsumerCoordinator, epoch: int, changes: dict[str, Any], error: type[RequestError], says: str
) -> None:
    """Each names the fault, and nothing changes."""
    coordinator.beat("m", 0)
    before = coordinator.groups.records(GROUP)
    answer = coordinator.beat(**{"member_id": "m", "member_epoch": epoch, **changes})
    assert answer.error_code == error.code, answer
    assert answer.error_message is not None
    assert says in answer.error_message
    assert coordinator.groups.records(GROUP) == before


def test_describing_what_is_no_consumer_group(coordinator: ConsumerCoordinator) -> None:
    assert coordinator.consumers("none").error_code == GroupIdNotFound.code
    coordinator.join(group_id="classic")
    answer = coordinator.consumers("classic")
    assert (answer.error_code, answer.state) == (GroupIdNotFound.code, "Dead")
    assert answer.error_message == "Group classic is not a consumer group."
    coordinator.beat("m", 0)
    classic = coordinator.describe()
    assert (classic.error_code, classic.state) == (GroupIdNotFound.code, "Dead")
    assert classic.error_message == "Group g is not a classic group."


def test_describing_a_group(coordinator: ConsumerCoordinator) -> None:
    coordinator.beat("m", 0, instance_id="i", rack_id="r", topics=("b", "a"), pattern="b.*", assignor="range")
    described = coordinator.consumers()
    assert (described.state, described.group_epoch, described.assignment_epoch) == ("Stable", 1, 1)
    assert described.assignor == "range"
    (member,) = described.members
    assert (member.instance_id, member.rack_id, member.topics, member.pattern) == ("i", "r", ("a", "b"), "b.*")
    assert member.assigned == member.target == coordinator.topics.all_of("a", "b")
    assert not member.is_classic
