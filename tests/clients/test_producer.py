"""Producer against a broker."""

from __future__ import annotations

import dataclasses
import random
import threading
from typing import Any

import pytest

from kbroker import Admin, Consumer, Producer, TopicPartition
from kbroker.clients.records import RecordMetadata
from kbroker.errors import (
    BufferFull,
    ClientClosed,
    ConfigError,
    InvalidTopic,
    MessageTooLarge,
    RequestTimedOut,
    UnknownTopicOrPartition,
)
from kbroker.testing import Broker
from tests.clients.conftest import make_topic


def read_all(broker: Broker, topic: str, count: int) -> list[Any]:
    found: list[Any] = []
    with Consumer(topic, server=broker.server, auto_offset_reset="earliest") as consumer:
        while len(found) < count:
            records = consumer.poll(10_000)
            assert records, f"only {len(found)} of {count} came"
            for several in records.values():
                found += several
    return found


@pytest.mark.parametrize("acks", [0, 1, "all"])
@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
def test_what_is_sent_is_read(broker: Broker, topic: str, acks: int | str, compression: str | None) -> None:
    with Producer(broker.server, acks=acks, compression_type=compression) as producer:
        futures = [
            producer.send(topic, b"value %d" % n, key=b"k", headers=[("n", b"%d" % n), ("none", None)], timestamp_ms=n)
            for n in range(100)
        ]
        producer.flush(30)
        assert all(future.succeeded() for future in futures)
    records = read_all(broker, topic, 100)
    assert [record.value for record in records] == [b"value %d" % n for n in range(100)]
    assert records[7].headers == [("n", b"7"), ("none", None)]
    assert [record.timestamp for record in records] == list(range(100))
    expected = [-1] * 100 if acks == 0 else list(range(100))
    assert [future.get(0).offset for future in futures] == expected


def test_null_and_empty_are_different(broker: Broker, topic: str) -> None:
    with Producer(broker.server) as producer:
        producer.send(topic, None, key=b"")
        producer.send(topic, b"", key=None)
    first, second = read_all(broker, topic, 2)
    assert (first.key, first.value) == (b"", None)
    assert (second.key, second.value) == (None, b"")


def test_get_does_not_wait_for_linger(broker: Broker, topic: str) -> None:
    with Producer(broker.server, linger_ms=3_600_000) as producer:
        assert producer.send(topic, b"x", timestamp_ms=5).get(30) == RecordMetadata(topic, 0, 0, 5)


def test_keys_stick_to_partitions_and_others_are_spread(broker: Broker) -> None:
    topic = make_topic(broker, 4)
    with Producer(broker.server, linger_ms=0) as producer:
        by_key = {
            key: {producer.send(topic, b"v", key=key).get(30).partition for _ in range(3)} for key in (b"a", b"b", b"c")
        }
        assert all(len(partitions) == 1 for partitions in by_key.values())
        assert len({producer.send(topic, b"v").get(30).partition for _ in range(50)}) > 1
        assert producer.send(topic, b"v", partition=3).get(30).partition == 3


def test_serializers_and_an_own_partitioner(broker: Broker) -> None:
    topic = make_topic(broker, 3)
    with Producer(
        broker.server,
        key_serializer=str.encode,
        value_serializer=lambda value: str(value).encode(),
        partitioner=lambda _key, everywhere, _owned: everywhere[-1],
    ) as producer:
        assert producer.send(topic, 42, key="k").get(30).partition == 2
    (record,) = read_all(broker, topic, 1)
    assert (record.key, record.value) == (b"k", b"42")


def test_callbacks_come_from_the_producers_thread(broker: Broker, topic: str) -> None:
    called = threading.Event()
    seen: list[Any] = []

    def note(*facts: Any) -> None:
        seen.append((threading.current_thread().name, *facts))
        called.set()

    with Producer(broker.server) as producer:
        future = producer.send(topic, b"x").add_callback(note, "own").add_errback(note)
        future.get(30)
        assert called.wait(30)
        called.clear()
        future.add_callback(note)
        assert called.wait(30)
    assert [(name, facts[-1].offset) for name, *facts in seen] == [("kbroker-producer", 0)] * 2
    assert seen[0][1] == "own"


