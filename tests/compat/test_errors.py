"""What the broker refuses, as each client's user sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import aiokafka
import confluent_kafka
import kafka
import pytest

from kbroker.testing import Broker

from .clients import CLIENTS, DEADLINE_S, Record, create_topic

pytestmark = pytest.mark.slow

NOWHERE = 1_000


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker({"auto.create.topics.enable": "false"}, workers=2) as running:
        yield running


@pytest.fixture
def short(broker: Broker, topic: str) -> str:
    """A topic with one record."""
    create_topic(broker, topic)
    CLIENTS[-1].write(broker, topic, [Record(b"k", b"v", timestamp_ms=time.time_ns() // 1_000_000)])
    return topic


def test_confluent_kafka_asks_for_an_offset_that_is_not_there(broker: Broker, short: str) -> None:
    settings = {"group.id": "nobody", "auto.offset.reset": "error", "enable.auto.commit": False}
    consumer = confluent_kafka.Consumer({"bootstrap.servers": broker.bootstrap_servers, **settings})
    consumer.assign([confluent_kafka.TopicPartition(short, 0, NOWHERE)])
    message: Any = consumer.poll(DEADLINE_S)
    assert "Offset out of range" in message.error().str()
    consumer.close()


def test_kafka_python_asks_for_an_offset_that_is_not_there(broker: Broker, short: str) -> None:
    consumer = kafka.KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="none")
    partition = kafka.TopicPartition(short, 0)
    consumer.assign([partition])
    consumer.seek(partition, NOWHERE)
    with pytest.raises(kafka.errors.OffsetOutOfRangeError):
        consumer.poll(DEADLINE_S * 1000)
    consumer.close()


def test_aiokafka_asks_for_an_offset_that_is_not_there(broker: Broker, short: str) -> None:
    async def ask() -> None:
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="none")
        await consumer.start()
        try:
            partition = aiokafka.TopicPartition(short, 0)
            consumer.assign([partition])
            consumer.seek(partition, NOWHERE)
            async with asyncio.timeout(DEADLINE_S):
                await consumer.getone()
        finally:
            await consumer.stop()

    with pytest.raises(aiokafka.errors.OffsetOutOfRangeError):
        asyncio.run(ask())


def test_confluent_kafka_writes_to_a_topic_that_is_not_there(broker: Broker, topic: str) -> None:
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": broker.bootstrap_servers, "topic.metadata.propagation.max.ms": 1_000}
    )
    told: list[Any] = []
    producer.produce(topic, b"v", on_delivery=lambda error, _: told.append(error))
    assert producer.flush(DEADLINE_S) == 0
    assert told[0].name() in ("_UNKNOWN_TOPIC", "UNKNOWN_TOPIC_OR_PART")


def test_kafka_python_writes_to_a_topic_that_is_not_there(broker: Broker, topic: str) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=broker.bootstrap_servers, max_block_ms=1_500)
    with pytest.raises(kafka.errors.KafkaError):
        producer.send(topic, b"v").get(DEADLINE_S)
    producer.close()


def test_a_topic_is_gone_while_a_consumer_reads(broker: Broker, short: str) -> None:
    admin = kafka.KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    consumer = kafka.KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
    consumer.assign([kafka.TopicPartition(short, 0)])
    assert len(consumer.poll(DEADLINE_S * 1000)) == 1
    admin.delete_topics([short])
    assert consumer.poll(500) == {}
    # Its successor has another id, and begins anew.
    create_topic(broker, short)
    CLIENTS[-1].write(broker, short, [Record(b"new", b"new", timestamp_ms=time.time_ns() // 1_000_000)])
    consumer.seek_to_beginning()
    deadline = time.monotonic() + DEADLINE_S
    found: list[Any] = []
    while not found and time.monotonic() < deadline:
        found = [message for messages in consumer.poll(500).values() for message in messages]
    assert [message.value for message in found] == [b"new"]
    consumer.close()
    admin.close()
