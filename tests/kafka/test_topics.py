"""CreateTopics, DeleteTopics and CreatePartitions: what cannot be done is told per topic, each topic once."""

from __future__ import annotations

from typing import Any

import pytest

from kbroker.kafka import codec, topics
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.topics import Deletion, Growth, Made, NewTopic, Nodes, Result
from kbroker.wire.messages import PartitionInfo, TopicInfo

CREATE = codec.request_types(ApiKey.CREATE_TOPICS)
DELETE = codec.request_types(ApiKey.DELETE_TOPICS)
GROW = codec.request_types(ApiKey.CREATE_PARTITIONS)
KNOWN = {
    "a": TopicInfo("a", topic_id=b"a" * 16, partitions=[PartitionInfo(0, 1, 1)]),
    "b": TopicInfo("b", topic_id=b"b" * 16, partitions=[PartitionInfo(0, 1, 1), PartitionInfo(1, 2, 1)]),
}
NO_ID = bytes(16)
NODES = Nodes((0, 1, 2), (1, 2))
INVALID_REQUEST, INVALID_ASSIGNMENT, UNKNOWN_ID = 42, 39, 100


def code(item: Any) -> int:
    """0 for what may be tried."""
    if isinstance(item, Deletion):
        return item.fault.error_code if item.fault else 0
    return item.error_code if isinstance(item, Result) else 0


def new(name: str, partitions: int = 1, replicas: int = 1, assigned: dict[int, list[int]] | None = None) -> Any:
    assignments = [
        CREATE.CreatableReplicaAssignment(partition_index=index, broker_ids=nodes)
        for index, nodes in (assigned or {}).items()
    ]
    return CREATE.CreatableTopic(
        name=name, num_partitions=partitions, replication_factor=replicas, assignments=assignments, configs=[]
    )


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([new("x", 3, 1)], [NewTopic("x", 3, 1, {})]),
        ([new("x"), new("y"), new("x")], [INVALID_REQUEST, NewTopic("y", 1, 1, {}), INVALID_REQUEST]),
        ([new("x", -1, -1, {1: [2], 0: [1], 2: [2]})], [NewTopic("x", 3, 1, {}, (1, 2, 2))]),
        ([new("x", 2, -1, {0: [1], 1: [2]})], [INVALID_REQUEST]),
        ([new("x", -1, 1, {0: [1]})], [INVALID_REQUEST]),
        ([new("x", -1, -1, {0: [1], 2: [2]})], [INVALID_ASSIGNMENT]),
        ([new("x", -1, -1, {0: [1, 2]})], [INVALID_ASSIGNMENT]),
        ([new("x", -1, -1, {0: [1, 1]})], [INVALID_ASSIGNMENT]),
        ([new("x", -1, -1, {0: [0]})], [INVALID_ASSIGNMENT]),  # the coordinator's node leads internal topics
        ([new("x", -1, -1, {0: [7]})], [INVALID_ASSIGNMENT]),
        ([new("x", -1, -1, {0: []})], [INVALID_ASSIGNMENT]),
        ([], []),
    ],
)
def test_creations(asked: list[Any], expected: list[Any]) -> None:
    found = topics.creations(CREATE.CreateTopicsRequest(topics=asked), NODES)
    assert [item if isinstance(item, NewTopic) else item.error_code for item in found] == expected


def test_a_topic_that_is_named_twice_is_answered_once() -> None:
    request = CREATE.CreateTopicsRequest(topics=[new("x"), new("b"), new("x")])
    results = [Result(INVALID_REQUEST, "twice"), Result(), Result(INVALID_REQUEST, "twice")]
    asked = topics.creations(request, NODES)
    answer = topics.created(request, asked, results, lambda item: Made(bytes(16), len(KNOWN[item.name].partitions), []))
    assert [(item.name, item.error_code, item.num_partitions) for item in answer.topics] == [("x", 42, -1), ("b", 0, 2)]
    grown = GROW.CreatePartitionsRequest(topics=[GROW.CreatePartitionsTopic(name=name, count=9) for name in "xbx"])
    assert [item.name for item in topics.grown(grown, results).results] == ["x", "b"]


