"""Consumer against a broker, both ways to read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from kbroker import Admin, Consumer, Producer, TopicPartition
from kbroker.clients.records import NewTopic
from kbroker.errors import (
    BrokerUnavailable,
    ClientClosed,
    ConfigError,
    DeserializationError,
    LogTruncated,
    OffsetOutOfRange,
    UnknownTopicOrPartition,
)
from kbroker.testing import Broker
from tests.clients.conftest import make_topic

WAYS = pytest.mark.parametrize("way", ["shm", "zmq"])
PATIENCE_MS = 30_000


def fill(broker: Broker, topic: str, count: int, start: int = 0, **options: Any) -> None:
    with Producer(broker.server, **options) as producer:
        for n in range(start, start + count):
            producer.send(topic, b"%d" % n, key=b"%d" % (n % 7), timestamp_ms=1000 + n)
        producer.flush(30)


def read(consumer: Consumer, count: int, **options: Any) -> list[int]:
    values: list[int] = []
    while len(values) < count:
        records = consumer.poll(PATIENCE_MS, **options)
        assert records, f"only {len(values)} of {count} came"
        for several in records.values():
            values += [int(record.value) for record in several]
    return values


class TestReading:
    @WAYS
    def test_from_the_end_by_default(self, broker: Broker, topic: str, way: str) -> None:
        fill(broker, topic, 10)
        with Consumer(topic, server=broker.server, transport=way) as consumer:
            assert consumer.transport == way
            fill(broker, topic, 10, start=10)
            assert read(consumer, 10) == list(range(10, 20))
            assert consumer.poll(0) == {}

    @WAYS
    def test_all_partitions_from_the_beginning(self, broker: Broker, way: str) -> None:
        topic = make_topic(broker, 5)
        fill(broker, topic, 1000)
        with Consumer(topic, server=broker.server, transport=way, auto_offset_reset="earliest") as consumer:
            assert sorted(read(consumer, 1000)) == list(range(1000))
            assert consumer.assignment() == {TopicPartition(topic, n) for n in range(5)}
            assert consumer.end_offsets(consumer.assignment()) == {
                tp: consumer.position(tp) for tp in consumer.assignment()
            }

    @WAYS
    def test_records_in_full(self, broker: Broker, topic: str, way: str) -> None:
        with Producer(broker.server, compression_type="zstd") as producer:
            producer.send(topic, b"v", key=b"k", headers=[("h", b"1")], timestamp_ms=77)
        with Consumer(
            topic,
            server=broker.server,
            transport=way,
            auto_offset_reset="earliest",
            key_deserializer=lambda key: (key or b"").decode(),
            value_deserializer=len,
        ) as consumer:
            ((record,),) = consumer.poll(PATIENCE_MS).values()
        assert (record.topic, record.partition, record.offset) == (topic, 0, 0)
        assert (record.key, record.value, record.headers) == ("k", 1, [("h", b"1")])
        assert (record.timestamp, record.timestamp_type) == (77, 0)
        assert record.leader_epoch >= 0
        assert record.topic_partition == TopicPartition(topic, 0)

    @WAYS
    def test_poll_in_parts_and_iteration_and_batches_take_turns(self, broker: Broker, topic: str, way: str) -> None:
        fill(broker, topic, 100)
        with Consumer(topic, server=broker.server, transport=way, auto_offset_reset="earliest") as consumer:
            values = read(consumer, 10, max_records=10)
            for record in consumer:
                values.append(int(record.value))
                if len(values) == 30:
                    break
            assert consumer.position(TopicPartition(topic, 0)) == 30
            values += read(consumer, 5, max_records=5)
            for record in consumer:
                values.append(int(record.value))
                if len(values) == 50:
                    break
            (batch,) = consumer.poll_batches(PATIENCE_MS)
            assert (batch.base_offset, batch.first_offset, batch.next_offset, batch.record_count) == (0, 50, 100, 100)
            assert batch.size_bytes == len(batch.data)
            assert len(list(batch.raw())) == 100
            values += [int(record.value) for record in batch]
            assert values == list(range(100))
            assert consumer.position(TopicPartition(topic, 0)) == 100

    @WAYS
    def test_iteration_ends_when_nothing_comes(self, broker: Broker, topic: str, way: str) -> None:
        fill(broker, topic, 10)
        with Consumer(
            topic, server=broker.server, transport=way, auto_offset_reset="earliest", consumer_timeout_ms=100
        ) as consumer:
            assert [int(record.value) for record in consumer] == list(range(10))
            assert list(consumer) == []

    @WAYS
    def test_a_sleeping_consumer_is_woken(self, broker: Broker, topic: str, way: str) -> None:
        with (
            Consumer(topic, server=broker.server, transport=way, fetch_max_wait_ms=600_000) as consumer,
            Producer(broker.server, linger_ms=0) as producer,
        ):
            for n in range(20):
                producer.send(topic, b"%d" % n)
                assert read(consumer, 1) == [n]

    @WAYS
    def test_large_records_and_small_limits(self, broker: Broker, topic: str, way: str) -> None:
        with Producer(broker.server) as producer:
            for n in range(5):
                producer.send(topic, b"%d" % n * 500_000)
        with Consumer(
            topic, server=broker.server, transport=way, auto_offset_reset="earliest", max_partition_fetch_bytes=1024
        ) as consumer:
            values: list[bytes] = []
            while len(values) < 5:
                for several in consumer.poll(PATIENCE_MS).values():
                    values += [record.value for record in several]
            assert values == [b"%d" % n * 500_000 for n in range(5)]

    def test_the_way_can_change_at_any_record(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 5000, batch_size=500)
        with Consumer(
            topic, server=broker.server, auto_offset_reset="earliest", max_partition_fetch_bytes=1024
        ) as consumer:
            shm = consumer._reader._shm
            assert shm is not None
            values: list[int] = []
            while len(values) < 5000:
                for worker in shm._workers.values():
                    worker.hindrance = "" if worker.hindrance else "the test says so"
                values += read(consumer, 1, max_records=37)
            assert values == list(range(5000))


class TestPlaces:
    @WAYS
    def test_seek(self, broker: Broker, topic: str, way: str) -> None:
        fill(broker, topic, 100)
        tp = TopicPartition(topic, 0)
        with Consumer(topic, server=broker.server, transport=way) as consumer:
            consumer.seek(tp, 42)
            assert read(consumer, 58) == list(range(42, 100))
            consumer.seek_to_beginning(tp)
            assert read(consumer, 3, max_records=3) == [0, 1, 2]
            consumer.seek_to_end()
            assert consumer.position(tp) == 100
            assert consumer.poll(0) == {}
            consumer.seek(tp, 99)
            assert read(consumer, 1) == [99]

    def test_a_seek_inside_a_loop(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 50)
        seen = []
        with Consumer(topic, server=broker.server, auto_offset_reset="earliest") as consumer:
            for record in consumer:
                seen.append(record.offset)
                if record.offset == 5:
                    consumer.seek(TopicPartition(topic, 0), 48)
                if record.offset == 49:
                    break
        assert seen == [0, 1, 2, 3, 4, 5, 48, 49]

    def test_times(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 100)
        tp = TopicPartition(topic, 0)
        with Consumer(server=broker.server) as consumer:
            found = consumer.offsets_for_times({tp: 1050})[tp]
            assert found is not None
            assert (found.offset, found.timestamp) == (50, 1050)
            assert consumer.offsets_for_times({tp: 5000}) == {tp: None}
            assert consumer.beginning_offsets([tp]) == {tp: 0}
            assert consumer.end_offsets([tp]) == {tp: 100}

    @WAYS
    def test_seek_to_a_timestamp(self, broker: Broker, topic: str, way: str) -> None:
        fill(broker, topic, 100)
        with Consumer(topic, server=broker.server, transport=way) as consumer:
            consumer.seek_to_timestamp(1097)
            assert read(consumer, 3) == [97, 98, 99]
            consumer.seek_to_timestamp(5000, TopicPartition(topic, 0))
            assert consumer.position(TopicPartition(topic, 0)) == 100
            with pytest.raises(ConfigError, match="timestamp_ms"):
                consumer.seek_to_timestamp(-5)

    @WAYS
    def test_pause_and_resume(self, broker: Broker, way: str) -> None:
        topic = make_topic(broker, 2)
        one, two = TopicPartition(topic, 0), TopicPartition(topic, 1)
        with Producer(broker.server) as producer:
            for n in range(100):
                producer.send(topic, b"%d" % n, partition=n % 2)
        with Consumer(topic, server=broker.server, transport=way, auto_offset_reset="earliest") as consumer:
            consumer.pause(one)
            assert consumer.paused() == {one}
            assert read(consumer, 50) == list(range(1, 100, 2))
            assert consumer.poll(0) == {}
            consumer.resume(one)
            consumer.pause(two)
            assert read(consumer, 50) == list(range(0, 100, 2))

    def test_assign(self, broker: Broker) -> None:
        topic = make_topic(broker, 3)
        with Producer(broker.server) as producer:
            for n in range(30):
                producer.send(topic, b"%d" % n, partition=n % 3)
        with Consumer(server=broker.server, auto_offset_reset="earliest") as consumer:
            consumer.assign([TopicPartition(topic, 1)])
            assert read(consumer, 10) == list(range(1, 30, 3))
            consumer.assign([TopicPartition(topic, 1), TopicPartition(topic, 2)])
            assert read(consumer, 10) == list(range(2, 30, 3))
            consumer.assign([])
            assert consumer.assignment() == set()
            assert consumer.poll(0) == {}

    @WAYS
    def test_out_of_range(self, broker: Broker, topic: str, way: str) -> None:
        fill(broker, topic, 10)
        tp = TopicPartition(topic, 0)
        with Consumer(topic, server=broker.server, transport=way, auto_offset_reset="earliest") as consumer:
            consumer.seek(tp, 10_000)
            assert read(consumer, 10) == list(range(10))
        with Consumer(topic, server=broker.server, transport=way, auto_offset_reset="latest") as consumer:
            consumer.seek(tp, 10_000)
            while consumer.position(tp) != 10:
                assert consumer.poll(10) == {}
        with Consumer(server=broker.server, transport=way, auto_offset_reset="none") as consumer:
            consumer.assign([tp])
            with pytest.raises(OffsetOutOfRange, match="seek first"):
                consumer.poll(1000)
            consumer.seek(tp, 10_000)
            with pytest.raises(OffsetOutOfRange, match="10000"):
                consumer.poll(PATIENCE_MS)
            consumer.seek(tp, 8)
            assert read(consumer, 2) == [8, 9]

    @WAYS
    def test_an_error_in_one_partition_loses_nothing_of_another(self, broker: Broker, way: str) -> None:
        topic = make_topic(broker, 2)
        good, bad = TopicPartition(topic, 0), TopicPartition(topic, 1)
        with Producer(broker.server) as producer:
            for tp, value in ((good, b"0"), (bad, b"bad"), (good, b"1")):
                producer.send(topic, value, partition=tp.partition)
        with Consumer(
            topic,
            server=broker.server,
            transport=way,
            auto_offset_reset="earliest",
            value_deserializer=lambda value: int(value or b""),
        ) as consumer:
            found: list[int] = []

            def read_on() -> None:
                while len(found) < 3:
                    found.extend(record.value for record in consumer.poll(PATIENCE_MS).get(good, ()))

            with pytest.raises(DeserializationError, match="bad"):
                read_on()
            assert consumer.position(good) == len(found)
            assert consumer.position(bad) == 0
            consumer.pause(bad)
            assert found + read(consumer, 2 - len(found)) == [0, 1]


class TestTopics:
    def test_what_there_is(self, broker: Broker) -> None:
        topic = make_topic(broker, 3)
        with Consumer(server=broker.server) as consumer:
            assert consumer.partitions_for_topic(topic) == {0, 1, 2}
            assert consumer.partitions_for_topic("absent") is None
            assert topic in consumer.topics()
            assert consumer.subscription() == set()

    def test_unknown_ones(self, broker: Broker, topic: str) -> None:
        with Consumer(server=broker.server) as consumer:
            with pytest.raises(UnknownTopicOrPartition, match="absent"):
                consumer.assign([TopicPartition("absent", 0)])
            with pytest.raises(UnknownTopicOrPartition, match="there is no 5"):
                consumer.assign([TopicPartition(topic, 5)])
            with pytest.raises(UnknownTopicOrPartition, match="absent"):
                consumer.end_offsets([TopicPartition("absent", 0)])
            with pytest.raises(ConfigError, match="not assigned"):
                consumer.seek(TopicPartition(topic, 0), 0)
            with pytest.raises(ConfigError, match="TopicPartition"):
                consumer.assign([topic])  # type: ignore[list-item]  # that is the mistake

    @WAYS
    def test_a_topic_and_partitions_that_come_later_are_read_from_their_start(self, broker: Broker, way: str) -> None:
        topic = f"later-{way}"
        with (
            Consumer(topic, server=broker.server, transport=way, metadata_max_age_ms=50) as consumer,
            Admin(broker.server) as admin,
        ):
            assert consumer.poll(0) == {}
            admin.create_topics([NewTopic(topic, 1)])
            fill(broker, topic, 10)
            assert read(consumer, 10) == list(range(10))
            admin.create_partitions({topic: 2})
            with Producer(broker.server) as producer:
                producer.send(topic, b"10", partition=1)
            assert read(consumer, 1) == [10]

    @WAYS
    def test_a_topic_made_again_is_read_from_its_start(self, broker: Broker, way: str) -> None:
        topic = make_topic(broker, 1)
        with (
            Consumer(topic, server=broker.server, transport=way, auto_offset_reset="earliest") as consumer,
            Admin(broker.server) as admin,
        ):
            fill(broker, topic, 10)
            assert read(consumer, 10) == list(range(10))
            admin.delete_topics([topic])
            assert consumer.poll(50) == {}
            admin.create_topics([NewTopic(topic, 1)])
            fill(broker, topic, 5, start=100)
            assert read(consumer, 5) == list(range(100, 105))

    def test_after_close(self, broker: Broker, topic: str) -> None:
        consumer = Consumer(topic, server=broker.server)
        consumer.close()
        consumer.close()
        for call in (consumer.poll, consumer.poll_batches, consumer.topics, lambda: next(iter(consumer))):
            with pytest.raises(ClientClosed):
                call()

    def test_why_not_shared_memory(self, topic: str, broker: Broker) -> None:
        with Consumer(topic, server=broker.server, transport="zmq") as consumer:
            assert "asked for" in consumer.transport_reason
        with Consumer(topic, server=broker.tcp_server) as consumer:
            assert (consumer.transport, consumer.transport_reason) == ("shm", "")
        with Broker({"shm.enable": False}) as without:
            make_topic(without, 1)
            fill(without, "t", 10)
            with Consumer("t", server=without.server, auto_offset_reset="earliest") as consumer:
                assert consumer.transport == "zmq"
                assert "shm.enable" in consumer.transport_reason
                assert read(consumer, 10) == list(range(10))


@pytest.mark.slow
class TestBrokerAway:
    @WAYS
    def test_poll_waits_for_it_and_goes_on(self, way: str) -> None:
        with Broker(workers=2) as broker:
            topic = make_topic(broker, 2)
            fill(broker, topic, 100)
            with Consumer(topic, server=broker.server, transport=way, auto_offset_reset="earliest") as consumer:
                values = read(consumer, 100)
                broker.stop()
                assert consumer.poll(50) == {}
                broker.start()
                fill(broker, topic, 100, start=100)
                values += read(consumer, 100)
                assert sorted(values) == list(range(200))
                broker.stop()
            with pytest.raises(BrokerUnavailable, match=r"front\.ipc"):
                Consumer(topic, server=broker.server, api_timeout_ms=100)

    @WAYS
    @pytest.mark.parametrize("victim", ["worker-0", "front", "coordinator"])
    def test_kill_9_loses_and_doubles_nothing(self, way: str, victim: str) -> None:
        with Broker(workers=1) as broker:
            topic = make_topic(broker, 2)
            sent = 0
            values: list[int] = []
            with (
                Producer(broker.server, linger_ms=1, batch_size=500) as producer,
                Consumer(topic, server=broker.server, transport=way, auto_offset_reset="earliest") as consumer,
            ):
                futures = []
                for _ in range(3):
                    for _ in range(2000):
                        futures.append(producer.send(topic, b"%d" % sent, key=b"%d" % (sent % 10)))
                        sent += 1
                        if sent % 2000 == 1000:
                            broker.kill(victim)
                    values += read(consumer, 500)
                producer.flush(60)
                values += read(consumer, sent - len(values))
                assert consumer.poll(0) == {}
            assert all(future.succeeded() for future in futures)
            assert sorted(values) == list(range(sent))
            for key in range(10):
                of_key = [value for value in values if value % 10 == key]
                assert of_key == sorted(of_key)


@pytest.mark.slow
class TestTruncation:
    @WAYS
    @pytest.mark.parametrize("more", [0, 200])
    def test_records_that_vanished_behind_the_consumer_are_told(self, way: str, more: int) -> None:
        """A power cut takes acknowledged records of acks=1; others are written at their offsets, or not yet."""
        with Broker() as broker:
            topic = make_topic(broker, 1)
            fill(broker, topic, 100, batch_size=300, acks=1)
            tp = TopicPartition(topic, 0)
            with Consumer(topic, server=broker.server, transport=way, auto_offset_reset="earliest") as consumer:
                assert read(consumer, 100) == list(range(100))
                broker.kill_all()
                (segment,) = (broker.data_dir / str(tp)).glob("*.log")
                with segment.open("r+b") as file:
                    file.truncate(segment.stat().st_size // 2)
                broker.start()
                fill(broker, topic, more, start=1000, acks=1)
                with pytest.raises(LogTruncated) as caught:
                    read(consumer, more + 1)
                assert (caught.value.partition, caught.value.offset) == (tp, 100)
                left = caught.value.diverging_offset
                assert 0 < left < 100
                with pytest.raises(LogTruncated):
                    consumer.poll(0)
                consumer.seek(tp, left)
                fill(broker, topic, 1, start=5000, acks=1)
                assert read(consumer, more + 1) == [*range(1000, 1000 + more), 5000]


def test_reading_ahead_is_bounded(broker: Broker) -> None:
    topic = make_topic(broker, 2)
    with Producer(broker.server, batch_size=10_000) as producer:
        for n in range(2000):
            producer.send(topic, b"x" * 1000, partition=n % 2)
    held: Callable[[Consumer], int] = lambda consumer: max(  # noqa: E731
        cursor.buffered_bytes for cursor in consumer._core.cursors.values()
    )
    for way in ("shm", "zmq"):
        with Consumer(
            topic,
            server=broker.server,
            transport=way,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=50_000,
            max_poll_records=1,
        ) as consumer:
            until = time.monotonic() + 30
            count = 0
            while count < 300 and time.monotonic() < until:
                count += sum(len(several) for several in consumer.poll(PATIENCE_MS).values())
                assert held(consumer) <= 150_000
            assert count == 300
