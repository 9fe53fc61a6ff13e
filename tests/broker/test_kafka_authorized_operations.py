"""Clients that ask what they may do are told: everything, as there are no access rules. Others are told nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.authorized_operations import NOT_ASKED
from kbroker.testing import Broker
from tests.broker.kafka_client import KafkaClient

READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS, WRITE_ONCE = range(3, 13)
ON_TOPIC = {READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS}
ON_GROUP = {READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS}
ON_CLUSTER = {CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS, WRITE_ONCE}


@pytest.fixture(scope="module")
def client() -> Iterator[KafkaClient]:
    """At the coordinator, which has the groups."""
    with Broker() as broker, KafkaClient(broker, 0) as connected:
        connected.create("t")
        types = codec.request_types(ApiKey.OFFSET_COMMIT)
        place = types.OffsetCommitRequestPartition(partition_index=0, committed_offset=1, committed_metadata="")
        topic = types.OffsetCommitRequestTopic(name="t", partitions=[place])
        connected.ask(ApiKey.OFFSET_COMMIT, 8, types.OffsetCommitRequest(group_id="g", member_id="", topics=[topic]))
        yield connected


def operations(bits: int) -> set[int] | None:
    """The operations whose bits are set; None: nothing is told."""
    return None if bits == NOT_ASKED else {number for number in range(31) if bits >> number & 1}


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("version", [8, 10, 13])
def test_metadata(client: KafkaClient, version: int, asks: bool) -> None:
    types = codec.request_types(ApiKey.METADATA)
    tells_cluster = asks and version <= 10
    request = types.MetadataRequest(
        topics=[types.MetadataRequestTopic(name=name) for name in ("t", "no.such")],
        include_topic_authorized_operations=asks,
        include_cluster_authorized_operations=tells_cluster,
    )
    answer = client.ask(ApiKey.METADATA, version, request)
    told = [operations(topic.topic_authorized_operations) for topic in answer.topics]
    assert told == [ON_TOPIC if asks else None] * 2  # as Kafka, also on the topic that is not there
    assert operations(answer.cluster_authorized_operations) == (ON_CLUSTER if tells_cluster else None)


@pytest.mark.parametrize("asks", [True, False])
def test_describe_cluster(client: KafkaClient, asks: bool) -> None:
    types = codec.request_types(ApiKey.DESCRIBE_CLUSTER)
    request = types.DescribeClusterRequest(include_cluster_authorized_operations=asks)
    answer = client.ask(ApiKey.DESCRIBE_CLUSTER, 1, request)
    assert operations(answer.cluster_authorized_operations) == (ON_CLUSTER if asks else None)


def test_describe_topic_partitions_always_tells(client: KafkaClient) -> None:
    types = codec.request_types(ApiKey.DESCRIBE_TOPIC_PARTITIONS)
    named = [types.TopicRequest(name=name) for name in ("t", "no.such")]
    request = types.DescribeTopicPartitionsRequest(topics=named, response_partition_limit=10)
    answer = client.ask(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, request)
    assert [operations(topic.topic_authorized_operations) for topic in answer.topics] == [ON_TOPIC] * 2


@pytest.mark.parametrize(("version", "on_missing"), [(3, ON_GROUP), (6, None)])
def test_describe_groups(client: KafkaClient, version: int, on_missing: set[int] | None) -> None:
    def told(asks: bool) -> list[Any]:
        types = codec.request_types(ApiKey.DESCRIBE_GROUPS)
        request = types.DescribeGroupsRequest(groups=["g", "no.such"], include_authorized_operations=asks)
        answer = client.ask(ApiKey.DESCRIBE_GROUPS, version, request)
        return [operations(group.authorized_operations) for group in answer.groups]

    assert told(asks=True) == [ON_GROUP, on_missing]
    assert told(asks=False) == [None, None]


def test_describe_consumer_groups(client: KafkaClient) -> None:
    types = codec.request_types(ApiKey.CONSUMER_GROUP_HEARTBEAT)
    joins = types.ConsumerGroupHeartbeatRequest(
        group_id="k", member_id="m", rebalance_timeout_ms=60_000, subscribed_topic_names=["t"], topic_partitions=[]
    )
    assert client.ask(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, joins).error_code == 0
    types = codec.request_types(ApiKey.CONSUMER_GROUP_DESCRIBE)
    for asks, told in ((True, ON_GROUP), (False, None)):
        request = types.ConsumerGroupDescribeRequest(group_ids=["k", "g"], include_authorized_operations=asks)
        answer = client.ask(ApiKey.CONSUMER_GROUP_DESCRIBE, 1, request)
        assert [operations(group.authorized_operations) for group in answer.groups] == [told, None]
