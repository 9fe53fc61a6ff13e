"""Groups that move between the classic protocol and KIP-848 while their members go on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kbroker.errors import (
    FencedInstanceId,
    GroupIdNotFound,
    IllegalGeneration,
    InconsistentGroupProtocol,
    MemberIdRequired,
    RebalanceInProgress,
    UnknownMemberId,
)
from kbroker.groups import protocol
from kbroker.groups.assignment import NOTHING, size
from kbroker.groups.events import LeavingMember, OffsetToCommit
from kbroker.groups.settings import GroupSettings
from tests.groups.coordinator import GROUP, SECOND, subscription
from tests.groups.kip848 import REBALANCE_TIMEOUT_MS, ClassicConsumer, Consumer, ConsumerCoordinator, settle

CLASSIC_SESSION_MS = 10 * SECOND


def coordinator_with(**changes: Any) -> ConsumerCoordinator:
    return ConsumerCoordinator(replace(GroupSettings(initial_rebalance_delay_ms=0), **changes))


@pytest.fixture
def coordinator() -> ConsumerCoordinator:
    return coordinator_with()


def kind_of(coordinator: ConsumerCoordinator) -> str:
    return coordinator.groups.listed()[0].type


def assigned(answer: Any) -> dict[str, tuple[int, ...]]:
    return protocol.decode_assignment(answer.assignment).partitions


@pytest.fixture
def mixed(coordinator: ConsumerCoordinator) -> str:
    """A consumer group with KIP-848's member m, which has all of topic a, and a classic member; its id."""
    coordinator.beat("m", 0)
    coordinator.advance(coordinator.settings.consumer_assignment_interval_ms)
    joined = coordinator.join().answer
    assert joined.generation_id == 2
    return joined.member_id


