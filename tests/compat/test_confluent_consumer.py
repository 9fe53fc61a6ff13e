"""confluent-kafka's consumers of both kinds: what they tell, and how they are steered between two polls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.testing import Broker

pytestmark = pytest.mark.slow

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")

from .group_members import GROUP_SETTINGS  # noqa: E402
from .test_confluent_kafka import DEADLINE_S, admin_of, create  # noqa: E402

COUNT = 20


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(GROUP_SETTINGS, workers=2, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


def partition(topic: str, index: int, offset: int = -1001) -> Any:
    return confluent_kafka.TopicPartition(topic, index, offset)


def fill(broker: Broker, topic: str, start_ms: int) -> None:
    """Two partitions with `COUNT` records each, a second after one another."""
    create(broker, topic, 2)
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap_servers})
    for number in range(COUNT):
        for index in range(2):
            producer.produce(topic, b"%d" % number, partition=index, timestamp=start_ms + number * 1000)
    assert producer.flush(DEADLINE_S) == 0


def polled(consumer: Any, count: int) -> list[tuple[int, int]]:
    """Partition and offset of the next records, in any order."""
    found: list[tuple[int, int]] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count:
        assert time.monotonic() < deadline, found
        message = consumer.poll(0.1)
        if message is not None:
            assert message.error() is None
            found.append((message.partition(), message.offset()))
    return sorted(found)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_member_looks_around_and_is_steered(broker: Broker, topic: str, protocol: str) -> None:
    start_ms = time.time_ns() // 1_000_000 - 60_000
    fill(broker, topic, start_ms)
    settings = {"group.id": topic, "group.protocol": protocol, "auto.offset.reset": "earliest"}
    by_hand = {"enable.auto.commit": False, "enable.auto.offset.store": False}
    consumer = confluent_kafka.Consumer({"bootstrap.servers": broker.bootstrap_servers, **settings, **by_hand})
    both = [partition(topic, 0), partition(topic, 1)]
    try:
        consumer.subscribe([topic])
        everything = [(index, offset) for index in range(2) for offset in range(COUNT)]
        assert polled(consumer, 2 * COUNT) == everything
        assert [place.offset for place in consumer.position(both)] == [COUNT, COUNT]

        consumer.store_offsets(offsets=[partition(topic, 0, 3)])
        consumer.commit(asynchronous=False)
        assert [place.offset for place in consumer.committed(both, DEADLINE_S)] == [3, -1001]

        assert consumer.get_watermark_offsets(both[0], DEADLINE_S) == (0, COUNT)
        assert consumer.get_watermark_offsets(both[0], cached=True) == (0, COUNT)
        wanted = [partition(topic, 0, start_ms + 4_500), partition(topic, 1, start_ms + 3_600_000)]
        assert [place.offset for place in consumer.offsets_for_times(wanted, DEADLINE_S)] == [5, -1]

        consumer.pause([both[0]])
        consumer.seek(partition(topic, 0, COUNT - 1))
        consumer.seek(partition(topic, 1, COUNT - 2))
        assert polled(consumer, 2) == [(1, COUNT - 2), (1, COUNT - 1)]
        consumer.resume([both[0]])
        assert polled(consumer, 1) == [(0, COUNT - 1)]

        client = admin_of(broker)  # its answers die with it
        (described,) = client.describe_consumer_groups([topic], include_authorized_operations=True).values()
        allowed = {operation.name for operation in described.result(DEADLINE_S).authorized_operations}
        assert allowed == {"READ", "DELETE", "DESCRIBE", "DESCRIBE_CONFIGS", "ALTER_CONFIGS"}
    finally:
        consumer.close()


def test_partitions_come_and_go_without_a_group(broker: Broker, topic: str) -> None:
    fill(broker, topic, time.time_ns() // 1_000_000 - 60_000)
    settings = {"group.id": topic, "enable.auto.commit": False, "isolation.level": "read_committed"}
    consumer = confluent_kafka.Consumer({"bootstrap.servers": broker.bootstrap_servers, **settings})
    try:
        consumer.incremental_assign([partition(topic, 0, COUNT - 2)])
        assert polled(consumer, 2) == [(0, COUNT - 2), (0, COUNT - 1)]
        consumer.incremental_assign([partition(topic, 1, confluent_kafka.OFFSET_BEGINNING)])
        assert polled(consumer, COUNT) == [(1, offset) for offset in range(COUNT)]
        consumer.incremental_unassign([partition(topic, 0)])
        assert [place.partition for place in consumer.assignment()] == [1]
    finally:
        consumer.close()