def name_of(topic_id: bytes) -> str | None:
    return next((name for name, topic in KNOWN.items() if topic.topic_id == topic_id), None)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([("a", NO_ID)], [("a", b"a" * 16, 0)]),
        ([("x", NO_ID)], [("x", NO_ID, 0)]),
        ([(None, b"b" * 16)], [("b", b"b" * 16, 0)]),
        ([(None, b"?" * 16)], [(None, b"?" * 16, UNKNOWN_ID)]),
        ([(None, b"?" * 16)] * 2, [(None, b"?" * 16, INVALID_REQUEST)]),
        ([(None, b"a" * 16)] * 2, [(None, b"a" * 16, INVALID_REQUEST)]),
        ([(None, NO_ID)], [(None, NO_ID, INVALID_REQUEST)]),
        ([("a", b"a" * 16)], [("a", b"a" * 16, INVALID_REQUEST)]),
        ([("a", NO_ID), ("b", NO_ID), ("a", NO_ID)], [("a", NO_ID, INVALID_REQUEST), ("b", b"b" * 16, 0)]),
        ([("a", NO_ID), (None, b"a" * 16)], [("a", b"a" * 16, INVALID_REQUEST)]),
    ],
)
def test_deletions(asked: list[tuple[str | None, bytes]], expected: list[tuple[str | None, bytes, int]]) -> None:
    states = [DELETE.DeleteTopicState(name=name, topic_id=topic_id) for name, topic_id in asked]
    found = topics.deletions(DELETE.DeleteTopicsRequest(topics=states), 6, name_of, KNOWN)
    assert [(item.name, item.topic_id, code(item)) for item in found] == expected


def test_deletions_by_name() -> None:
    found = topics.deletions(DELETE.DeleteTopicsRequest(topic_names=["a", "x", "a"]), 5, name_of, KNOWN)
    assert [(item.name, code(item)) for item in found] == [("a", INVALID_REQUEST), ("x", 0)]


def grown(name: str, count: int, assigned: list[list[int]] | None = None) -> Any:
    assignments = None if assigned is None else [GROW.CreatePartitionsAssignment(broker_ids=ids) for ids in assigned]
    return GROW.CreatePartitionsTopic(name=name, count=count, assignments=assignments)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([grown("b", 5)], [Growth("b", 5)]),
        ([grown("x", 5)], [Growth("x", 5)]),
        ([grown("b", 5), grown("a", 2), grown("b", 6)], [INVALID_REQUEST, Growth("a", 2), INVALID_REQUEST]),
        ([grown("b", 4, [[1], [2]])], [Growth("b", 4, (1, 2))]),
        ([grown("b", 4, [[1], [0]])], [INVALID_ASSIGNMENT]),
        ([grown("b", 4, [[1], []])], [INVALID_ASSIGNMENT]),
        ([grown("b", 4, [[1]])], [INVALID_ASSIGNMENT]),
        ([grown("b", 3, [[1, 2]])], [INVALID_ASSIGNMENT]),
        ([grown("b", 3, [[7]])], [INVALID_ASSIGNMENT]),
    ],
)
def test_growths(asked: list[Any], expected: list[Any]) -> None:
    found = topics.growths(GROW.CreatePartitionsRequest(topics=asked), KNOWN, NODES)
    assert [item if isinstance(item, Growth) else item.error_code for item in found] == expected


def test_why_an_assignment_is_refused() -> None:
    """In Apache Kafka's words, and what to do."""
    asked = [new("x", -1, -1, {0: nodes}) for nodes in ([7], [], [1, 1], [1, 2], [0])]
    found = [
        topics.creations(CREATE.CreateTopicsRequest(topics=[topic]), NODES)[0] for topic in asked
    ]  # one at a time: a name stands once in a request
    why = [item.message for item in found if isinstance(item, Result)]
    assert [text and text.removeprefix("the manual partition assignment includes ") for text in why] == [
        "broker 7, but no such broker is registered: partitions go to one of 1, 2",
        "an empty replica list",
        "the broker 1 more than once",
        "a partition with 2 replicas; this host keeps one of each: name one broker",
        "broker 0, which leads internal topics only: partitions go to one of 1, 2",
    ]