class TestMoving:
    @pytest.mark.parametrize("is_cooperative", [False, True])
    def test_there_and_back(self, coordinator: ConsumerCoordinator, is_cooperative: bool) -> None:
        old = [ClassicConsumer(coordinator, ("a",), is_cooperative) for _ in range(2)]
        settle(coordinator, old)
        assert kind_of(coordinator) == "classic"
        new = Consumer(coordinator, "m")
        settle(coordinator, [*old, new])
        assert kind_of(coordinator) == "consumer"
        assert "is a consumer group now" in "".join(coordinator.notices)
        assert sorted([size(new.owned), *(size(each.owned) for each in old)]) == [1, 1, 2]
        assert [m.is_classic for m in coordinator.consumers().members] == [True, True, False]
        coordinator.restart()
        settle(coordinator, [*old, new])
        new.leave()
        assert kind_of(coordinator) == "classic"
        settle(coordinator, old)
        assert [size(each.owned) for each in old] == [2, 2]

    def test_members_keep_what_they_have(self, coordinator: ConsumerCoordinator) -> None:
        old = ClassicConsumer(coordinator)
        settle(coordinator, [old])
        joined = coordinator.beat("m", 0)
        assert joined.assignment == NOTHING
        described = coordinator.consumers()
        assert described.members[0].assigned == coordinator.topics.all_of("a")
        assert described.group_epoch == 2  # one more than the generation

    def test_one_without_an_assignment_keeps_what_it_said_it_owned(self, coordinator: ConsumerCoordinator) -> None:
        told = protocol.encode_subscription(protocol.Subscription(("a",), None, {"a": (0, 1)}))
        coordinator.join(protocols=(("cooperative-sticky", told),))
        coordinator.beat("m", 0)
        assert coordinator.consumers().members[0].assigned == {coordinator.topics.ids["a"]: frozenset({0, 1})}

    def test_who_waits_is_told_to_join_again(self, coordinator: ConsumerCoordinator) -> None:
        settle(coordinator, [ClassicConsumer(coordinator)])
        joining = coordinator.join(protocols=(("assignor", subscription("a")),))
        assert joining.waits
        coordinator.beat("m", 0)
        assert joining.error == RebalanceInProgress.code

    def test_what_two_were_assigned_by_mistake_one_keeps(self, coordinator: ConsumerCoordinator) -> None:
        joins = [coordinator.join() for _ in range(2)]
        coordinator.advance(0)
        ids = [each.answer.member_id for each in joins]
        everything = protocol.encode_assignment(protocol.Assignment({"a": (0, 1, 2, 3, 99), "foreign": (0,)}))
        coordinator.sync(ids[1], joins[0].answer.generation_id)
        coordinator.sync(ids[0], joins[0].answer.generation_id, dict.fromkeys(ids, everything))
        coordinator.beat("m", 0)
        has = {member.member_id: member.assigned for member in coordinator.consumers().members}
        assert has == {ids[0]: coordinator.topics.all_of("a"), ids[1]: NOTHING, "m": NOTHING}

    def test_an_empty_classic_group_makes_room_and_the_other_way_round(self, coordinator: ConsumerCoordinator) -> None:
        (member_id,) = coordinator.stable(1)
        coordinator.leave(LeavingMember(member_id))
        coordinator.commit(OffsetToCommit("a", 0, 5))
        assert coordinator.beat("m", 0).assignment == coordinator.topics.all_of("a")
        assert kind_of(coordinator) == "consumer"
        coordinator.restart()
        assert kind_of(coordinator) == "consumer"
        coordinator.beat("m", -1)
        coordinator.stable(1)
        assert kind_of(coordinator) == "classic"
        coordinator.restart()
        assert kind_of(coordinator) == "classic"
        assert coordinator.fetch(("a", 0)).offsets[0].offset == 5

    @pytest.mark.parametrize(
        ("changes", "joining", "says"),
        [
            ({"consumer_migration_policy": "disabled"}, {}, "group.consumer.migration.policy=disabled"),
            ({"consumer_migration_policy": "downgrade"}, {}, "group.consumer.migration.policy=downgrade"),
            ({"consumer_max_size": 1}, {}, "more than group.consumer.max.size=1 members"),
            ({}, {"protocol_type": "connect"}, "protocol type is 'connect'"),
            ({}, {"protocols": (("range", b"\0"),)}, "is malformed"),
        ],
    )
    def test_why_a_classic_group_stays_one(self, changes: dict[str, Any], joining: dict[str, Any], says: str) -> None:
        coordinator = coordinator_with(**changes)
        coordinator.stable(2, **joining)
        before = coordinator.groups.records(GROUP)
        answer = coordinator.beat("m", 0)
        assert answer.error_code == GroupIdNotFound.code
        assert answer.error_message is not None
        assert says in answer.error_message
        assert coordinator.groups.records(GROUP) == before
        assert coordinator.beat("m", 1).error_message == "Group g is not a consumer group."

    @pytest.mark.parametrize("policy", ["disabled", "upgrade"])
    def test_why_a_consumer_group_stays_one(self, policy: str) -> None:
        coordinator = coordinator_with(consumer_migration_policy=policy)
        coordinator.beat("m", 0)
        old = ClassicConsumer(coordinator)
        old.beat()
        coordinator.beat("m", -1)
        settle(coordinator, [old])
        assert kind_of(coordinator) == "consumer"
        assert old.owned == coordinator.topics.all_of("a")

    def test_a_static_member_moves_under_its_instance_id(self, coordinator: ConsumerCoordinator) -> None:
        joining = coordinator.join(instance_id="i")
        coordinator.advance(0)
        old = joining.answer.member_id
        coordinator.sync(old, 1, {old: b""}, instance_id="i")
        coordinator.beat("m", 0, instance_id="i")
        assert [(m.member_id, m.is_classic) for m in coordinator.consumers().members] == [("m", False)]
        assert coordinator.heartbeat(old, 1, "i") == FencedInstanceId.code
        back = coordinator.join(instance_id="i").answer
        assert back.error_code == 0
        assert kind_of(coordinator) == "classic"


