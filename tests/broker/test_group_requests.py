"""Requests about groups, frame by frame: what is wrong gets Kafka's error code, and nothing grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey, api_for
from kbroker.testing import Broker

from .kafka_client import KafkaClient

UNKNOWN_TOPIC_OR_PARTITION = 3
OFFSET_METADATA_TOO_LARGE = 12
COORDINATOR_LOAD_IN_PROGRESS = 14
NOT_COORDINATOR = 16
ILLEGAL_GENERATION = 22
INCONSISTENT_GROUP_PROTOCOL = 23
INVALID_GROUP_ID = 24
UNKNOWN_MEMBER_ID = 25
INVALID_SESSION_TIMEOUT = 26
REBALANCE_IN_PROGRESS = 27
INVALID_COMMIT_OFFSET_SIZE = 28
UNSUPPORTED_VERSION = 35
INVALID_REQUEST = 42
GROUP_ID_NOT_FOUND = 69
MEMBER_ID_REQUIRED = 79
FENCED_INSTANCE_ID = 82
GROUP_MAX_SIZE_REACHED = 81
UNKNOWN_TOPIC_ID = 100
FENCED_MEMBER_EPOCH = 110
UNSUPPORTED_ASSIGNOR = 112
INVALID_REGULAR_EXPRESSION = 128

request_types = codec.request_types

SETTINGS = {
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 100,
    "groups.max": 200,
    "group.consumer.session.timeout.ms": 1_500,
    "group.consumer.heartbeat.interval.ms": 500,
}


class GroupClient(KafkaClient):
    """Asks the coordinator, unless another node is named."""

    def __init__(self, broker: Broker, node: int = 0) -> None:
        super().__init__(broker, node)

    def begin(self, api: ApiKey, version: int, **fields: Any) -> None:
        """Send a request of these fields, and do not wait for the answer."""
        message = getattr(codec.request_types(api), f"{api_for(api).name}Request")
        self.send(api, version, message(**fields))

    def call(self, api: ApiKey, version: int, **fields: Any) -> Any:
        """The answer to a request of these fields."""
        self.begin(api, version, **fields)
        return self.receive()


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(SETTINGS, workers=1, listeners="PLAINTEXT://127.0.0.1:0") as running:
        with KafkaClient(running, 0) as client:
            client.create("t", 2)
        yield running


@pytest.fixture
def client(broker: Broker) -> Iterator[GroupClient]:
    with GroupClient(broker) as dialled:
        yield dialled


@pytest.fixture
def group(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def join(
    client: GroupClient, group: str, member_id: str = "", version: int = 9, session_ms: int = 30_000, **fields: Any
) -> Any:
    protocol = request_types(ApiKey.JOIN_GROUP).JoinGroupRequestProtocol(name="range", metadata=b"m")
    asked = {
        "group_id": group, "session_timeout_ms": session_ms, "rebalance_timeout_ms": session_ms,
        "member_id": member_id, "protocol_type": "consumer", "protocols": [protocol],
    }  # fmt: skip
    return client.call(ApiKey.JOIN_GROUP, version, **{**asked, **fields})


def joined(client: GroupClient, group: str, **fields: Any) -> Any:
    """A member: joined as every client of today does, with the id that it was given first."""
    first = join(client, group, **fields)
    if first.error_code == MEMBER_ID_REQUIRED:
        first = join(client, group, first.member_id, **fields)
    assert first.error_code == 0
    return first


def sync(client: GroupClient, group: str, member_id: str, generation: int, **fields: Any) -> Any:
    return client.call(
        ApiKey.SYNC_GROUP, 5, group_id=group, member_id=member_id, generation_id=generation,
        **{"protocol_type": "consumer", "protocol_name": "range", "assignments": [], **fields},
    )  # fmt: skip


def heartbeat(client: GroupClient, group: str, member_id: str, generation: int, instance: str | None = None) -> int:
    answer = client.call(
        ApiKey.HEARTBEAT, 4, group_id=group, member_id=member_id, generation_id=generation, group_instance_id=instance
    )
    return int(answer.error_code)


def commit(
    client: GroupClient, group: str, offset: int = 1, *, topic: str = "t", partition: int = 0, metadata: str = "",
    member_id: str = "", generation: int = -1, version: int = 9, instance: str | None = None,
    topic_id: bytes = bytes(16),
) -> int:  # fmt: skip
    types = request_types(ApiKey.OFFSET_COMMIT)
    item = types.OffsetCommitRequestPartition(
        partition_index=partition, committed_offset=offset, committed_leader_epoch=-1, committed_metadata=metadata
    )
    answer = client.call(
        ApiKey.OFFSET_COMMIT, version, group_id=group, member_id=member_id, generation_id_or_member_epoch=generation,
        group_instance_id=instance,
        topics=[types.OffsetCommitRequestTopic(name=topic, topic_id=topic_id, partitions=[item])],
    )  # fmt: skip
    return int(answer.topics[0].partitions[0].error_code)


def test_a_member_that_nobody_knows(client: GroupClient, group: str) -> None:
    assert heartbeat(client, group, "nobody", 1) == UNKNOWN_MEMBER_ID
    assert sync(client, group, "nobody", 1).error_code == UNKNOWN_MEMBER_ID
    assert join(client, group, "nobody").error_code == UNKNOWN_MEMBER_ID
    member = joined(client, group)
    assert heartbeat(client, group, "nobody", member.generation_id) == UNKNOWN_MEMBER_ID
    assert commit(client, group, member_id="nobody", generation=member.generation_id) == UNKNOWN_MEMBER_ID


def test_a_generation_that_is_over(client: GroupClient, group: str) -> None:
    member = joined(client, group)
    stale = member.generation_id - 1
    assert sync(client, group, member.member_id, stale).error_code == ILLEGAL_GENERATION
    assert sync(client, group, member.member_id, member.generation_id).error_code == 0
    assert heartbeat(client, group, member.member_id, stale) == ILLEGAL_GENERATION
    assert commit(client, group, member_id=member.member_id, generation=stale) == ILLEGAL_GENERATION
    assert commit(client, group, member_id=member.member_id, generation=member.generation_id) == 0


def test_an_instance_id_that_is_somebody_elses(client: GroupClient, group: str) -> None:
    member = joined(client, group, group_instance_id="mine")
    generation = member.generation_id
    assert heartbeat(client, group, "other", generation, "mine") == FENCED_INSTANCE_ID
    assert commit(client, group, member_id="other", generation=generation, instance="mine") == FENCED_INSTANCE_ID
    assert heartbeat(client, group, member.member_id, generation, "nobodys") == UNKNOWN_MEMBER_ID


def test_other_protocols_than_the_groups(client: GroupClient, group: str) -> None:
    joined(client, group)
    assert join(client, group, protocol_type="connect").error_code == INCONSISTENT_GROUP_PROTOCOL
    other = request_types(ApiKey.JOIN_GROUP).JoinGroupRequestProtocol(name="sticky", metadata=b"")
    assert join(client, group, protocols=[other]).error_code == INCONSISTENT_GROUP_PROTOCOL
    assert join(client, group + "-new", protocols=[]).error_code == INCONSISTENT_GROUP_PROTOCOL


def test_session_timeouts_have_bounds(client: GroupClient, group: str) -> None:
    assert join(client, group, session_ms=1).error_code == INVALID_SESSION_TIMEOUT
    assert join(client, group, session_ms=1_800_001).error_code == INVALID_SESSION_TIMEOUT


def test_commits_that_cannot_be_made(client: GroupClient, group: str) -> None:
    assert commit(client, group, topic="nowhere") == UNKNOWN_TOPIC_OR_PARTITION
    assert commit(client, group, topic="") == UNKNOWN_TOPIC_OR_PARTITION
    assert commit(client, group, partition=2) == UNKNOWN_TOPIC_OR_PARTITION
    assert commit(client, group, partition=-1) == UNKNOWN_TOPIC_OR_PARTITION
    assert commit(client, group, metadata="x" * (1 << 20)) == OFFSET_METADATA_TOO_LARGE
    assert commit(client, group, metadata="x" * 4097) == OFFSET_METADATA_TOO_LARGE
    assert commit(client, group, metadata="x" * 4096) == 0
    assert commit(client, group, version=10, topic_id=bytes(range(16))) == UNKNOWN_TOPIC_ID


def test_more_than_a_group_may_hold(broker: Broker, client: GroupClient, group: str) -> None:
    """Refused, said in the log, and nobody else is hurt."""
    client.call(ApiKey.LIST_GROUPS, 5)  # of a client that nobody knows a large first frame is not taken at all
    protocol = request_types(ApiKey.JOIN_GROUP).JoinGroupRequestProtocol
    large = [protocol(name="range", metadata=bytes(1 << 20))]
    assert join(client, group, protocols=large).error_code == INVALID_REQUEST
    broker.wait_until(lambda: f"{group!r} was refused: a member's metadata has at most" in broker.log)
    types = request_types(ApiKey.OFFSET_COMMIT)
    place = types.OffsetCommitRequestPartition(partition_index=0, committed_offset=1)
    answer = client.call(
        ApiKey.OFFSET_COMMIT, 9, group_id=group, generation_id_or_member_epoch=-1, member_id="",
        topics=[types.OffsetCommitRequestTopic(name="t", partitions=[place] * 20_001)],
    )  # fmt: skip
    assert {item.error_code for item in answer.topics[0].partitions} == {INVALID_COMMIT_OFFSET_SIZE}
    broker.wait_until(lambda: f"{group!r} was refused: one commit has at most" in broker.log)
    assert commit(client, group) == 0


def test_naming_a_large_group_often_does_not_unfold(client: GroupClient, group: str) -> None:
    """The answer ends where it is large enough; who is left out is to be asked about again."""
    large = [request_types(ApiKey.JOIN_GROUP).JoinGroupRequestProtocol(name="range", metadata=bytes(1_000_000))]
    member = joined(client, group, protocols=large)
    assert sync(client, group, member.member_id, member.generation_id).error_code == 0
    described = client.call(ApiKey.DESCRIBE_GROUPS, 6, groups=[group] * 1_000).groups
    codes = [item.error_code for item in described]
    assert codes[0] == 0
    assert codes[-1] == COORDINATOR_LOAD_IN_PROGRESS
    assert 4 <= codes.count(0) <= 20
    assert commit(client, f"{group}-other", metadata="x" * 4_000) == 0
    groups = request_types(ApiKey.OFFSET_FETCH).OffsetFetchRequestGroup
    asked = [groups(group_id=f"{group}-other", topics=None)] * 20_000
    fetched = client.call(ApiKey.OFFSET_FETCH, 9, groups=asked).groups
    assert fetched[0].error_code == 0
    assert fetched[-1].error_code == COORDINATOR_LOAD_IN_PROGRESS


@pytest.mark.parametrize("length", [1025, 65_536])
def test_a_group_with_an_endless_name(client: GroupClient, length: int) -> None:
    name = "n" * length
    client.call(ApiKey.LIST_GROUPS, 5)  # of a client that nobody knows a large first frame is not taken at all
    assert join(client, name).error_code == INVALID_GROUP_ID
    assert join(client, "").error_code == INVALID_GROUP_ID
    assert commit(client, name) == INVALID_GROUP_ID
    assert heartbeat(client, name, "m", 1) == INVALID_GROUP_ID
    (group,) = client.call(ApiKey.DESCRIBE_GROUPS, 6, groups=[name]).groups
    assert group.error_code in (INVALID_GROUP_ID, GROUP_ID_NOT_FOUND)


def test_an_assignment_for_others_is_nobodys(client: GroupClient, group: str) -> None:
    member = joined(client, group)
    assignment = request_types(ApiKey.SYNC_GROUP).SyncGroupRequestAssignment
    given = [
        assignment(member_id="a stranger", assignment=b"theirs"),
        assignment(member_id=member.member_id, assignment=b"\xff" * 1000),  # not for the broker to understand
    ]
    answer = sync(client, group, member.member_id, member.generation_id, assignments=given)
    assert (answer.error_code, answer.assignment) == (0, b"\xff" * 1000)
    (described,) = client.call(ApiKey.DESCRIBE_GROUPS, 6, groups=[group]).groups
    assert [found.member_id for found in described.members] == [member.member_id]


def test_a_member_that_joins_and_never_syncs(broker: Broker, client: GroupClient, group: str) -> None:
    member = joined(client, group, session_ms=200)

    def state() -> str:
        return str(client.call(ApiKey.DESCRIBE_GROUPS, 6, groups=[group]).groups[0].group_state)

    assert state() == "CompletingRebalance"
    broker.wait_until(lambda: state() in ("Empty", "Dead"))
    assert heartbeat(client, group, member.member_id, member.generation_id) == UNKNOWN_MEMBER_ID
    assert group in broker.log


def test_a_tiny_group_too_many() -> None:
    with Broker({"groups.max": 50}, workers=1, listeners="PLAINTEXT://127.0.0.1:0") as small:
        with GroupClient(small) as client:
            client.create("t")
            codes = [commit(client, f"tiny-{number}") for number in range(60)]
            assert codes[:50] == [0] * 50
            assert codes[50:] == [GROUP_MAX_SIZE_REACHED] * 10, "refused, one by one"
            assert join(client, "one-more").error_code == GROUP_MAX_SIZE_REACHED
            refused = TestConsumerGroups().enter(client, "one-more", "m")
            assert refused.error_code == GROUP_MAX_SIZE_REACHED
            assert "groups.max" in refused.error_message
            assert commit(client, "tiny-7", 9) == 0, "those that are there go on"
            listed = client.call(ApiKey.LIST_GROUPS, 5).groups
            assert len(listed) == 50
        small.wait_until(lambda: "groups.max" in small.log)
        assert small.log.count("groups.max") < 5, "said once in a while"


def test_a_worker_coordinates_no_group(broker: Broker, group: str) -> None:
    codes: dict[ApiKey, int] = {}
    with GroupClient(broker, 1) as client:
        codes[ApiKey.JOIN_GROUP] = join(client, group).error_code
        codes[ApiKey.SYNC_GROUP] = sync(client, group, "m", 1).error_code
        codes[ApiKey.HEARTBEAT] = heartbeat(client, group, "m", 1)
        codes[ApiKey.LEAVE_GROUP] = client.call(ApiKey.LEAVE_GROUP, 5, group_id=group, members=[]).error_code
        codes[ApiKey.OFFSET_COMMIT] = commit(client, group)
        wanted = request_types(ApiKey.OFFSET_FETCH).OffsetFetchRequestGroup(group_id=group, topics=None)
        codes[ApiKey.OFFSET_FETCH] = client.call(ApiKey.OFFSET_FETCH, 8, groups=[wanted]).groups[0].error_code
        codes[ApiKey.OFFSET_DELETE] = client.call(ApiKey.OFFSET_DELETE, 0, group_id=group, topics=[]).error_code
        codes[ApiKey.DESCRIBE_GROUPS] = client.call(ApiKey.DESCRIBE_GROUPS, 6, groups=[group]).groups[0].error_code
        codes[ApiKey.DELETE_GROUPS] = client.call(ApiKey.DELETE_GROUPS, 2, groups_names=[group]).results[0].error_code
        beat = client.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, group_id=group, member_id="m", member_epoch=0)
        codes[ApiKey.CONSUMER_GROUP_HEARTBEAT] = beat.error_code
        found = client.call(ApiKey.CONSUMER_GROUP_DESCRIBE, 1, group_ids=[group])
        codes[ApiKey.CONSUMER_GROUP_DESCRIBE] = found.groups[0].error_code
        assert client.call(ApiKey.LIST_GROUPS, 5).groups == []
    assert codes == dict.fromkeys(codes, NOT_COORDINATOR)


@pytest.mark.parametrize("version", range(1, api_for(ApiKey.OFFSET_FETCH).max_version + 1))
def test_offsets_in_every_version(client: GroupClient, group: str, version: int) -> None:
    named = request_types(ApiKey.METADATA).MetadataRequestTopic(name="t")
    topic_id = client.call(ApiKey.METADATA, 12, topics=[named]).topics[0].topic_id
    assert commit(client, group, 41, metadata="here", version=max(2, version), topic_id=topic_id) == 0
    types = request_types(ApiKey.OFFSET_FETCH)
    if version < 8:
        asked = types.OffsetFetchRequestTopic(name="t", partition_indexes=[1, 0])
        topics = client.call(ApiKey.OFFSET_FETCH, version, group_id=group, topics=[asked]).topics
    else:
        asked = types.OffsetFetchRequestTopics(name="t", topic_id=topic_id, partition_indexes=[1, 0])
        groups = [types.OffsetFetchRequestGroup(group_id=name, topics=[asked]) for name in ("nobody", group)]
        nobody, mine = client.call(ApiKey.OFFSET_FETCH, version, groups=groups).groups
        assert [p.committed_offset for p in nobody.topics[0].partitions] == [-1, -1]
        topics = mine.topics
    found = [(p.partition_index, p.committed_offset, p.metadata, p.error_code) for p in topics[0].partitions]
    assert found == [(1, -1, "", 0), (0, 41, "here", 0)]


def test_answers_on_a_connection_wait_for_the_join_before_them(broker: Broker, group: str) -> None:
    with GroupClient(broker) as first, GroupClient(broker) as second:
        member = joined(first, group)
        assert sync(first, group, member.member_id, member.generation_id).error_code == 0
        given = join(second, group)
        answers: list[Any] = []

        def join_and_ask() -> None:
            second.begin(
                ApiKey.JOIN_GROUP, 9, group_id=group, session_timeout_ms=30_000, rebalance_timeout_ms=30_000,
                member_id=given.member_id, protocol_type="consumer",
                protocols=[request_types(ApiKey.JOIN_GROUP).JoinGroupRequestProtocol(name="range", metadata=b"m")],
            )  # fmt: skip
            second.begin(ApiKey.LIST_GROUPS, 5)
            answers.extend((second.receive(), second.receive()))

        thread = threading.Thread(target=join_and_ask)
        thread.start()
        broker.wait_until(
            lambda: heartbeat(first, group, member.member_id, member.generation_id) == REBALANCE_IN_PROGRESS
        )
        assert not answers
        assert join(first, group, member.member_id).error_code == 0
        thread.join(20)
        assert [type(answer).__name__ for answer in answers] == ["JoinGroupResponse", "ListGroupsResponse"]


def test_who_hangs_up_while_it_waits_does_not_hold_the_others_for_ever(broker: Broker, group: str) -> None:
    with GroupClient(broker) as first:
        member = joined(first, group, session_ms=1_000)
        assert sync(first, group, member.member_id, member.generation_id).error_code == 0
        with GroupClient(broker) as second:
            given = join(second, group, session_ms=1_000)
            second.begin(
                ApiKey.JOIN_GROUP, 9, group_id=group, session_timeout_ms=1_000, rebalance_timeout_ms=1_000,
                member_id=given.member_id, protocol_type="consumer",
                protocols=[request_types(ApiKey.JOIN_GROUP).JoinGroupRequestProtocol(name="range", metadata=b"m")],
            )  # fmt: skip
            broker.wait_until(
                lambda: heartbeat(first, group, member.member_id, member.generation_id) == REBALANCE_IN_PROGRESS
            )
        again = join(first, group, member.member_id, session_ms=1_000)
        assert again.error_code == 0
        deadline = time.monotonic() + 20
        while sync(first, group, member.member_id, again.generation_id).error_code:
            assert time.monotonic() < deadline
            again = join(first, group, member.member_id, session_ms=1_000)
        (described,) = first.call(ApiKey.DESCRIBE_GROUPS, 6, groups=[group]).groups
        assert [found.member_id for found in described.members][:1] == [member.member_id]


class TestConsumerGroups:
    """KIP-848."""

    @staticmethod
    def beat(client: GroupClient, group: str, member_id: str, epoch: int, **fields: Any) -> Any:
        return client.call(
            ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, group_id=group, member_id=member_id, member_epoch=epoch,
            **{"topic_partitions": None, **fields},
        )  # fmt: skip

    def enter(self, client: GroupClient, group: str, member_id: str, **fields: Any) -> Any:
        first = {"subscribed_topic_names": ["t"], "rebalance_timeout_ms": 5_000, "topic_partitions": []}
        return self.beat(client, group, member_id, 0, **{**first, **fields})

    def test_epochs(self, client: GroupClient, group: str) -> None:
        member = self.enter(client, group, "m")
        assert (member.error_code, member.member_id) == (0, "m")
        assert [sorted(t.partitions) for t in member.assignment.topic_partitions] == [[0, 1]]
        assert self.beat(client, group, "stranger", 1).error_code == UNKNOWN_MEMBER_ID
        assert self.beat(client, group, "m", member.member_epoch + 1).error_code == FENCED_MEMBER_EPOCH
        assert commit(client, group, member_id="m", generation=member.member_epoch) == 0
        assert commit(client, group, member_id="m", generation=member.member_epoch + 7) != 0
        assert self.beat(client, group, "m", -1).error_code == 0
        assert self.beat(client, group, "m", member.member_epoch).error_code == UNKNOWN_MEMBER_ID

    def test_what_cannot_be_joined_with(self, client: GroupClient, group: str) -> None:
        assert self.enter(client, group, "m", server_assignor="magic").error_code == UNSUPPORTED_ASSIGNOR
        bad = self.enter(client, group, "m", subscribed_topic_names=[], subscribed_topic_regex="(")
        assert bad.error_code == INVALID_REGULAR_EXPRESSION
        assert bad.error_message
        assert self.enter(client, group, "m", rebalance_timeout_ms=-1).error_code != 0

    def test_what_is_no_group(self, client: GroupClient) -> None:
        assert self.enter(client, "", "m").error_code == INVALID_REQUEST
        assert self.beat(client, "", "m", 1).error_code == INVALID_REQUEST
        client.call(ApiKey.LIST_GROUPS, 5)  # of a client that nobody knows a large first frame is not taken at all
        assert self.enter(client, "n" * 65_536, "m").error_code == INVALID_GROUP_ID
        assert self.enter(client, "n" * 1_025, "m").error_code == INVALID_GROUP_ID

    def test_commits_of_members(self, client: GroupClient, group: str) -> None:
        epoch = self.enter(client, group, "m").member_epoch
        assert commit(client, group, member_id="m", generation=epoch, version=8) == UNSUPPORTED_VERSION
        large = "x" * (1 << 20)
        assert commit(client, group, member_id="m", generation=epoch, metadata=large) == OFFSET_METADATA_TOO_LARGE
        assert commit(client, group, member_id="m", generation=epoch) == 0

    def test_saying_that_one_owns_what_another_does_gives_nothing(self, client: GroupClient, group: str) -> None:
        place = request_types(ApiKey.CONSUMER_GROUP_HEARTBEAT).TopicPartitions
        everything = self.enter(client, group, "first").assignment.topic_partitions
        (topic,) = everything
        second = self.enter(client, group, "second")
        claim = [place(topic_id=topic.topic_id, partitions=[0, 1]), place(topic_id=bytes(range(16)), partitions=[7])]
        for _ in range(3):
            told = self.beat(client, group, "second", second.member_epoch, topic_partitions=claim)
            assert told.error_code == 0
            assert not told.assignment or not told.assignment.topic_partitions, "the first has let go of nothing yet"
        (found,) = client.call(ApiKey.CONSUMER_GROUP_DESCRIBE, 1, group_ids=[group]).groups
        has = {m.member_id: [t.partitions for t in m.assignment.topic_partitions] for m in found.members}
        assert has["second"] == []

    def test_a_member_that_joins_and_is_silent(self, broker: Broker, client: GroupClient, group: str) -> None:
        epoch = self.enter(client, group, "silent").member_epoch

        def state() -> str:
            return str(client.call(ApiKey.CONSUMER_GROUP_DESCRIBE, 1, group_ids=[group]).groups[0].group_state)

        broker.wait_until(lambda: state() in ("Empty", "Dead"))
        assert self.beat(client, group, "silent", epoch).error_code == UNKNOWN_MEMBER_ID
        broker.wait_until(lambda: "'silent'" in broker.log)

    def test_described(self, client: GroupClient, group: str) -> None:
        self.enter(client, group, "m", rack_id="r")
        found, nobody = client.call(ApiKey.CONSUMER_GROUP_DESCRIBE, 1, group_ids=[group, "nobody"]).groups
        (member,) = found.members
        assert (found.group_state, found.assignor_name, nobody.error_code) == ("Stable", "uniform", GROUP_ID_NOT_FOUND)
        assert (member.member_id, member.rack_id, member.client_host) == ("m", "r", "/127.0.0.1")
        assert [(t.topic_name, t.partitions) for t in member.assignment.topic_partitions] == [("t", [0, 1])]
        listed = client.call(ApiKey.LIST_GROUPS, 5, types_filter=["Consumer"], states_filter=["stable"]).groups
        assert group in [item.group_id for item in listed]
        assert all(item.group_type == "consumer" for item in listed)


def test_groups_are_deleted_and_offsets_too(client: GroupClient, group: str) -> None:
    assert commit(client, group, 5) == 0
    types = request_types(ApiKey.OFFSET_DELETE)
    place = types.OffsetDeleteRequestTopic(
        name="t", partitions=[types.OffsetDeleteRequestPartition(partition_index=index) for index in (0, 9)]
    )
    answer = client.call(ApiKey.OFFSET_DELETE, 0, group_id=group, topics=[place])
    codes = [item.error_code for item in answer.topics[0].partitions]
    assert (answer.error_code, codes[0], codes[1]) in ((0, 0, 0), (0, 0, UNKNOWN_TOPIC_OR_PARTITION))
    assert commit(client, group, 6) == 0
    results = client.call(ApiKey.DELETE_GROUPS, 2, groups_names=[group, "nobody"]).results
    assert [(item.group_id, item.error_code) for item in results] == [(group, 0), ("nobody", GROUP_ID_NOT_FOUND)]
    (old,) = client.call(ApiKey.DESCRIBE_GROUPS, 5, groups=[group]).groups
    assert (old.error_code, old.group_state) == (0, "Dead")
    (new,) = client.call(ApiKey.DESCRIBE_GROUPS, 6, groups=[group]).groups
    assert (new.error_code, new.group_state) == (GROUP_ID_NOT_FOUND, "Dead")
