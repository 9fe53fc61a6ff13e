"""Explicit replica assignments, by real clients: a partition goes to the worker that was asked for, and stays there."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from kbroker.testing import Broker

WORKERS = 3
INVALID_REPLICA_ASSIGNMENT = 39


def admin(broker: Broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})


def create(client: AdminClient, name: str, assignment: list[list[int]], validate_only: bool = False) -> None:
    topic = NewTopic(name, num_partitions=len(assignment), replica_assignment=assignment)
    client.create_topics([topic], validate_only=validate_only)[name].result(20)


def grow(client: AdminClient, name: str, total: int, assignment: list[list[int]], validate_only: bool = False) -> None:
    wanted = NewPartitions(name, total, replica_assignment=assignment)
    client.create_partitions([wanted], validate_only=validate_only)[name].result(20)


def leaders(broker: Broker, name: str) -> list[int]:
    partitions = admin(broker).list_topics(name, 20).topics[name].partitions
    assert all(partition.replicas == partition.isrs == [partition.leader] for partition in partitions.values())
    return [partitions[index].leader for index in sorted(partitions)]


def refusal(*args: object, by: object) -> KafkaError:
    with pytest.raises(KafkaException) as raised:
        by(*args)  # type: ignore[operator]
    error = raised.value.args[0]
    assert isinstance(error, KafkaError)
    return error


def test_partitions_go_where_they_were_asked_for_and_stay() -> None:
    with Broker(workers=WORKERS) as broker:
        client = admin(broker)
        create(client, "t", [[3], [3], [1], [3]])
        grow(client, "t", 6, [[2], [3]])
        expected = [3, 3, 1, 3, 2, 3]
        assert leaders(broker, "t") == expected
        create(client, "only-looked-at", [[2]], validate_only=True)
        assert "only-looked-at" not in client.list_topics(timeout=20).topics
        for assignment, reason in (
            ([[77]], "no such broker is registered"),
            ([[0]], "internal topics only"),
            ([[1, 2]], "name one broker"),
        ):
            for validate_only in (True, False):
                error = refusal(client, "bad", assignment, validate_only, by=create)
                assert error.code() == INVALID_REPLICA_ASSIGNMENT
                assert reason in error.str()
                error = refusal(client, "t", 7, assignment, validate_only, by=grow)
                assert error.code() == INVALID_REPLICA_ASSIGNMENT
                assert reason in error.str()
        assert leaders(broker, "t") == expected
        broker.stop()
        # Fewer workers: the others have what was the third's, until there is a third one again.
        broker.workers = 2
        broker.start()
        fewer = leaders(broker, "t")
        assert fewer[2] == 1
        assert fewer[4] == 2
        assert set(fewer) == {1, 2}
        broker.stop()
        broker.workers = WORKERS
        broker.start()
        assert leaders(broker, "t") == expected
