"""The same requests to our broker and to Apache Kafka's own: what is refused gets the same code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.schema import NO_UUID
from kbroker.testing import Broker
from tests.broker.kafka_client import KafkaClient
from tests.compat.apache_kafka import ApacheKafka

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NODE = 1
"""Theirs, and our worker."""
Ask = Callable[[KafkaClient], Any]


@pytest.fixture(scope="module")
def both(apache: ApacheKafka) -> Iterator[list[KafkaClient]]:
    """Connections to both; each has the topics `here`, with two partitions, and `with.dot`."""
    with Broker(workers=1) as broker, KafkaClient(broker, NODE) as ours, KafkaClient(apache.port, NODE) as theirs:
        for client in (ours, theirs):
            client.create("here", 2)
            client.create("with.dot")
        yield [ours, theirs]


def create(name: str, partitions: int = 1, replicas: int = 1, *assigned: tuple[int, list[int]], times: int = 1) -> Ask:
    def ask(client: KafkaClient) -> Any:
        types = codec.request_types(ApiKey.CREATE_TOPICS)
        assignments = [types.CreatableReplicaAssignment(partition_index=i, broker_ids=nodes) for i, nodes in assigned]
        new = types.CreatableTopic(
            name=name, num_partitions=partitions, replication_factor=replicas, assignments=assignments, configs=[]
        )
        request = types.CreateTopicsRequest(topics=[new] * times, timeout_ms=10_000, validate_only=True)
        answer = client.ask(ApiKey.CREATE_TOPICS, 7, request)
        return [
            (topic.error_code, topic.num_partitions, topic.replication_factor, bool(topic.configs))
            for topic in answer.topics
        ]

    return ask


def grow(name: str, count: int, *assigned: list[int]) -> Ask:
    def ask(client: KafkaClient) -> Any:
        types = codec.request_types(ApiKey.CREATE_PARTITIONS)
        assignments = [types.CreatePartitionsAssignment(broker_ids=nodes) for nodes in assigned] or None
        topic = types.CreatePartitionsTopic(name=name, count=count, assignments=assignments)
        request = types.CreatePartitionsRequest(topics=[topic], timeout_ms=10_000, validate_only=True)
        return [result.error_code for result in client.ask(ApiKey.CREATE_PARTITIONS, 3, request).results]

    return ask


def delete(*named: str | None, topic_id: bytes = NO_UUID) -> Ask:
    def ask(client: KafkaClient) -> Any:
        types = codec.request_types(ApiKey.DELETE_TOPICS)
        topics = [types.DeleteTopicState(name=name, topic_id=topic_id) for name in named]
        answer = client.ask(ApiKey.DELETE_TOPICS, 6, types.DeleteTopicsRequest(topics=topics, timeout_ms=10_000))
        return [result.error_code for result in answer.responses]

    return ask


def pages(limit: int, cursor: tuple[str, int] | None = None) -> Ask:
    def ask(client: KafkaClient) -> Any:
        types = codec.request_types(ApiKey.DESCRIBE_TOPIC_PARTITIONS)
        request = types.DescribeTopicPartitionsRequest(
            topics=[types.TopicRequest(name=name) for name in ("with.dot", "here", "nobody")],
            response_partition_limit=limit,
            cursor=cursor and types.Cursor(topic_name=cursor[0], partition_index=cursor[1]),
        )
        answer = client.ask(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, request)
        after = answer.next_cursor
        found = [(topic.name, topic.error_code, len(topic.partitions)) for topic in answer.topics]
        return found, after and (after.topic_name, after.partition_index)

    return ask


CASES: dict[str, Ask] = {
    "a new topic": create("new", 3),
    "a new topic by defaults": create("new", -1, -1),
    "a topic that is there": create("here"),
    "no partitions": create("new", 0),
    "minus two partitions": create("new", -2),
    "no replicas": create("new", 1, 0),
    "more replicas than nodes": create("new", 1, 2),
    "minus two replicas": create("new", 1, -2),
    "no name": create(""),
    "two dots": create(".."),
    "a blank": create("a b"),
    "a long name": create("x" * 250),
    "a name that collides": create("with_dot"),
    "twice": create("new", times=2),
    "assigned": create("new", -1, -1, (0, [NODE]), (1, [NODE])),
    "assigned and counted": create("new", 1, -1, (0, [NODE])),
    "assigned with a gap": create("new", -1, -1, (1, [NODE])),
    "assigned to nobody": create("new", -1, -1, (0, [])),
    "assigned to a stranger": create("new", -1, -1, (0, [99])),
    "assigned twice to one": create("new", -1, -1, (0, [NODE, NODE])),
    "grown": grow("here", 3),
    "grown to what it is": grow("here", 2),
    "shrunk": grow("here", 1),
    "grown that is not there": grow("nobody", 9),
    "grown and assigned": grow("here", 3, [NODE]),
    "grown with too few assigned": grow("here", 4, [NODE]),
    "grown to a stranger": grow("here", 3, [99]),
    "deleted that is not there": delete("nobody"),
    "deleted without a name": delete(""),
    "deleted by an unknown id": delete(None, topic_id=b"x" * 16),
    "deleted by nothing": delete(None),
    "deleted by both": delete("nobody", topic_id=b"x" * 16),
    "deleted twice": delete("here", "here"),
    "a page": pages(2000),
    "a small page": pages(1),
    "no page at all": pages(0),
    "a page from inside": pages(2000, ("here", 1)),
    "a page from a stranger": pages(2000, ("stranger", 0)),
    "a page from before": pages(2000, ("here", -1)),
}


@pytest.mark.parametrize("case", CASES)
def test_answers_are_the_same(both: list[KafkaClient], case: str) -> None:
    ours, theirs = (CASES[case](client) for client in both)
    assert ours == theirs
