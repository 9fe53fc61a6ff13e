"""The Python clients, each behind the same two functions: records in, records out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import aiokafka
import confluent_kafka
import kafka

from kbroker import Admin, Consumer, Producer
from kbroker.testing import Broker

DEADLINE_S = 30


class Record(NamedTuple):
    """What producers are given and consumers give. The timestamp is in ms since 1970."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_ms: int = 0


def create_topic(broker: Broker, topic: str, partitions: int = 1, **settings: object) -> None:
    """Make a topic; its settings by Kafka's names with `_` for `.`."""
    with Admin(broker.server) as admin:
        admin.create_topic(topic, partitions, **{name.replace("_", "."): text for name, text in settings.items()})


class Client:
    """A library that writes to and reads from partition 0 of a topic. `settings` have the library's own names."""

    name: str
    takes_nulls = True
    """Whether it sends a record that has neither key nor value, and a header without a value."""
    too_large: tuple[type[BaseException], str]
    """What it raises when the broker says MESSAGE_TOO_LARGE, and a word of it."""

    def large(self, size_bytes: int) -> dict[str, Any]:
        """The settings of a producer that may send a request of that size."""
        raise NotImplementedError

    def compressed(self, name: str) -> dict[str, Any]:
        """The settings of a producer that compresses so."""
        return {"compression_type": None if name == "none" else name}

    def write(self, broker: Broker, topic: str, records: Sequence[Record], **settings: Any) -> None:
        """Produce the records, in order; returns when all are acknowledged."""
        raise NotImplementedError

    def read(self, broker: Broker, topic: str, count: int) -> list[Record]:
        """Consume so many records from the beginning."""
        raise NotImplementedError

    def offset_at(self, broker: Broker, topic: str, timestamp_ms: int) -> int | None:
        """The first offset whose record is not older; None when all are."""
        raise NotImplementedError


class ConfluentKafka(Client):
    """librdkafka."""

    name = "confluent-kafka"
    too_large = (confluent_kafka.KafkaException, "MSG_SIZE_TOO_LARGE")

    def large(self, size_bytes: int) -> dict[str, Any]:
        return {"message.max.bytes": size_bytes}

    def compressed(self, name: str) -> dict[str, Any]:
        return {"compression.type": name}

    def write(self, broker: Broker, topic: str, records: Sequence[Record], **settings: Any) -> None:
        producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap_servers, **settings})
        failed: list[Any] = []
        for record in records:
            producer.produce(
                topic, partition=0, key=record.key, value=record.value, headers=list(record.headers),
                timestamp=record.timestamp_ms, on_delivery=lambda error, _: failed.append(error) if error else None,
            )  # fmt: skip
        assert producer.flush(DEADLINE_S) == 0
        if failed:
            raise confluent_kafka.KafkaException(failed[0])

    def _consumer(self, broker: Broker) -> Any:
        settings = {"group.id": "nobody", "enable.auto.commit": False, "fetch.queue.backoff.ms": 1}
        return confluent_kafka.Consumer({"bootstrap.servers": broker.bootstrap_servers, **settings})

    def read(self, broker: Broker, topic: str, count: int) -> list[Record]:
        consumer = self._consumer(broker)
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
        found: list[Record] = []
        deadline = time.monotonic() + DEADLINE_S
        while len(found) < count and time.monotonic() < deadline:
            for message in consumer.consume(count - len(found), 0.5):
                assert message.error() is None, message.error()
                headers = tuple(message.headers() or ())
                found.append(Record(message.key(), message.value(), headers, message.timestamp()[1]))
        consumer.close()
        return found

    def offset_at(self, broker: Broker, topic: str, timestamp_ms: int) -> int | None:
        consumer = self._consumer(broker)
        asked = confluent_kafka.TopicPartition(topic, 0, timestamp_ms)
        (found,) = consumer.offsets_for_times([asked], DEADLINE_S)
        consumer.close()
        return None if found.offset == confluent_kafka.OFFSET_END else int(found.offset)


