"""kafka-python's consumers in groups, and its administration of groups."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.testing import Broker

from .group_members import GROUP_SETTINGS

pytestmark = pytest.mark.slow

kafka = pytest.importorskip("kafka", reason="kafka-python is not installed")

DEADLINE_S = 30


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(GROUP_SETTINGS, workers=2, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


def fill(broker: Broker, topic: str, partitions: int, count: int) -> None:
    client = kafka.KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    if topic not in client.list_topics():
        client.create_topics([kafka.admin.NewTopic(topic, partitions, 1)])
    client.close()
    producer = kafka.KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    for partition in range(partitions):
        for number in range(count):
            producer.send(topic, b"%d" % number, partition=partition)
    producer.flush(DEADLINE_S)
    producer.close()


def consumer(broker: Broker, group: str, *topics: str, **settings: Any) -> Any:
    common = {
        "bootstrap_servers": broker.bootstrap_servers,
        "group_id": group,
        "auto_offset_reset": "earliest",
        "session_timeout_ms": 3_000,
        "heartbeat_interval_ms": 200,
        "metadata_max_age_ms": 500,
    }
    return kafka.KafkaConsumer(*topics, **(common | settings))


class Polling:
    """A consumer that is polled in a thread of its own."""

    def __init__(self, polled: Any) -> None:
        self.seen: list[tuple[int, int]] = []
        self.owned: set[int] = set()
        self._consumer = polled
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            for records in self._consumer.poll(timeout_ms=100).values():
                self.seen += [(record.partition, record.offset) for record in records]
            self.owned = {place.partition for place in self._consumer.assignment()}
        self._consumer.close()

    def close(self) -> None:
        self._over.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


def assignors() -> list[Any]:
    from kafka.coordinator.assignors.range import RangePartitionAssignor
    from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
    from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

    return [RangePartitionAssignor, RoundRobinPartitionAssignor, StickyPartitionAssignor]


@pytest.mark.parametrize("assignor", assignors(), ids=lambda kind: kind.name)
def test_members_share_the_partitions(broker: Broker, topic: str, assignor: Any) -> None:
    fill(broker, topic, 4, 25)
    strategy = {"partition_assignment_strategy": [assignor]}
    first = Polling(consumer(broker, topic, topic, **strategy))
    broker.wait_until(lambda: len(first.seen) == 100, DEADLINE_S)
    second = Polling(consumer(broker, topic, topic, **strategy))
    broker.wait_until(lambda: len(first.owned) == len(second.owned) == 2, DEADLINE_S)
    assert first.owned | second.owned == set(range(4))
    second.close()
    broker.wait_until(lambda: first.owned == set(range(4)), DEADLINE_S)
    first.close()


def test_a_group_goes_on_where_it_committed(broker: Broker, topic: str) -> None:
    fill(broker, topic, 1, 10)
    first = consumer(broker, topic, topic, enable_auto_commit=False, consumer_timeout_ms=10_000)
    found = [next(first).offset for _ in range(4)]
    place = kafka.TopicPartition(topic, 0)
    first.commit({place: kafka.structs.OffsetAndMetadata(4, "four", -1)})
    assert first.committed(place) == 4
    first.close()
    second = consumer(broker, topic, topic, consumer_timeout_ms=10_000)
    found += [next(second).offset for _ in range(6)]
    second.close()  # commits by itself
    assert found == list(range(10))
    third = consumer(broker, topic, topic)
    assert third.committed(place) == 10
    third.close()


def test_groups_are_administered(broker: Broker, topic: str) -> None:
    fill(broker, topic, 2, 5)
    client = kafka.KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    member = Polling(consumer(broker, topic, topic))
    broker.wait_until(lambda: len(member.seen) == 10, DEADLINE_S)
    assert topic in [group["group_id"] for group in client.list_groups()]
    described = client.describe_groups([topic])[topic]
    assert described["group_state"] == "Stable"
    assert len(described["members"]) == 1
    assert "NonEmptyGroup" in str(client.delete_groups([topic]))
    member.close()
    place = kafka.TopicPartition(topic, 0)
    found = client.list_group_offsets({topic: None})[topic]
    assert {where.partition: offset.offset for where, offset in found.items()} == {0: 5, 1: 5}
    client.alter_group_offsets(topic, {place: kafka.structs.OffsetAndMetadata(2, "", -1)})
    assert client.list_group_offsets({topic: [place]})[topic][place].offset == 2
    client.delete_group_offsets(topic, [place])
    assert place not in client.list_group_offsets({topic: None})[topic]
    client.delete_groups([topic])
    assert topic not in [group["group_id"] for group in client.list_groups()]
    client.close()
