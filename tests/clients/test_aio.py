"""The asyncio clients against a broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from kbroker import TopicPartition
from kbroker.aio import Admin, Consumer, Producer
from kbroker.clients.records import NewTopic
from kbroker.errors import BrokerUnavailable, ClientClosed, MessageTooLarge, UnknownTopicOrPartition
from kbroker.testing import Broker
from tests.clients.conftest import make_topic

PATIENCE_S = 30


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


def test_records_go_in_and_come_out(broker: Broker, topic: str) -> None:
    async def main() -> None:
        async with Producer(broker.server) as producer:
            deliveries = [await producer.send(topic, b"%d" % number, b"k") for number in range(1000)]
            assert [(await delivery).offset for delivery in deliveries] == list(range(1000))
            assert (await producer.send_and_wait(topic, b"last", headers=[("h", b"1")])).offset == 1000
            assert producer.metrics()["records_sent"] == 1001
            assert await producer.partitions_for(topic) == {0}
        async with Consumer(topic, server=broker.server, auto_offset_reset="earliest") as consumer:
            seen = []
            async for record in consumer:
                seen.append(record.value)
                if record.value == b"last":
                    assert record.headers == [("h", b"1")]
                    break
            assert seen[:1000] == [b"%d" % number for number in range(1000)]
            assert consumer.transport == "shm"

    run(main())


def test_waiting_does_not_hold_up_the_event_loop(broker: Broker, topic: str) -> None:
    async def main() -> None:
        async with Consumer(topic, server=broker.server) as consumer, Producer(broker.server) as producer:
            polling = asyncio.create_task(consumer.poll(PATIENCE_S * 1000))
            for _ in range(50):
                await asyncio.sleep(0)
            assert not polling.done()
            # Meanwhile another task asks the same consumer something.
            assert await consumer.end_offsets([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): 0}
            assert not polling.done()
            await producer.send_and_wait(topic, b"here")
            ((record,),) = (await polling).values()
            assert record.value == b"here"

    run(main())


def test_a_cancelled_poll_loses_nothing(broker: Broker, topic: str) -> None:
    async def main() -> None:
        async with Consumer(topic, server=broker.server) as consumer, Producer(broker.server) as producer:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(consumer.poll(PATIENCE_S * 1000), 0.05)
            await producer.send_and_wait(topic, b"1")
            ((record,),) = (await consumer.poll(PATIENCE_S * 1000)).values()
            assert record.value == b"1"
            assert await consumer.poll_batches(0) == []

    run(main())


def test_positions(broker: Broker) -> None:
    topic = make_topic(broker, 2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)

    async def main() -> None:
        async with Producer(broker.server) as producer:
            now_ms = time.time_ns() // 1_000_000
            for number in range(10):
                await producer.send(topic, b"%d" % number, partition=0, timestamp_ms=now_ms + number)
            await producer.flush()
        async with Consumer(server=broker.server) as consumer:
            await consumer.assign([first, second])
            assert await consumer.beginning_offsets([first]) == {first: 0}
            await consumer.seek_to_timestamp(now_ms + 4)
            assert (await consumer.position(first), await consumer.position(second)) == (4, 0)
            await consumer.seek_to_end(first)
            assert await consumer.position(first) == 10
            await consumer.seek_to_beginning()
            (batch,) = await consumer.poll_batches(PATIENCE_S * 1000)
            assert batch.record_count == 10
            found = await consumer.offsets_for_times({first: now_ms + 9, second: 0})
            assert found[second] is None
            assert found[first] is not None
            assert await consumer.partitions_for_topic(topic) == {0, 1}
            assert await consumer.partitions_for_topic("nothing") is None
            assert topic in await consumer.topics()

    run(main())


def test_a_group(broker: Broker) -> None:
    topic = make_topic(broker, 4)

    async def member(count: int) -> list[bytes]:
        seen: list[bytes] = []
        async with Consumer(topic, server=broker.server, group=topic, auto_offset_reset="earliest") as consumer:
            async for record in consumer:
                seen.append(record.value)
                if len(seen) == count:
                    await consumer.commit()
                    committed = [await consumer.committed(TopicPartition(topic, number)) for number in range(4)]
                    assert sum(at.offset for at in committed if at is not None) >= count
                    return seen
        raise AssertionError("iteration ends only when told to")

    async def main() -> None:
        async with Producer(broker.server) as producer, Admin(broker.server) as admin:
            for number in range(40):
                await producer.send(topic, b"%d" % number, partition=number % 4)
            await producer.flush()
            assert sorted(map(int, await member(40))) == list(range(40))
            await producer.send_and_wait(topic, b"40", partition=1)
            assert await member(1) == [b"40"]
            (group,) = await admin.describe_consumer_groups([topic])
            assert (group.state, group.members) == ("Empty", [])
            offsets = await admin.list_consumer_group_offsets(topic)
            assert {tp.partition: at.offset for tp, at in offsets.items()} == {0: 10, 1: 11, 2: 10, 3: 10}
            await admin.delete_consumer_groups([topic])

    run(main())


def test_admin_and_errors(broker: Broker, topic: str) -> None:
    async def main() -> None:
        async with Admin(broker.server) as admin, Producer(broker.server) as producer:
            await admin.create_topics([NewTopic(f"{topic}-more", 2)])
            assert f"{topic}-more" in await admin.list_topics()
            await admin.alter_configs(f"{topic}-more", {"retention.ms": 5})
            (described,) = await admin.describe_topics([f"{topic}-more"])
            assert described.settings == {"retention.ms": "5"}
            await admin.delete_topics([f"{topic}-more"])
            with pytest.raises(UnknownTopicOrPartition):
                await admin.describe_topics([f"{topic}-more"])
            with pytest.raises(MessageTooLarge):
                await producer.send(topic, bytes(2 << 20))
        with pytest.raises(ClientClosed):
            await producer.send(topic, b"late")
        with pytest.raises(ClientClosed, match="start"):
            await Producer(broker.server).send(topic, b"early")
        with pytest.raises(BrokerUnavailable):
            await Consumer(server="ipc:///nowhere/at/all", api_timeout_ms=500).start()

    run(main())