def test_a_callback_that_fails_harms_nobody(broker: Broker, topic: str) -> None:
    with Producer(broker.server) as producer:
        producer.send(topic, b"x").add_callback(lambda _: 1 / 0)
        assert producer.send(topic, b"y").get(30).topic == topic


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"value": "text"}, "value must be bytes"),
        ({"value": b"", "key": 5}, "key must be bytes"),
        ({"value": b"", "headers": [("a", "b")]}, "headers must be"),
        ({"value": b"", "headers": 5}, "headers must be"),
        ({"value": b"", "partition": 9}, "partition=9"),
        ({"value": b"", "timestamp_ms": -1}, "timestamp_ms=-1"),
    ],
)
def test_wrong_arguments_of_send(broker: Broker, topic: str, arguments: dict[str, Any], words: str) -> None:
    with Producer(broker.server) as producer, pytest.raises(ConfigError, match=words):
        producer.send(topic, **arguments)


def test_a_record_that_is_too_large(broker: Broker, topic: str) -> None:
    with Producer(broker.server) as producer:
        with pytest.raises(MessageTooLarge, match="max_request_size"):
            producer.send(topic, b"x" * 1_048_576)
        assert producer.send(topic, b"x" * 1_048_000).get(30).offset == 0
    with Producer(broker.server, max_request_size=10 << 20) as producer:
        with pytest.raises(MessageTooLarge, match=r"message\.max\.bytes"):
            producer.send(topic, b"x" * (2 << 20)).get(30)
        # The gap that it left among the sequences is closed.
        assert [producer.send(topic, b"y").get(30).offset for _ in range(3)] == [1, 2, 3]


def test_an_invalid_topic(broker: Broker) -> None:
    with Producer(broker.server) as producer:
        with pytest.raises(InvalidTopic):
            producer.send("no spaces", b"x")
        with pytest.raises(ConfigError, match="topic"):
            producer.send("", b"x")


def test_an_unknown_topic_is_made_unless_the_broker_does_not() -> None:
    with (
        Broker({"auto.create.topics.enable": False}) as broker,
        Producer(broker.server) as producer,
        pytest.raises(UnknownTopicOrPartition, match="absent"),
    ):
        producer.send("absent", b"x")


@pytest.mark.slow
def test_full_buffer_while_the_broker_is_away(topic: str) -> None:
    with Broker() as broker:
        producer = Producer(broker.server, buffer_memory=100_000, linger_ms=0)
        producer.send(topic, b"x").get(30)
        producer.options = dataclasses.replace(producer.options, max_block_ms=50)
        broker.stop()
        while producer.metrics()["buffer_bytes_free"] > 0:
            producer.send(topic, b"x" * 1000)
        with pytest.raises(BufferFull, match="buffer_memory=100000"):
            producer.send(topic, b"x" * 1000)
        waiting = producer.metrics()
        assert waiting["buffer_bytes_free"] <= 0
        with pytest.raises(RequestTimedOut, match="records are not acknowledged"):
            producer.flush(0.01)
        broker.start()
        producer.flush(60)
        assert producer.metrics()["buffer_bytes_free"] == 100_000
        assert producer.metrics()["records_failed"] == 0
        producer.close()


@pytest.mark.slow
def test_delivery_time_out(topic: str) -> None:
    with Broker() as broker:
        producer = Producer(broker.server, delivery_timeout_ms=200)
        producer.send(topic, b"x").get(30)
        broker.stop()
        future = producer.send(topic, b"y")
        with pytest.raises(RequestTimedOut, match="delivery_timeout_ms=200"):
            future.get(30)
        assert future.failed()
        producer.close()