class KafkaPython(Client):
    """kafka-python."""

    name = "kafka-python"
    takes_nulls = False
    too_large = (kafka.errors.MessageSizeTooLargeError, "")

    def large(self, size_bytes: int) -> dict[str, Any]:
        return {"max_request_size": size_bytes}

    def write(self, broker: Broker, topic: str, records: Sequence[Record], **settings: Any) -> None:
        producer = kafka.KafkaProducer(bootstrap_servers=broker.bootstrap_servers, linger_ms=5, **settings)
        try:
            futures = [
                producer.send(
                    topic, partition=0, key=record.key, value=record.value, headers=list(record.headers),
                    timestamp_ms=record.timestamp_ms,
                )
                for record in records
            ]  # fmt: skip
            for future in futures:
                future.get(DEADLINE_S)
        finally:
            producer.close()

    def read(self, broker: Broker, topic: str, count: int) -> list[Record]:
        consumer = kafka.KafkaConsumer(bootstrap_servers=broker.bootstrap_servers)
        partition = kafka.TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        found: list[Record] = []
        deadline = time.monotonic() + DEADLINE_S
        while len(found) < count and time.monotonic() < deadline:
            for messages in consumer.poll(500, max_records=count - len(found)).values():
                found += [Record(m.key, m.value, tuple(m.headers), m.timestamp) for m in messages]
        consumer.close()
        return found

    def offset_at(self, broker: Broker, topic: str, timestamp_ms: int) -> int | None:
        consumer = kafka.KafkaConsumer(bootstrap_servers=broker.bootstrap_servers)
        partition = kafka.TopicPartition(topic, 0)
        found = consumer.offsets_for_times({partition: timestamp_ms})[partition]
        consumer.close()
        return None if found is None else int(found.offset)


class AioKafka(Client):
    """aiokafka."""

    name = "aiokafka"
    takes_nulls = False
    too_large = (aiokafka.errors.MessageSizeTooLargeError, "")

    def large(self, size_bytes: int) -> dict[str, Any]:
        return {"max_request_size": size_bytes}

    def write(self, broker: Broker, topic: str, records: Sequence[Record], **settings: Any) -> None:
        async def write() -> None:
            producer = aiokafka.AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers, linger_ms=5, **settings)
            await producer.start()
            try:
                futures = [
                    await producer.send(
                        topic, partition=0, key=record.key, value=record.value, headers=list(record.headers),
                        timestamp_ms=record.timestamp_ms,
                    )
                    for record in records
                ]  # fmt: skip
                for future in futures:
                    await asyncio.wait_for(future, DEADLINE_S)
            finally:
                await producer.stop()

        asyncio.run(write())

    def read(self, broker: Broker, topic: str, count: int) -> list[Record]:
        async def read() -> list[Record]:
            consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=broker.bootstrap_servers)
            await consumer.start()
            try:
                partition = aiokafka.TopicPartition(topic, 0)
                consumer.assign([partition])
                consumer.seek(partition, 0)
                found: list[Record] = []
                async with asyncio.timeout(DEADLINE_S):
                    while len(found) < count:
                        message = await consumer.getone()
                        found.append(Record(message.key, message.value, tuple(message.headers), message.timestamp))
                return found
            finally:
                await consumer.stop()

        return asyncio.run(read())

    def offset_at(self, broker: Broker, topic: str, timestamp_ms: int) -> int | None:
        async def look() -> int | None:
            consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=broker.bootstrap_servers)
            await consumer.start()
            try:
                partition = aiokafka.TopicPartition(topic, 0)
                found = (await consumer.offsets_for_times({partition: timestamp_ms}))[partition]
                return None if found is None else int(found.offset)
            finally:
                await consumer.stop()

        return asyncio.run(look())


class Native(Client):
    """kbroker's own client. What it reads comes through shared memory."""

    name = "kbroker"

    def write(self, broker: Broker, topic: str, records: Sequence[Record], **settings: Any) -> None:
        with Producer(broker.server, **settings) as producer:
            futures = [
                producer.send(
                    topic, partition=0, key=record.key, value=record.value, headers=list(record.headers),
                    timestamp_ms=record.timestamp_ms,
                )
                for record in records
            ]  # fmt: skip
            for future in futures:
                future.get(DEADLINE_S)

    def read(self, broker: Broker, topic: str, count: int) -> list[Record]:
        found: list[Record] = []
        with Consumer(topic, server=broker.server, auto_offset_reset="earliest") as consumer:
            deadline = time.monotonic() + DEADLINE_S
            while len(found) < count and time.monotonic() < deadline:
                for records in consumer.poll(timeout_ms=500).values():
                    found += [Record(r.key, r.value, tuple(r.headers), r.timestamp) for r in records]
            assert consumer.transport == "shm"
        return found


KAFKA_CLIENTS: tuple[Client, ...] = (ConfluentKafka(), KafkaPython(), AioKafka())
CLIENTS: tuple[Client, ...] = (*KAFKA_CLIENTS, Native())
