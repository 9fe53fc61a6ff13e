"""The log has a line for each change that somebody made, and says who it was: by every way in."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.errors import RequestError
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker
from kbroker.wire import group_messages as g
from kbroker.wire import messages as m
from kbroker.workers.caller import KAFKA, NATIVE, Caller, pack_caller, unpack_caller
from kbroker.workers.change_log import FORGOTTEN_AT, TOLD_AT_FIRST, TOLD_EVERY_MS, ChangeLog
from tests.hand_clock import HandClock

from .kafka_client import KafkaClient
from .raw_client import RawClient, batch, direct, owner_of

USER = rf"unix user {pwd.getpwuid(os.geteuid()).pw_name} \(uid {os.geteuid()}\)"
BY_KAFKA = r"kafka client at 127\.0\.0\.1:\d+ with client id 'a test'"
BY_FRONT = rf"native client on this host with client id 'a tool', {USER}"


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(workers=2, tcp=True, auto_create_topics_enable=True) as running:
        yield running


@pytest.fixture
def client(broker: Broker) -> Iterator[RawClient]:
    with RawClient(broker.server) as dialled:
        dialled.ask(m.HelloAnswer, m.Hello("a tool"))
        yield dialled


def lines(broker: Broker, pattern: str) -> list[str]:
    return [line for line in broker.log.splitlines() if re.search(rf"INFO [a-z]+( \d+)?: {pattern}", line)]


def told_once(broker: Broker, what: str, who: str) -> None:
    """One line, which is in the log when the answer is there."""
    found = lines(broker, what)
    assert len(found) == 1, (what, found)
    assert re.search(rf"{what}; by {who}$", found[0]), found


def test_topics_by_the_native_protocol(broker: Broker, client: RawClient) -> None:
    client.create("native-1", 3, retention_ms="5000")
    told_once(broker, "topic native-1 created with 3 partitions, retention.ms=5000", BY_FRONT)
    client.ask(m.TopicResults, m.CreatePartitions("native-1", 5))
    told_once(broker, "topic native-1 grown from 3 to 5 partitions", BY_FRONT)
    client.ask(m.TopicResults, m.AlterSettings("native-1", {"retention.ms": "6000", "segment.ms": "7000"}, []))
    told_once(broker, "settings of topic native-1 altered: retention.ms=6000, segment.ms=7000", BY_FRONT)
    client.ask(m.TopicResults, m.AlterSettings("native-1", {}, ["segment.ms"]))
    told_once(broker, "settings of topic native-1 altered: segment.ms unset", BY_FRONT)
    # What changes nothing is no change.
    client.ask(m.TopicResults, m.AlterSettings("native-1", {"retention.ms": "6000"}, []))
    assert len(lines(broker, "settings of topic native-1")) == 2
    client.ask(m.TopicResults, m.DeleteTopics(["native-1", "nobody-there"]))
    told_once(broker, "topic native-1 deleted", BY_FRONT)
    assert not lines(broker, "nobody-there")


def test_a_topic_that_is_made_by_asking_for_it(broker: Broker, client: RawClient) -> None:
    client.ask(m.MetadataAnswer, m.Metadata(["native-auto"], auto_create=True))
    told_once(broker, "topic native-auto created with 1 partition", BY_FRONT)
    with KafkaClient(broker, 1) as kafka:
        types = codec.request_types(ApiKey.METADATA)
        asked = [types.MetadataRequestTopic(name="kafka-auto")]
        kafka.ask(ApiKey.METADATA, 12, types.MetadataRequest(topics=asked, allow_auto_topic_creation=True))
    told_once(broker, "topic kafka-auto created with 1 partition", BY_KAFKA)


def test_who_comes_by_tcp_has_an_address(broker: Broker) -> None:
    with RawClient(broker.tcp_server) as far:
        far.create("by-tcp")
    told_once(broker, "topic by-tcp created with 1 partition", r"native client at 127\.0\.0\.1")


@pytest.mark.parametrize("node", [0, 1])
def test_topics_by_kafkas_protocol_at_any_node(broker: Broker, node: int) -> None:
    """Node 1 is a worker, which passes on what the coordinator decides, and who asked."""
    name = f"kafka-{node}"
    with KafkaClient(broker, node) as client:
        client.create(name, 2)
        told_once(broker, f"topic {name} created with 2 partitions", BY_KAFKA)
        types = codec.request_types(ApiKey.CREATE_PARTITIONS)
        wanted = types.CreatePartitionsTopic(name=name, count=3, assignments=None)
        client.ask(ApiKey.CREATE_PARTITIONS, 3, types.CreatePartitionsRequest(topics=[wanted], timeout_ms=10_000))
        told_once(broker, f"topic {name} grown from 2 to 3 partitions", BY_KAFKA)
        for resource_type, whose, setting in ((2, name, "retention.ms"), (4, "", "log.retention.ms")):
            types = codec.request_types(ApiKey.INCREMENTAL_ALTER_CONFIGS)
            value = types.AlterableConfig(name=setting, config_operation=0, value=f"{90_000_000 + node}")
            resource = types.AlterConfigsResource(resource_type=resource_type, resource_name=whose, configs=[value])
            client.ask(ApiKey.INCREMENTAL_ALTER_CONFIGS, 1, types.IncrementalAlterConfigsRequest(resources=[resource]))
        told_once(broker, f"settings of topic {name} altered: retention.ms={90_000_000 + node}", BY_KAFKA)
        told_once(broker, f"settings of the broker altered: log.retention.ms={90_000_000 + node}", BY_KAFKA)
        client.delete(name)
        told_once(broker, f"topic {name} deleted", BY_KAFKA)


@pytest.mark.parametrize("way", ["front", "direct", "kafka"])
def test_deleted_records(broker: Broker, client: RawClient, way: str) -> None:
    name = f"records-{way}"
    client.create(name)
    client.produce(name, batch(5))
    owner = owner_of(client, name, 0)
    if way == "kafka":
        with KafkaClient(broker, owner + 1) as kafka:
            types = codec.request_types(ApiKey.DELETE_RECORDS)
            topic = types.DeleteRecordsTopic(
                name=name, partitions=[types.DeleteRecordsPartition(partition_index=0, offset=3)]
            )
            kafka.ask(ApiKey.DELETE_RECORDS, 2, types.DeleteRecordsRequest(topics=[topic], timeout_ms=10_000))
        who = BY_KAFKA
    elif way == "front":
        client.ask(m.RecordsDeleted, m.DeleteRecords(name, 0, 3))
        who = BY_FRONT
    else:
        with RawClient(direct(broker, owner)) as local:
            local.ask(m.HelloAnswer, m.Hello("a tool"))
            local.ask(m.RecordsDeleted, m.DeleteRecords(name, 0, 3))
        who = BY_FRONT
    told_once(broker, f"records of {name}-0 before offset 3 deleted", who)


def test_groups_by_the_native_protocol(broker: Broker, client: RawClient) -> None:
    client.create("read")
    commit = g.CommitOffsets("native-group", [g.OffsetCommit("read", 0, 0)])
    client.ask_until_served(g.OffsetResults, commit)
    told_once(broker, "offsets of group native-group set: read-0 to 0", BY_FRONT)
    client.ask(g.OffsetResults, g.DeleteOffsets("native-group", [g.TopicPartitions("read", [0])]))
    told_once(broker, "offsets of group native-group deleted: read-0", BY_FRONT)
    client.ask(g.OffsetResults, commit)
    client.ask(g.GroupResults, g.DeleteGroups(["native-group", "no-such-group"]))
    told_once(broker, "group native-group deleted", BY_FRONT)
    assert not lines(broker, "no-such-group")


def test_groups_by_kafkas_protocol(broker: Broker, client: RawClient) -> None:
    client.create("kafka-read")
    with KafkaClient(broker, 0) as kafka:
        types = codec.request_types(ApiKey.OFFSET_COMMIT)
        item = types.OffsetCommitRequestPartition(partition_index=0, committed_offset=0, committed_metadata="")
        commit = types.OffsetCommitRequest(
            group_id="kafka-group",
            member_id="",
            generation_id_or_member_epoch=-1,
            topics=[types.OffsetCommitRequestTopic(name="kafka-read", partitions=[item])],
        )
        assert kafka.ask(ApiKey.OFFSET_COMMIT, 8, commit).topics[0].partitions[0].error_code == 0
        told_once(broker, "offsets of group kafka-group set: kafka-read-0 to 0", BY_KAFKA)
        types = codec.request_types(ApiKey.OFFSET_DELETE)
        place = types.OffsetDeleteRequestTopic(
            name="kafka-read", partitions=[types.OffsetDeleteRequestPartition(partition_index=0)]
        )
        kafka.ask(ApiKey.OFFSET_DELETE, 0, types.OffsetDeleteRequest(group_id="kafka-group", topics=[place]))
        told_once(broker, "offsets of group kafka-group deleted: kafka-read-0", BY_KAFKA)
        kafka.ask(ApiKey.OFFSET_COMMIT, 8, commit)
        types = codec.request_types(ApiKey.DELETE_GROUPS)
        kafka.ask(ApiKey.DELETE_GROUPS, 2, types.DeleteGroupsRequest(groups_names=["kafka-group"]))
        told_once(broker, "group kafka-group deleted", BY_KAFKA)


def test_what_a_terminal_would_obey_is_escaped(broker: Broker) -> None:
    with RawClient(broker.server) as client:
        client.ask(m.HelloAnswer, m.Hello("a\x1b]0;owned\x07"))
        client.create("escaped")
        client.ask_until_served(g.OffsetResults, g.CommitOffsets("g\u202e\x1b[2J", [g.OffsetCommit("escaped", 0, 0)]))
    assert lines(broker, "topic escaped created")
    assert lines(broker, r"offsets of group g\\u202e\\x1b\[2J set: escaped-0 to 0")
    assert not set(broker.log) & {"\x1b", "\x07", "\u202e"}


def test_removed_members(broker: Broker) -> None:
    with KafkaClient(broker, 0) as kafka:
        types = codec.request_types(ApiKey.JOIN_GROUP)
        join = types.JoinGroupRequest(
            group_id="left",
            session_timeout_ms=30_000,
            rebalance_timeout_ms=30_000,
            member_id="",
            group_instance_id="static-1",
            protocol_type="consumer",
            protocols=[types.JoinGroupRequestProtocol(name="range", metadata=b"")],
        )
        assert kafka.ask(ApiKey.JOIN_GROUP, 5, join).error_code == 0
        types = codec.request_types(ApiKey.LEAVE_GROUP)
        member = types.MemberIdentity(member_id="", group_instance_id="static-1", reason="it is stuck")
        nobody = types.MemberIdentity(member_id="", group_instance_id="static-2")
        kafka.ask(ApiKey.LEAVE_GROUP, 5, types.LeaveGroupRequest(group_id="left", members=[member, nobody]))
    told_once(broker, r"1 member left group left: static-1 \(it is stuck\)", BY_KAFKA)


# --- the parts ---


def test_a_client_that_goes_on_committing_is_told_of_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock: Any = HandClock()
    told = ChangeLog(clock)
    reader, admin = Caller(KAFKA, "127.0.0.1:5", client_id="reader"), Caller(KAFKA, "127.0.0.1:6")
    for number in range(100):
        told.offsets_committed(reader, reader.address, "g", [("t", 0, number)], [0])
    assert len(caplog.messages) == TOLD_AT_FIRST
    told.offsets_committed(admin, admin.address, "g", [("t", 0, 1), ("t", 1, 2)], [0, 3])
    assert caplog.messages[-1] == f"offsets of group g set: t-0 to 1; by {admin}"
    clock.time_ms += TOLD_EVERY_MS
    told.offsets_committed(reader, reader.address, "g", [("t", 0, 100)], [0])
    told.offsets_committed(reader, reader.address, "g", [("t", 0, 101)], [0])
    assert len(caplog.messages) == TOLD_AT_FIRST + 2
    for number in range(2 * FORGOTTEN_AT):
        told.offsets_committed(reader, number, "g", [("t", 0, 0)], [0])
    assert len(told._outside) == FORGOTTEN_AT
    assert all(isinstance(key, int) for key in told._outside), "names may be long"


def test_a_caller_goes_through_the_front_as_it_is() -> None:
    caller = Caller(NATIVE, "", 1000, "app\x1b]0;title\x07")
    assert unpack_caller(pack_caller(caller)) == caller
    with pytest.raises(RequestError, match="not a caller"):
        unpack_caller(b"\xc1")
    assert "uid 4000000000" in str(Caller(NATIVE, "", 4_000_000_000))
