"""What real clients rely on without showing it: fetch sessions, leaders, the offsets topic, tools for admins."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kbroker.testing import Broker

pytestmark = pytest.mark.slow

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
admin = pytest.importorskip("confluent_kafka.admin")
kafka = pytest.importorskip("kafka", reason="kafka-python is not installed")

DEADLINE_S = 20


def create(broker: Broker, topic: str, partitions: int) -> Any:
    client = admin.AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    client.create_topics([admin.NewTopic(topic, partitions, 1)])[topic].result(DEADLINE_S)
    return client


def test_many_partitions_in_a_fetch_session(broker: Broker, topic: str) -> None:
    """kafka-python asks in sessions: partitions come and go, one after the other gets a record."""
    create(broker, topic, 40)
    places = [kafka.TopicPartition(topic, index) for index in range(40)]
    producer = kafka.KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
        enable_incremental_fetch_sessions=True,
    )
    consumer.assign(places[:30])

    def read(count: int) -> set[tuple[int, int, bytes]]:
        found: set[tuple[int, int, bytes]] = set()
        deadline = time.monotonic() + DEADLINE_S
        while len(found) < count and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=500).values():
                found |= {(record.partition, record.offset, record.value) for record in records}
        return found

    for turn in range(5):
        for index in range(turn, 40, 5):
            producer.send(topic, b"%d" % turn, partition=index)
        producer.flush(DEADLINE_S)
        assert read(6) == {(index, 0, b"%d" % turn) for index in range(turn, 30, 5)}
    consumer.assign(places[20:])
    consumer.seek_to_beginning()
    assert read(20) == {(index, 0, b"%d" % (index % 5)) for index in range(20, 40)}
    consumer.close()
    producer.close()


def test_a_tool_reads_the_offsets_topic(broker: Broker, topic: str) -> None:
    create(broker, topic, 1)
    place = confluent_kafka.TopicPartition
    settings = {"bootstrap.servers": broker.bootstrap_servers, "group.id": topic, "enable.auto.commit": False}
    consumer = confluent_kafka.Consumer(settings)
    consumer.commit(offsets=[place(topic, 0, 42)], asynchronous=False)
    known = consumer.list_topics("__consumer_offsets", timeout=DEADLINE_S).topics["__consumer_offsets"]
    consumer.assign([place("__consumer_offsets", index, 0) for index in known.partitions])
    keys: list[bytes] = []
    deadline = time.monotonic() + DEADLINE_S
    while not any(topic.encode() in key for key in keys) and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None:
            assert message.error() is None
            keys.append(message.key())
    consumer.close()
    assert any(topic.encode() in key for key in keys)


def test_nobody_writes_the_offsets_topic(broker: Broker) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap_servers, "message.timeout.ms": 10_000})
    failed: list[Any] = []
    producer.produce("__consumer_offsets", b"forged", partition=0, on_delivery=lambda error, _: failed.append(error))
    producer.flush(DEADLINE_S)
    assert [error.code() for error in failed] == [confluent_kafka.KafkaError.TOPIC_EXCEPTION]


def test_transactions_are_refused_at_once(broker: Broker) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap_servers, "transactional.id": "t"})
    started = time.monotonic()
    with pytest.raises(confluent_kafka.KafkaException):
        producer.init_transactions(15)
    assert time.monotonic() - started < 10, "a clear code, not a time-out"


def test_admin_of_replicas(broker: Broker, topic: str) -> None:
    client = create(broker, topic, 2)
    places = [confluent_kafka.TopicPartition(topic, index) for index in range(2)]
    found = client.elect_leaders(confluent_kafka.ElectionType.PREFERRED, places).result(DEADLINE_S)
    codes = {place.partition: error.code() for place, error in found.items()}
    assert codes == dict.fromkeys(range(2), confluent_kafka.KafkaError.ELECTION_NOT_NEEDED)
