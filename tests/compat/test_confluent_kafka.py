"""confluent-kafka (librdkafka)."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kbroker.testing import Broker

pytestmark = pytest.mark.slow

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
admin = pytest.importorskip("confluent_kafka.admin")

DEADLINE_S = 20


def admin_of(broker: Broker) -> Any:
    return admin.AdminClient({"bootstrap.servers": broker.bootstrap_servers})


def create(broker: Broker, topic: str, partitions: int = 1, **config: str) -> None:
    new = admin.NewTopic(topic, partitions, 1, config={name.replace("_", "."): text for name, text in config.items()})
    client = admin_of(broker)  # its answers die with it
    client.create_topics([new])[topic].result(DEADLINE_S)


def produce(broker: Broker, topic: str, records: list[tuple[Any, Any]], **settings: Any) -> None:
    names = {name.replace("_", "."): value for name, value in settings.items()}
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 5, **names})
    failed: list[Any] = []
    for key, value in records:
        producer.produce(
            topic,
            key=key,
            value=value,
            partition=0,
            headers=[("h", b"\x00\xff"), ("none", None)],
            on_delivery=lambda error, _message: failed.append(error) if error else None,
        )
    assert producer.flush(DEADLINE_S) == 0
    assert failed == []


def consume(broker: Broker, topic: str, count: int, partitions: int = 1) -> list[Any]:
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "nobody",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 1,
        }
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, index, 0) for index in range(partitions)])
    found: list[Any] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None:
            assert message.error() is None, message.error()
            found.append(message)
    consumer.close()
    return found


@pytest.mark.parametrize("acks", ["0", "1", "all"])
@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_acks_and_compression(broker: Broker, topic: str, acks: str, compression: str) -> None:
    sent = [(b"k%d" % i if i % 3 else None, b"v%d" % i * 100 if i % 5 else None) for i in range(50)]
    create(broker, topic)
    produce(broker, topic, sent, acks=acks, compression_type=compression)
    found = consume(broker, topic, len(sent))
    assert [(message.key(), message.value()) for message in found] == sent
    assert found[0].headers() == [("h", b"\x00\xff"), ("none", None)]


def test_idempotence(broker: Broker, topic: str) -> None:
    create(broker, topic)
    sent = [(None, b"%d" % i) for i in range(500)]
    produce(broker, topic, sent, enable_idempotence=True, batch_num_messages=20)
    assert [message.value() for message in consume(broker, topic, 500)] == [value for _, value in sent]


def test_sizes(broker: Broker, topic: str) -> None:
    create(broker, topic)
    sent = [(None, b"x" * size) for size in (1, 100, 65_536, 900_000)]
    produce(broker, topic, sent)
    assert [len(message.value()) for message in consume(broker, topic, 4)] == [1, 100, 65_536, 900_000]
    with pytest.raises(AssertionError, match="MSG_SIZE_TOO_LARGE"):
        produce(broker, topic, [(None, b"x" * 2_000_000)], message_max_bytes=4_000_000)


def test_admin(broker: Broker, topic: str) -> None:
    client = admin_of(broker)
    create(broker, topic, 3, retention_ms="100000")
    listed = client.list_topics(timeout=DEADLINE_S)
    assert {p.leader for p in listed.topics[topic].partitions.values()} == {1, 2}
    assert sorted(listed.brokers) == [0, 1, 2]
    resource = admin.ConfigResource(admin.ConfigResource.Type.TOPIC, topic)
    described = client.describe_configs([resource])[resource].result(DEADLINE_S)
    assert described["retention.ms"].value == "100000"
    change = admin.ConfigEntry("retention.ms", "5000", incremental_operation=admin.AlterConfigOpType.SET)
    altered = admin.ConfigResource(admin.ConfigResource.Type.TOPIC, topic, incremental_configs=[change])
    client.incremental_alter_configs([altered])[altered].result(DEADLINE_S)
    described = client.describe_configs([resource])[resource].result(DEADLINE_S)
    assert described["retention.ms"].value == "5000"
    client.create_partitions([admin.NewPartitions(topic, 5)])[topic].result(DEADLINE_S)
    assert len(client.list_topics(topic, timeout=DEADLINE_S).topics[topic].partitions) == 5
    assert len(client.describe_cluster().result(DEADLINE_S).nodes) == 3
    with pytest.raises(confluent_kafka.KafkaException, match="TOPIC_ALREADY_EXISTS"):
        create(broker, topic)
    client.delete_topics([topic])[topic].result(DEADLINE_S)
    assert topic not in client.list_topics(timeout=DEADLINE_S).topics
    with pytest.raises(confluent_kafka.KafkaException, match="UNKNOWN_TOPIC_OR_PART"):
        client.delete_topics([topic])[topic].result(DEADLINE_S)


def test_commits_of_a_client_that_is_in_no_group(topic: str) -> None:
    with Broker(workers=1) as broker:
        create(broker, topic, 2)
        place = confluent_kafka.TopicPartition
        settings = {"group.id": "g", "enable.auto.commit": False}
        consumer = confluent_kafka.Consumer({"bootstrap.servers": broker.bootstrap_servers, **settings})
        consumer.commit(offsets=[place(topic, 0, 42, metadata="here")], asynchronous=False)
        consumer.close()
        broker.kill_all()
        broker.start()
        consumer = confluent_kafka.Consumer({"bootstrap.servers": broker.bootstrap_servers, **settings})
        found = consumer.committed([place(topic, 0), place(topic, 1)], timeout=DEADLINE_S)
        assert [(item.offset, item.metadata) for item in found] == [
            (42, "here"),
            (confluent_kafka.OFFSET_INVALID, None),
        ]
        started = time.monotonic()
        consumer.close()
        assert time.monotonic() - started < 5
