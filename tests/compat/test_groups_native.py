"""A native member and Kafka's clients, of both protocols, in one group: what one commits the next goes on from."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer as KafkaConsumer

from kbroker import Admin, Consumer, Producer, TopicPartition
from kbroker.clients.records import NewTopic
from kbroker.testing import Broker

pytestmark = pytest.mark.slow

PATIENCE_S = 40


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not come"


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_one_group_of_native_and_kafka_members(broker: Broker, topic: str, protocol: str) -> None:
    options = {
        "bootstrap.servers": broker.bootstrap_servers,
        "group.id": topic,
        "group.protocol": protocol,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
    if protocol == "classic":
        options |= {"partition.assignment.strategy": "cooperative-sticky", "heartbeat.interval.ms": 500}
    with Admin(broker.server) as admin, Producer(broker.server) as producer:
        admin.create_topics([NewTopic(topic, 6)])

        def send(start: int) -> None:
            for number in range(start, start + 60):
                producer.send(topic, b"%d" % number, partition=number % 6)
            producer.flush(30)

        send(0)
        kafka = KafkaConsumer(options)
        kafka.subscribe([topic])
        seen: list[int] = []

        def poll_kafka() -> None:
            message = kafka.poll(0.05)
            if message is not None and message.error() is None:
                seen.append(int(message.value() or b""))

        try:
            while len(seen) < 60:
                poll_kafka()
            kafka.commit(asynchronous=False)
            with Consumer(
                topic, server=broker.server, group=topic, auto_offset_reset="earliest", enable_auto_commit=False
            ) as native:

                def poll_both() -> None:
                    poll_kafka()
                    for records in native.poll(50).values():
                        seen.extend(int(record.value) for record in records)

                def shared() -> bool:
                    poll_both()
                    owned = {(tp.topic, tp.partition) for tp in native.assignment()}
                    other = {(tp.topic, tp.partition) for tp in kafka.assignment()}
                    return len(owned) == len(other) == 3 and not owned & other

                wait_until(shared)
                # The native member goes on at what Kafka's client has committed: nothing comes twice.
                send(60)
                while len(seen) < 120:
                    poll_both()
                assert sorted(seen) == list(range(120))
                native.commit()
                (group,) = admin.describe_consumer_groups([topic])
                assert group.type == "consumer"
                assert sorted(member.is_classic for member in group.members) == [False, protocol == "classic"]
                kafka.commit(asynchronous=False)

            def alone() -> bool:
                poll_kafka()
                return len(kafka.assignment()) == 6

            wait_until(alone)
            send(120)
            while len(seen) < 180:
                poll_kafka()
            assert sorted(seen) == list(range(180))
            kafka.commit(asynchronous=False)
        finally:
            kafka.close()
        offsets = admin.list_consumer_group_offsets(topic)
        assert {tp: at.offset for tp, at in offsets.items()} == {TopicPartition(topic, n): 30 for n in range(6)}