def test_after_close(broker: Broker, topic: str) -> None:
    producer = Producer(broker.server)
    future = producer.send(topic, b"x")
    producer.close()
    producer.close()
    assert future.get(0).offset == 0
    with pytest.raises(ClientClosed):
        producer.send(topic, b"x")


@pytest.mark.slow
def test_close_gives_up_what_cannot_be_sent(topic: str) -> None:
    with Broker() as broker:
        producer = Producer(broker.server)
        producer.send(topic, b"x").get(30)
        broker.stop()
        future = producer.send(topic, b"y")
        producer.close(timeout=0.05)
        with pytest.raises(ClientClosed):
            future.get(0)


def test_many_threads(broker: Broker) -> None:
    topic = make_topic(broker, 3)
    with Producer(broker.server) as producer:

        def work(number: int) -> None:
            for n in range(500):
                producer.send(topic, b"%d" % n, key=b"%d" % number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    by_key: dict[bytes, list[int]] = {}
    for record in read_all(broker, topic, 2000):
        by_key.setdefault(record.key, []).append(int(record.value))
    assert by_key == {b"%d" % number: list(range(500)) for number in range(4)}


def test_by_tcp_and_without_direct_links(broker: Broker, topic: str) -> None:
    with Producer(broker.tcp_server) as producer:
        producer._cluster.settings.direct = False
        assert [producer.send(topic, b"x" * 100_000).get(30).offset for _ in range(3)] == [0, 1, 2]


def test_metrics_count(broker: Broker, topic: str) -> None:
    with Producer(broker.server) as producer:
        for _ in range(10):
            producer.send(topic, b"x")
        producer.flush()
        counts = producer.metrics()
        assert (counts["records_sent"], counts["records_failed"]) == (10, 0)
        assert counts["buffer_bytes_free"] == counts["buffer_bytes_total"]
        assert producer.partitions_for(topic) == {TopicPartition(topic, 0).partition}


def test_batches_are_no_larger_than_their_topic_takes(broker: Broker) -> None:
    topic = make_topic(broker, 1, max_message_bytes=20_000)
    with Producer(broker.server, linger_ms=1000) as producer:
        futures = [producer.send(topic, b"x" * 1000) for _ in range(100)]
        producer.flush(30)
        assert all(future.succeeded() for future in futures)
        assert producer.metrics()["batches_sent"] > 5


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_batches_that_a_lowered_limit_refuses_go_in_halves(
    broker: Broker, idempotent: bool, compression: str | None
) -> None:
    topic = make_topic(broker, 1)
    called: list[int] = []
    with Producer(
        broker.server, linger_ms=60_000, enable_idempotence=idempotent, compression_type=compression
    ) as producer:
        producer.send(topic, b"first").get(30)
        with Admin(broker.server) as admin:
            admin.alter_configs(topic, {"max.message.bytes": 3_000})
        futures = []
        for number in range(100):
            value = random.Random(number).randbytes(4_000 if number == 61 else 200)
            futures.append(producer.send(topic, value, key=b"%d" % number))
            futures[-1].add_callback(lambda metadata: called.append(metadata.offset))
        producer.flush(30)
        assert [number for number, future in enumerate(futures) if not future.succeeded()] == [61]
        assert isinstance(futures[61].exception, MessageTooLarge)
        assert "message.max.bytes allows 3000" in str(futures[61].exception)
        metrics = producer.metrics()
    found = [(record.offset, record.key) for record in read_all(broker, topic, 100)][1:]
    told = [(futures[n].get(0).offset, b"%d" % n) for n in range(100) if n != 61]
    # Without idempotence what is sent again may come after what followed it, as with any retry.
    assert found == (told if idempotent else sorted(told))
    assert sorted(called) == [offset for offset, _ in found]
    assert (metrics["records_sent"], metrics["records_failed"]) == (100, 1)
