"""Native requests about groups, message by message: what is wrong is refused by name, and nothing grows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.errors import (
    GroupMaxSizeReached,
    InvalidGroupId,
    InvalidRegularExpression,
    InvalidRequest,
    MessageTooLarge,
    OffsetMetadataTooLarge,
    UnknownMemberId,
    UnknownTopicOrPartition,
    error_for,
)
from kbroker.testing import Broker
from kbroker.wire import group_messages as m

from .raw_client import RawClient

SETTINGS = {
    "groups.max": 30,
    "group.consumer.session.timeout.ms": 1_500,
    "group.consumer.heartbeat.interval.ms": 500,
}


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(SETTINGS, workers=1) as running:
        with RawClient(running.server) as client:
            client.create("t", 2)
        yield running


@pytest.fixture
def client(broker: Broker) -> Iterator[RawClient]:
    with RawClient(broker.server) as dialled:
        yield dialled


@pytest.fixture
def group(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def beat(client: RawClient, group: str, member: str, epoch: int, **fields: Any) -> m.GroupHeartbeatAnswer:
    return client.ask(m.GroupHeartbeatAnswer, m.GroupHeartbeat(group, member, epoch, **fields))


def enter(client: RawClient, group: str, member: str, **fields: Any) -> m.GroupHeartbeatAnswer:
    first = {"topics": ["t"], "pattern": "", "rebalance_timeout_ms": 5_000, "owned": []}
    return beat(client, group, member, 0, **{**first, **fields})


def commit(client: RawClient, group: str, *offsets: m.OffsetCommit, **fields: Any) -> None:
    """Raises the first refusal."""
    answer = client.ask(m.OffsetResults, m.CommitOffsets(group, list(offsets or [m.OffsetCommit("t", 0, 1)]), **fields))
    for result in answer.offsets:
        if result.error:
            raise error_for(result.error, result.message)


def describe(client: RawClient, group: str) -> m.GroupInfo:
    return client.ask(m.GroupInfos, m.DescribeGroups([group])).groups[0]


@pytest.mark.parametrize("length", [1025, 65_536])
def test_a_group_with_an_endless_name(client: RawClient, length: int) -> None:
    name = "n" * length
    with pytest.raises(InvalidGroupId, match="at most 1024"):
        enter(client, name, "m")
    with pytest.raises(InvalidGroupId, match="at most 1024"):
        commit(client, name)
    with pytest.raises(InvalidRequest, match="GroupId"):
        enter(client, "", "m")


def test_commits_that_cannot_be_made(client: RawClient, group: str) -> None:
    with pytest.raises(OffsetMetadataTooLarge, match=r"offset\.metadata\.max\.bytes"):
        commit(client, group, m.OffsetCommit("t", 0, 1, -1, "x" * 1_000_000))
    with pytest.raises(UnknownTopicOrPartition, match="t-7"):
        commit(client, group, m.OffsetCommit("t", 7, 1))
    with pytest.raises(MessageTooLarge, match=r"native\.header\.bytes\.max"):
        commit(client, group, *[m.OffsetCommit("t", 0, 1)] * 100_001)
    enter(client, group, "m")
    with pytest.raises(UnknownMemberId, match="members"):
        commit(client, group)


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"topics": ["x" * 200] * 3_000}, InvalidRequest, "SubscribedTopicNames is too long"),
        ({"pattern": "a" * 4_097}, InvalidRegularExpression, "at most 4096"),
        ({"pattern": "("}, InvalidRegularExpression, "missing"),
        ({"client_id": "c" * 1_025}, InvalidRequest, "ClientId is too long"),
        ({"host": "h" * 1_025}, InvalidRequest, "ClientHost is too long"),
        ({"instance_id": "i" * 1_025}, InvalidRequest, "InstanceId is too long"),
        ({"owned": [m.TopicPartitions("t", [0])]}, InvalidRequest, "TopicPartitions must be empty"),
    ],
)
def test_what_cannot_be_joined_with(
    client: RawClient, fields: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        enter(client, "refused", "m", **fields)
    assert describe(client, "refused").error


def test_saying_that_one_owns_what_another_does_gives_nothing(client: RawClient, group: str) -> None:
    both = [m.TopicPartitions("t", [0, 1])]
    first = enter(client, group, "first")
    second = enter(client, group, "second")
    claim = [*both, m.TopicPartitions("t", list(range(100_000))), m.TopicPartitions("no", [1])]
    while second.member_epoch < 2:  # it was given its share, which the first one never lets go of
        first = beat(client, group, "first", first.member_epoch, owned=both)
        second = beat(client, group, "second", second.member_epoch, owned=claim)
        assert not second.assignment
    assert {one.member_id: one.assignment for one in describe(client, group).members}["second"] == []


def test_a_member_that_joins_and_is_silent(broker: Broker, client: RawClient, group: str) -> None:
    epoch = enter(client, group, "silent").member_epoch
    broker.wait_until(lambda: not describe(client, group).members)
    with pytest.raises(UnknownMemberId, match="silent"):
        beat(client, group, "silent", epoch)
    broker.wait_until(lambda: "'silent'" in broker.log)


def test_a_tiny_group_too_many(broker: Broker, client: RawClient) -> None:
    """The last test here: there is no room after it."""
    for number in range(30 - len(client.ask(m.GroupListings, m.ListGroups()).groups)):
        commit(client, f"tiny-{number}")
    with pytest.raises(GroupMaxSizeReached, match=r"groups\.max"):
        commit(client, "one-more")
    with pytest.raises(GroupMaxSizeReached, match=r"groups\.max"):
        enter(client, "one-more", "m")
    commit(client, "tiny-0", m.OffsetCommit("t", 0, 9))
    assert len(client.ask(m.GroupListings, m.ListGroups()).groups) <= 30
    broker.wait_until(lambda: "groups.max" in broker.log)
