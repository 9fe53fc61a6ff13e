"""What clients may ask any node is answered alike by every node, odd requests too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker

from .kafka_client import KafkaClient

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(workers=2, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


@pytest.fixture(params=[0, 1, 2])
def client(broker: Broker, request: pytest.FixtureRequest) -> Iterator[KafkaClient]:
    with KafkaClient(broker, request.param) as found:
        yield found


def test_topics_named_twice_and_by_id(client: KafkaClient, topic: str) -> None:
    types = codec.request_types(ApiKey.CREATE_TOPICS)
    names = [topic, f"{topic}-2", topic]
    new = [types.CreatableTopic(name=name, num_partitions=1, replication_factor=1) for name in names]
    answer = client.ask(ApiKey.CREATE_TOPICS, 7, types.CreateTopicsRequest(topics=new, timeout_ms=10_000))
    assert [(item.name, item.error_code) for item in answer.topics] == [(topic, 42), (f"{topic}-2", 0)]
    topic_id = answer.topics[1].topic_id
    types = codec.request_types(ApiKey.DELETE_TOPICS)
    states = [types.DeleteTopicState(name=None, topic_id=item) for item in (topic_id, b"?" * 16)]
    states.append(types.DeleteTopicState(name=topic))
    answer = client.ask(ApiKey.DELETE_TOPICS, 6, types.DeleteTopicsRequest(topics=states, timeout_ms=10_000))
    assert [(item.name, item.topic_id, item.error_code) for item in answer.responses] == [
        (f"{topic}-2", topic_id, 0),
        (None, b"?" * 16, 100),
        (topic, bytes(16), 3),
    ]
    answer = client.ask(ApiKey.DELETE_TOPICS, 6, types.DeleteTopicsRequest(topics=[], timeout_ms=10_000))
    assert list(answer.responses) == []


@pytest.mark.parametrize(("endpoint_type", "code"), [(1, 0), (2, 114), (7, 115)])
def test_the_cluster(client: KafkaClient, endpoint_type: int, code: int) -> None:
    types = codec.request_types(ApiKey.DESCRIBE_CLUSTER)
    answer = client.ask(ApiKey.DESCRIBE_CLUSTER, 1, types.DescribeClusterRequest(endpoint_type=endpoint_type))
    assert answer.error_code == code
    if not code:
        assert (answer.controller_id, [item.broker_id for item in answer.brokers]) == (0, [0, 1, 2])
        assert answer.cluster_id


def test_producer_ids(client: KafkaClient) -> None:
    types = codec.request_types(ApiKey.INIT_PRODUCER_ID)

    def given(**fields: Any) -> Any:
        return client.ask(ApiKey.INIT_PRODUCER_ID, 4, types.InitProducerIdRequest(**fields))

    first, second = (given(transactional_id=None, producer_id=-1, producer_epoch=-1) for _ in range(2))
    assert (first.error_code, first.producer_epoch) == (0, 0)
    assert second.producer_id != first.producer_id


def test_there_are_no_transactions(client: KafkaClient) -> None:
    types = codec.request_types(ApiKey.LIST_TRANSACTIONS)
    request = types.ListTransactionsRequest(state_filters=["Ongoing", "Nonsense"], producer_id_filters=[])
    answer = client.ask(ApiKey.LIST_TRANSACTIONS, 0, request)
    assert (answer.error_code, list(answer.unknown_state_filters)) == (0, ["Nonsense"])


def test_sizes_of_what_each_node_leads(broker: Broker, client: KafkaClient, topic: str) -> None:
    client.create(topic, 4)
    known = client.metadata(topic)[topic].partitions
    types = codec.request_types(ApiKey.DESCRIBE_LOG_DIRS)
    sizes: dict[int, int] = {}
    for node in {item.leader_id for item in known}:
        with KafkaClient(broker, node) as leader:
            mine = [item.partition_index for item in known if item.leader_id == node]
            for index in mine:
                leader.produce(topic, index, b"x" * 1000 * (index + 1))
            asked = types.DescribableLogDirTopic(topic=topic, partitions=[0, 1, 2, 3, 99])
            answer = leader.ask(ApiKey.DESCRIBE_LOG_DIRS, 4, types.DescribeLogDirsRequest(topics=[asked]))
            (folder,) = answer.results
            assert (folder.error_code, folder.log_dir) == (0, str(broker.data_dir))
            assert 0 < folder.usable_bytes <= folder.total_bytes
            (found,) = folder.topics
            assert sorted(item.partition_index for item in found.partitions) == mine
            sizes |= {item.partition_index: item.partition_size for item in found.partitions}
    on_disk = {
        index: sum(path.stat().st_size for path in (broker.data_dir / f"{topic}-{index}").glob("*.log"))
        for index in sizes
    }
    assert sizes == on_disk


def test_leaders_and_replicas_stay_where_they_are(client: KafkaClient, topic: str) -> None:
    client.create(topic)
    leader = client.metadata(topic)[topic].partitions[0].leader_id
    types = codec.request_types(ApiKey.ELECT_LEADERS)
    asked = [
        types.TopicPartitions(topic=topic, partitions=[0, 9]),
        types.TopicPartitions(topic="nowhere", partitions=[0]),
    ]
    for version in (0, 2):
        request = types.ElectLeadersRequest(election_type=0, topic_partitions=asked, timeout_ms=1_000)
        answer = client.ask(ApiKey.ELECT_LEADERS, version, request)
        found = [[item.error_code for item in one.partition_result] for one in answer.replica_election_results]
        assert found == [[84, 3], [3]]
        request.topic_partitions = None
        assert list(client.ask(ApiKey.ELECT_LEADERS, version, request).replica_election_results) == []

    types = codec.request_types(ApiKey.ALTER_PARTITION_REASSIGNMENTS)
    for replicas, code in ((None, 85), ([leader], 0), ([0], 39), ([1, 2], 39), ([], 39)):
        item = types.ReassignablePartition(partition_index=0, replicas=replicas)
        request = types.AlterPartitionReassignmentsRequest(
            timeout_ms=1_000, topics=[types.ReassignableTopic(name=topic, partitions=[item])]
        )
        answer = client.ask(ApiKey.ALTER_PARTITION_REASSIGNMENTS, 1, request)
        assert (answer.error_code, answer.responses[0].partitions[0].error_code) == (0, code)

    types = codec.request_types(ApiKey.LIST_PARTITION_REASSIGNMENTS)
    answer = client.ask(
        ApiKey.LIST_PARTITION_REASSIGNMENTS, 0, types.ListPartitionReassignmentsRequest(timeout_ms=1_000, topics=None)
    )
    assert (answer.error_code, list(answer.topics)) == (0, [])


@pytest.mark.parametrize("version", [0, 1])
def test_there_are_no_quotas(client: KafkaClient, version: int) -> None:
    types = codec.request_types(ApiKey.DESCRIBE_CLIENT_QUOTAS)
    component = types.ComponentData(entity_type="user", match_type=2, match=None)
    request = types.DescribeClientQuotasRequest(components=[component], strict=False)
    answer = client.ask(ApiKey.DESCRIBE_CLIENT_QUOTAS, version, request)
    assert (answer.error_code, list(answer.entries)) == (0, [])


def test_there_are_no_credentials(client: KafkaClient) -> None:
    types = codec.request_types(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS)
    for users, codes in ((None, []), (("ann", "bob"), [("ann", 91), ("bob", 91)])):
        named = users and [types.UserName(name=name) for name in users]
        request = types.DescribeUserScramCredentialsRequest(users=named)
        answer = client.ask(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS, 0, request)
        assert (answer.error_code, [(item.user, item.error_code) for item in answer.results]) == (0, codes)
