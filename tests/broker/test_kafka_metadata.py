"""Metadata on every node: what was just made, changed or deleted is known everywhere when that is answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kbroker import Admin
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker

from .kafka_client import KafkaClient

pytestmark = pytest.mark.slow

NODES = (0, 1, 2)


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(workers=2, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


@pytest.fixture
def clients(broker: Broker) -> Iterator[list[KafkaClient]]:
    """One at each node."""
    with ExitStack() as stack:
        yield [stack.enter_context(KafkaClient(broker, node)) for node in NODES]


def counts(clients: list[KafkaClient], topic: str) -> list[int]:
    """How many partitions each node tells of, in the list of all and by name; -1: there is no such topic."""
    found = []
    for client in clients:
        for known in (client.metadata(), client.metadata(topic)):
            seen = known.get(topic)
            found.append(-1 if seen is None or seen.error_code else len(seen.partitions))
    return found


def test_what_is_created_grown_and_deleted(clients: list[KafkaClient], topic: str) -> None:
    for asked in clients:
        assert counts(clients, topic) == [-1] * 6
        asked.create(topic, 2)
        assert counts(clients, topic) == [2] * 6
        types = codec.request_types(ApiKey.CREATE_PARTITIONS)
        grown = types.CreatePartitionsTopic(name=topic, count=5, assignments=None)
        request = types.CreatePartitionsRequest(topics=[grown], timeout_ms=10_000)
        assert asked.ask(ApiKey.CREATE_PARTITIONS, 3, request).results[0].error_code == 0
        assert counts(clients, topic) == [5] * 6
        asked.delete(topic)


def test_a_topic_made_anew_has_its_new_id_everywhere(clients: list[KafkaClient], topic: str) -> None:
    for _ in range(3):
        topic_id = clients[1].create(topic)
        assert {client.metadata()[topic].topic_id for client in clients} == {topic_id}
        assert {client.metadata(topic)[topic].topic_id for client in clients} == {topic_id}
        clients[2].delete(topic)


def test_what_native_clients_do_is_seen(broker: Broker, clients: list[KafkaClient], topic: str) -> None:
    with Admin(server=broker.server) as admin:
        admin.create_topic(topic, 3)
        assert counts(clients, topic) == [3] * 6
        admin.delete_topics([topic])
        assert counts(clients, topic) == [-1] * 6


def test_leader_epochs_follow_their_owners(broker: Broker, clients: list[KafkaClient], topic: str) -> None:
    clients[0].create(topic, 2)

    def epochs(client: KafkaClient) -> list[int]:
        return [item.leader_epoch for item in client.metadata()[topic].partitions]

    broker.wait_until(lambda: [epochs(client) for client in clients] == [[1, 1]] * 3)
    leader = clients[0].metadata()[topic].partitions[0].leader_id
    broker.kill_and_wait(f"worker-{leader - 1}")
    with KafkaClient(broker, leader) as anew:
        others = [client for client in clients if client.node != leader]
        assert epochs(anew)[0] == 2, "who leads it knows at once"
        broker.wait_until(lambda: [epochs(client)[0] for client in others] == [2, 2])
        assert epochs(clients[0])[1] == 1


def test_duplicates_empty_lists_and_unknown_ids(clients: list[KafkaClient], topic: str) -> None:
    topic_id = clients[0].create(topic)
    types = codec.request_types(ApiKey.METADATA)
    named, strange = types.MetadataRequestTopic(name=topic), types.MetadataRequestTopic(name="no.such.topic")
    by_id, unknown = (types.MetadataRequestTopic(name=None, topic_id=i) for i in (topic_id, b"?" * 16))
    for client in clients:
        for asked, expected in (
            ([], []),
            ([named, named], [(0, topic)]),
            ([strange, named, strange], [(3, "no.such.topic"), (0, topic)]),
            ([by_id, unknown], [(0, topic), (100, None)]),
        ):
            request = types.MetadataRequest(topics=asked, allow_auto_topic_creation=False)
            answer = client.ask(ApiKey.METADATA, 12, request)
            assert [(item.error_code, item.name) for item in answer.topics] == expected
            assert len(answer.brokers) == 3


def test_producers_of_a_partition(clients: list[KafkaClient], topic: str) -> None:
    clients[0].create(topic)
    types = codec.request_types(ApiKey.DESCRIBE_PRODUCERS)
    wanted = [types.TopicRequest(name=topic, partition_indexes=[0, 7])]
    leader = clients[0].metadata()[topic].partitions[0].leader_id
    for client in clients:
        answer = client.ask(ApiKey.DESCRIBE_PRODUCERS, 0, types.DescribeProducersRequest(topics=wanted))
        codes = [item.error_code for item in answer.topics[0].partitions]
        assert codes == [0 if client.node == leader else 6, 3]
