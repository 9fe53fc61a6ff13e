"""aiokafka's consumers in groups: the oldest requests of all clients that are tried here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import aiokafka
import pytest

from kbroker.testing import Broker

from .group_members import GROUP_SETTINGS

pytestmark = pytest.mark.slow

DEADLINE_S = 30


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    settings = {**GROUP_SETTINGS, "num.partitions": 4}
    with Broker(settings, workers=2, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


async def member(broker: Broker, group: str, topic: str, **settings: Any) -> aiokafka.AIOKafkaConsumer:
    common = {"auto_offset_reset": "earliest", "session_timeout_ms": 3_000, "heartbeat_interval_ms": 200}
    found = aiokafka.AIOKafkaConsumer(
        topic, bootstrap_servers=broker.bootstrap_servers, group_id=group, **(common | settings)
    )
    await found.start()
    return found


async def fill(broker: Broker, topic: str, count: int) -> None:
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number in range(count):
            await producer.send_and_wait(topic, b"%d" % number, partition=number % 4)


async def until(condition: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_members_share_the_partitions_and_go_on(broker: Broker, topic: str) -> None:
    async def run() -> None:
        await fill(broker, topic, 40)
        first = await member(broker, topic, topic)
        seen = [await asyncio.wait_for(first.getone(), DEADLINE_S) for _ in range(40)]
        assert {(record.partition, record.offset) for record in seen} == {(p, o) for p in range(4) for o in range(10)}
        second = await member(broker, topic, topic)
        await until(lambda: len(first.assignment()) == len(second.assignment()) == 2)
        assert not first.assignment() & second.assignment()
        await second.stop()
        await until(lambda: len(first.assignment()) == 4)
        await first.stop()  # commits
        await fill(broker, topic, 4)
        again = await member(broker, topic, topic)
        later = [await asyncio.wait_for(again.getone(), DEADLINE_S) for _ in range(4)]
        assert [record.offset for record in later] == [10] * 4
        await again.stop()

    asyncio.run(run())


def test_commits_are_there_after_the_coordinator_was_killed(broker: Broker, topic: str) -> None:
    async def run() -> None:
        await fill(broker, topic, 4)
        consumer = await member(broker, topic, topic, enable_auto_commit=False)
        place = aiokafka.TopicPartition(topic, 0)
        await consumer.commit({place: aiokafka.OffsetAndMetadata(1, "one")})
        broker.kill_and_wait("coordinator")
        assert await asyncio.wait_for(consumer.committed(place), DEADLINE_S) == 1
        await consumer.commit({place: aiokafka.OffsetAndMetadata(0, "back")})
        assert await consumer.committed(place) == 0
        await consumer.stop()

    asyncio.run(run())
