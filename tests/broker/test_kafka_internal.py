"""`__consumer_offsets` as Kafka clients see it: listed, described and read, never written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.coordination import CLUSTER_AUTHORIZATION_FAILED
from kbroker.records.codec import decode_list, iter_batches
from kbroker.testing import Broker
from kbroker.types import OFFSETS_TOPIC

from .kafka_client import KafkaClient, batch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(workers=2, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


@pytest.fixture(params=[0, 1, 2])
def client(broker: Broker, request: pytest.FixtureRequest) -> Iterator[KafkaClient]:
    with KafkaClient(broker, request.param) as found:
        yield found


def commit(client: KafkaClient, group: str, topic: str, offset: int) -> None:
    types = codec.request_types(ApiKey.OFFSET_COMMIT)
    item = types.OffsetCommitRequestPartition(partition_index=0, committed_offset=offset, committed_leader_epoch=-1)
    request = types.OffsetCommitRequest(
        group_id=group,
        generation_id_or_member_epoch=-1,
        member_id="",
        topics=[types.OffsetCommitRequestTopic(name=topic, partitions=[item])],
    )
    answer = client.ask(ApiKey.OFFSET_COMMIT, 8, request)
    assert answer.topics[0].partitions[0].error_code == 0


def fetch(client: KafkaClient, offset: int, wait_ms: int = 0) -> Any:
    types = codec.request_types(ApiKey.FETCH)
    wanted = types.FetchPartition(
        partition=0, fetch_offset=offset, partition_max_bytes=1 << 20, current_leader_epoch=-1, last_fetched_epoch=-1
    )
    topic = types.FetchTopic(topic=OFFSETS_TOPIC, partitions=[wanted])
    client.send(
        ApiKey.FETCH,
        12,
        types.FetchRequest(
            max_wait_ms=wait_ms, min_bytes=1, max_bytes=1 << 20, topics=[topic], forgotten_topics_data=[]
        ),
    )


def test_every_node_lists_it_as_internal_and_led_by_the_coordinator(client: KafkaClient) -> None:
    known = client.metadata()[OFFSETS_TOPIC]
    assert (known.is_internal, [partition.leader_id for partition in known.partitions]) == (True, [0])
    assert known.topic_id != bytes(16)
    assert client.metadata(OFFSETS_TOPIC)[OFFSETS_TOPIC] == known
    types = codec.request_types(ApiKey.DESCRIBE_TOPIC_PARTITIONS)
    asked = types.DescribeTopicPartitionsRequest(
        topics=[types.TopicRequest(name=OFFSETS_TOPIC)], response_partition_limit=10, cursor=None
    )
    (described,) = client.ask(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, asked).topics
    assert (described.is_internal, described.topic_id) == (True, known.topic_id)


def test_every_node_names_the_coordinator(client: KafkaClient) -> None:
    types = codec.request_types(ApiKey.FIND_COORDINATOR)
    answer = client.ask(
        ApiKey.FIND_COORDINATOR, 6, types.FindCoordinatorRequest(key_type=0, coordinator_keys=["a", "b"])
    )
    assert [(item.key, item.error_code, item.node_id) for item in answer.coordinators] == [("a", 0, 0), ("b", 0, 0)]
    answer = client.ask(ApiKey.FIND_COORDINATOR, 6, types.FindCoordinatorRequest(key_type=1, coordinator_keys=["t"]))
    (none,) = answer.coordinators
    assert (none.node_id, none.error_code) == (-1, CLUSTER_AUTHORIZATION_FAILED)
    assert "transactional.id" in none.error_message


def test_it_can_be_described_and_weighed(broker: Broker) -> None:
    with KafkaClient(broker, 0) as client:
        types = codec.request_types(ApiKey.DESCRIBE_CONFIGS)
        resource = types.DescribeConfigsResource(resource_type=2, resource_name=OFFSETS_TOPIC, configuration_keys=None)
        (found,) = client.ask(ApiKey.DESCRIBE_CONFIGS, 4, types.DescribeConfigsRequest(resources=[resource])).results
        assert found.error_code == 0
        settings = {entry.name: entry.value for entry in found.configs}
        assert (settings["retention.ms"], settings["cleanup.policy"]) == ("-1", "compact")
        client.create("weighed")
        commit(client, "g", "weighed", 1)
        types = codec.request_types(ApiKey.DESCRIBE_LOG_DIRS)
        (folder,) = client.ask(ApiKey.DESCRIBE_LOG_DIRS, 4, types.DescribeLogDirsRequest(topics=None)).results
        (topic,) = folder.topics
        assert topic.name == OFFSETS_TOPIC
        assert topic.partitions[0].partition_size > 0


def test_it_is_read_from_the_coordinator_also_by_long_poll(broker: Broker) -> None:
    with KafkaClient(broker, 0) as reader, KafkaClient(broker, 0) as client, KafkaClient(broker, 1) as elsewhere:
        client.create("read")
        types = codec.request_types(ApiKey.LIST_OFFSETS)
        asked = types.ListOffsetsPartition(partition_index=0, timestamp=-1, current_leader_epoch=-1)
        request = types.ListOffsetsRequest(
            replica_id=-1, topics=[types.ListOffsetsTopic(name=OFFSETS_TOPIC, partitions=[asked])]
        )
        end = reader.ask(ApiKey.LIST_OFFSETS, 7, request).topics[0].partitions[0].offset
        fetch(reader, end, 20_000)
        commit(client, "read-group", "read", 42)
        (partition,) = reader.receive().responses[0].partitions
        (record,) = [record for piece in iter_batches(bytes(partition.records)) for record in decode_list(piece)]
        assert record[0] == end
        assert b"read-group" in (record[3] or b"")
        fetch(elsewhere, 0)
        assert elsewhere.receive().responses[0].partitions[0].error_code == 6


def test_it_is_never_written_by_clients(client: KafkaClient) -> None:
    answer = client.produce(OFFSETS_TOPIC, 0, b"forged")
    if client.node == 0:
        assert (answer.error_code, answer.error_message) == (
            17,
            "topic __consumer_offsets is the broker's own: clients may read it only",
        )
    else:
        assert (answer.error_code, answer.base_offset) == (6, -1)
    types = codec.request_types(ApiKey.PRODUCE)
    wanted = types.TopicProduceData(
        name="nowhere", partition_data=[types.PartitionProduceData(index=0, records=batch(b"x"))]
    )
    answer = client.ask(ApiKey.PRODUCE, 9, types.ProduceRequest(acks=1, timeout_ms=1_000, topic_data=[wanted]))
    assert answer.responses[0].partition_responses[0].error_code == 3


def test_it_is_neither_made_nor_deleted_nor_grown(client: KafkaClient) -> None:
    types = codec.request_types(ApiKey.CREATE_TOPICS)
    new = types.CreatableTopic(name=OFFSETS_TOPIC, num_partitions=1, replication_factor=1)
    answer = client.ask(ApiKey.CREATE_TOPICS, 7, types.CreateTopicsRequest(topics=[new], timeout_ms=9_000))
    assert answer.topics[0].error_code == 36
    types = codec.request_types(ApiKey.DELETE_TOPICS)
    answer = client.ask(
        ApiKey.DELETE_TOPICS, 4, types.DeleteTopicsRequest(topic_names=[OFFSETS_TOPIC], timeout_ms=9_000)
    )
    assert answer.responses[0].error_code == 17
    types = codec.request_types(ApiKey.CREATE_PARTITIONS)
    grown = types.CreatePartitionsTopic(name=OFFSETS_TOPIC, count=9, assignments=None)
    answer = client.ask(ApiKey.CREATE_PARTITIONS, 3, types.CreatePartitionsRequest(topics=[grown], timeout_ms=9_000))
    assert answer.results[0].error_code == 17