class TestClassicMembers:
    def test_step_by_step(self, coordinator: ConsumerCoordinator, mixed: str) -> None:
        sync = coordinator.sync(mixed, 2).answer
        assert (sync.protocol_type, sync.protocol_name, assigned(sync)) == ("consumer", "range", {})
        assert coordinator.heartbeat(mixed, 2) == 0  # what it waits for is not free yet
        kept = coordinator.beat("m", 1).assignment
        coordinator.beat("m", 1, owned=kept)
        assert coordinator.heartbeat(mixed, 2) == RebalanceInProgress.code
        again = coordinator.join(mixed).answer
        assert (again.generation_id, again.leader, again.members) == (2, "", ())
        assert assigned(coordinator.sync(mixed, 2).answer) == {"a": (2, 3)}
        assert coordinator.heartbeat(mixed, 2) == 0
        assert coordinator.state_of() == "Stable"

    def test_giving_up(self, coordinator: ConsumerCoordinator) -> None:
        old = ClassicConsumer(coordinator)
        settle(coordinator, [old])
        coordinator.beat("m", 0)
        assert coordinator.heartbeat(old.member_id, 1) == RebalanceInProgress.code
        told = protocol.encode_subscription(protocol.Subscription(("a",), None, {"a": (0, 1, 2, 3)}))
        reads_on = coordinator.join(old.member_id, protocols=(("assignor", told),)).answer
        assert reads_on.generation_id == 1
        assert assigned(coordinator.sync(old.member_id, 1).answer) == {"a": (0, 1)}
        assert coordinator.heartbeat(old.member_id, 1) == RebalanceInProgress.code
        told = protocol.encode_subscription(protocol.Subscription(("a",), None, {"a": (0, 1)}))
        assert coordinator.join(old.member_id, protocols=(("assignor", told),)).answer.generation_id == 2
        assert coordinator.beat("m", 2).assignment == {coordinator.topics.ids["a"]: frozenset({2, 3})}

    def test_a_member_id_is_required_first_where_the_client_knows_that(self, coordinator: ConsumerCoordinator) -> None:
        coordinator.beat("m", 0)
        told = coordinator.join(requires_known_member_id=True).answer
        assert told.error_code == MemberIdRequired.code
        assert coordinator.join(told.member_id, requires_known_member_id=True).answer.error_code == 0

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"protocol_type": "connect"}, InconsistentGroupProtocol.code),
            ({"protocols": ()}, InconsistentGroupProtocol.code),
            ({"protocols": (("other", subscription("a")),)}, InconsistentGroupProtocol.code),
            ({"protocols": (("range", b"\0\1\0"),)}, InconsistentGroupProtocol.code),
            ({"member_id": "x", "instance_id": "i"}, UnknownMemberId.code),
        ],
    )
    def test_joins_that_are_refused(
        self, coordinator: ConsumerCoordinator, mixed: str, changes: dict[str, Any], code: int
    ) -> None:
        assert mixed
        before = coordinator.groups.records(GROUP)
        assert coordinator.join(**changes).error == code
        assert coordinator.groups.records(GROUP) == before

    def test_requests_that_are_refused(self, coordinator: ConsumerCoordinator, mixed: str) -> None:
        assert coordinator.sync(mixed, 1).error == IllegalGeneration.code
        assert coordinator.sync("m", 1).error == UnknownMemberId.code
        assert coordinator.sync("x", 1).error == UnknownMemberId.code
        assert coordinator.sync(mixed, 2, protocol_type="connect").error == InconsistentGroupProtocol.code
        assert coordinator.sync(mixed, 2, protocol_name="other").error == InconsistentGroupProtocol.code
        assert coordinator.heartbeat(mixed, 1) == IllegalGeneration.code
        assert coordinator.heartbeat("m", 1) == UnknownMemberId.code
        left = coordinator.leave(LeavingMember("x"), LeavingMember(mixed))
        assert [each.error_code for each in left.members] == [UnknownMemberId.code, 0]
        offset = OffsetToCommit("a", 0, 5)
        assert coordinator.commit(offset, member_id=mixed, generation_id=2) == (UnknownMemberId.code,)

    def test_administrators_put_out_members_of_either_protocol(
        self, coordinator: ConsumerCoordinator, mixed: str
    ) -> None:
        left = coordinator.leave(LeavingMember("m"), LeavingMember("m"))
        assert [each.error_code for each in left.members] == [0, UnknownMemberId.code]
        assert kind_of(coordinator) == "classic"
        assert coordinator.heartbeat(mixed, 2) in (RebalanceInProgress.code, IllegalGeneration.code)

    def test_commits_in_its_generation_only(self, coordinator: ConsumerCoordinator, mixed: str) -> None:
        offset = OffsetToCommit("a", 0, 5)
        assert coordinator.commit(offset, member_id=mixed, generation_id=2) == (0,)
        assert coordinator.commit(offset, member_id=mixed, generation_id=1) == (IllegalGeneration.code,)

    def test_a_new_target_ends_a_sync(self, coordinator: ConsumerCoordinator, mixed: str) -> None:
        coordinator.beat("m", 1, topics=("a", "b"))
        assert coordinator.sync(mixed, 2).error == RebalanceInProgress.code
        assert coordinator.heartbeat(mixed, 2) == RebalanceInProgress.code

    def test_silence_ends_its_own_session(self, coordinator: ConsumerCoordinator, mixed: str) -> None:
        coordinator.advance(CLASSIC_SESSION_MS)
        assert [m.member_id for m in coordinator.consumers().members] == ["m"]
        assert f"{mixed!r} (client 'c' at '127.0.0.1') was put out: its session" in coordinator.notices[-1]

    @pytest.mark.parametrize(("syncs", "says"), [(False, "ask for its assignment"), (True, "did not join again")])
    def test_who_does_not_take_its_step_is_put_out(
        self, coordinator: ConsumerCoordinator, mixed: str, syncs: bool, says: str
    ) -> None:
        if syncs:
            coordinator.sync(mixed, 2)
            coordinator.beat("m", 1, topics=("a", "b"))
        for _ in range(2 * REBALANCE_TIMEOUT_MS // (5 * SECOND)):
            coordinator.heartbeat(mixed, 2)
            coordinator.beat("m", 1)
            coordinator.advance(5 * SECOND)
        assert mixed not in [m.member_id for m in coordinator.consumers().members]
        assert any(says in notice for notice in coordinator.notices)
