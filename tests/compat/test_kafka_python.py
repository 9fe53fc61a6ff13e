"""kafka-python, as everyone starts with it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kbroker.testing import Broker

pytestmark = pytest.mark.slow

kafka = pytest.importorskip("kafka", reason="kafka-python is not installed")


def read(broker: Broker, topic: str, count: int, **settings: Any) -> list[Any]:
    """So many records from the beginning of a topic."""
    settings = {"auto_offset_reset": "earliest", "consumer_timeout_ms": 10_000} | settings
    consumer = kafka.KafkaConsumer(topic, bootstrap_servers=broker.bootstrap_servers, **settings)
    found = []
    try:
        for message in consumer:
            found.append(message)
            if len(found) == count:
                break
    finally:
        consumer.close()
    return found


@pytest.mark.parametrize("acks", [0, 1, "all"])
@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
def test_acks_and_compression(broker: Broker, topic: str, acks: Any, compression: str | None) -> None:
    if compression and not getattr(kafka.codec, f"has_{compression}")():
        pytest.skip(f"kafka-python has no {compression} here")
    producer = kafka.KafkaProducer(
        bootstrap_servers=broker.bootstrap_servers,
        acks=acks,
        compression_type=compression,
        linger_ms=20,
        enable_idempotence=acks == "all",
    )
    # It takes no record that has neither.
    sent = [(b"k%d" % i if i % 3 else None, b"v%d" % i * 100 if i % 3 != 1 else None) for i in range(50)]
    for key, value in sent:
        producer.send(topic, key=key, value=value, headers=[("h", b"\x00\xff"), ("n", b"")])
    producer.flush(20)
    producer.close()
    found = read(broker, topic, len(sent))
    assert [(message.key, message.value) for message in found] == sent
    assert [list(message.headers) for message in found] == [[("h", b"\x00\xff"), ("n", b"")]] * len(sent)


def test_what_is_too_large_is_refused(broker: Broker, topic: str) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=broker.bootstrap_servers, max_request_size=4 << 20)
    assert producer.send(topic, b"x" * 900_000).get(20).offset == 0
    with pytest.raises(kafka.errors.MessageSizeTooLargeError):
        producer.send(topic, b"x" * (1 << 21)).get(20)
    producer.close()


def test_offsets_by_time(broker: Broker, topic: str) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    start_ms = time.time_ns() // 1_000_000 - 60_000  # retention would take what is old
    for i in range(10):
        producer.send(topic, b"%d" % i, timestamp_ms=start_ms + i * 10)
    producer.flush(20)
    producer.close()
    partition = kafka.TopicPartition(topic, 0)
    consumer = kafka.KafkaConsumer(bootstrap_servers=broker.bootstrap_servers)
    assert consumer.beginning_offsets([partition]) == {partition: 0}
    assert consumer.end_offsets([partition]) == {partition: 10}
    found = consumer.offsets_for_times({partition: start_ms + 35})[partition]
    assert (found.offset, found.timestamp) == (4, start_ms + 40)
    assert consumer.offsets_for_times({partition: start_ms + 9_999})[partition] is None
    consumer.close()


def test_admin(broker: Broker, topic: str) -> None:
    client = kafka.KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    client.create_topics([kafka.admin.NewTopic(topic, 2, 1, topic_configs={"retention.ms": "7000"})])
    assert topic in client.list_topics()
    (described,) = client.describe_topics([topic])
    assert len(described["partitions"]) == 2
    assert client.list_groups() == []
    assert client.describe_log_dirs()
    with pytest.raises(kafka.errors.TopicAlreadyExistsError):
        client.create_topics([kafka.admin.NewTopic(topic, 2, 1)])
    client.delete_topics([topic])
    assert topic not in client.list_topics()
    client.close()


def test_access_rules_are_said_to_be_off(broker: Broker) -> None:
    client = kafka.KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    resource = kafka.admin.ResourcePatternFilter(
        kafka.admin.ResourceType.ANY, None, kafka.admin.ACLResourcePatternType.ANY
    )
    every = kafka.admin.ACLFilter(None, None, kafka.admin.ACLOperation.ANY, kafka.admin.ACLPermissionType.ANY, resource)
    with pytest.raises(kafka.errors.SecurityDisabledError):
        client.describe_acls(every)
    client.close()
