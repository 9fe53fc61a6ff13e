"""confluent-kafka's consumers in groups: eager, cooperative and KIP-848, each against the same broker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.testing import Broker

pytestmark = pytest.mark.slow

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")

from .group_members import GROUP_SETTINGS, PROTOCOLS, Member, MemberProcess, shares  # noqa: E402
from .test_confluent_kafka import admin_of, create  # noqa: E402

DEADLINE_S = 30


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(GROUP_SETTINGS, workers=2, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fill(broker: Broker, topic: str, partitions: int, count: int) -> None:
    """So many records into each partition."""
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap_servers})
    for partition in range(partitions):
        for number in range(count):
            producer.produce(topic, b"%d" % number, partition=partition)
    assert producer.flush(DEADLINE_S) == 0


def committed(broker: Broker, group: str, topic: str, partitions: int) -> dict[int, int]:
    consumer = confluent_kafka.Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": group})
    places = [confluent_kafka.TopicPartition(topic, index) for index in range(partitions)]
    found = {item.partition: item.offset for item in consumer.committed(places, timeout=DEADLINE_S)}
    consumer.close()
    return found


@contextlib.contextmanager
def members(broker: Broker) -> Iterator[Any]:
    """Makes members, and closes those that are left at the end."""
    made: list[Member] = []

    def make(*args: Any, **settings: Any) -> Member:
        made.append(Member(broker, *args, **settings))
        return made[-1]

    try:
        yield make
    finally:
        for member in made:
            member.close()


def test_members_share_the_partitions(broker: Broker, topic: str, protocol: str) -> None:
    create(broker, topic, 6)
    fill(broker, topic, 6, 50)
    with members(broker) as join:
        first = join(topic, topic, protocol)
        broker.wait_until(lambda: len(first.seen) == 300, DEADLINE_S)
        assert first.owned == set(range(6))
        second = join(topic, topic, protocol)
        broker.wait_until(lambda: shares([first, second], 6), DEADLINE_S)
        assert len(first.owned) == 3
        if protocol != "range":
            assert set(first.revoked) == second.owned, "what stays where it is is not taken away"
        second.close()
        broker.wait_until(lambda: first.owned == set(range(6)), DEADLINE_S)
        assert not first.errors


def test_a_member_that_dies_is_put_out_when_its_session_ends(broker: Broker, topic: str, protocol: str) -> None:
    create(broker, topic, 4)
    with members(broker) as join:
        first = join(topic, topic, protocol)
        dying = MemberProcess(broker, topic, topic, protocol)
        try:
            broker.wait_until(lambda: shares([first, dying], 4), DEADLINE_S)
            kept = set(first.owned)
            first.revoked.clear()
        finally:
            dying.kill()
        broker.wait_until(lambda: first.owned == set(range(4)), DEADLINE_S)
        if protocol != "range":
            assert not kept & set(first.revoked), "only the dead member's partitions move"
    assert topic in broker.log


def test_a_group_goes_on_where_it_committed(broker: Broker, topic: str, protocol: str) -> None:
    create(broker, topic, 2)
    fill(broker, topic, 2, 100)
    with members(broker) as join:
        first = join(topic, topic, protocol, commits=True)
        broker.wait_until(lambda: first.committed == {0: 100, 1: 100}, DEADLINE_S)
        first.close()
        fill(broker, topic, 2, 10)
        second = join(topic, topic, protocol)
        broker.wait_until(lambda: len(second.seen) >= 20, DEADLINE_S)
        assert sorted(second.seen) == [(index, offset) for index in range(2) for offset in range(100, 110)]
    assert committed(broker, topic, topic, 2) == {0: 100, 1: 100}


def test_a_static_member_comes_back_to_its_partitions(broker: Broker, topic: str, protocol: str) -> None:
    create(broker, topic, 4)
    with members(broker) as join:
        first = join(topic, topic, protocol, group_instance_id="one")
        second = join(topic, topic, protocol, group_instance_id="two")
        broker.wait_until(lambda: shares([first, second], 4), DEADLINE_S)
        had, kept = set(second.owned), set(first.owned)
        first.revoked.clear()
        second.close()
        again = join(topic, topic, protocol, group_instance_id="two")
        broker.wait_until(lambda: again.owned == had, DEADLINE_S)
        assert (first.owned, first.revoked) == (kept, [])


def test_a_pattern_follows_new_topics(broker: Broker, topic: str, protocol: str) -> None:
    create(broker, f"{topic}-a", 1)
    fill(broker, f"{topic}-a", 1, 5)
    with members(broker) as join:
        member = join(topic, f"^{topic.replace('.', '[.]')}-.*", protocol, commits=True)
        broker.wait_until(lambda: member.committed == {0: 5}, DEADLINE_S)
        create(broker, f"{topic}-b", 1)
        fill(broker, f"{topic}-b", 1, 7)
        broker.wait_until(lambda: len(member.seen) == 12, DEADLINE_S)


def test_new_partitions_are_read(broker: Broker, topic: str, protocol: str) -> None:
    create(broker, topic, 1)
    with members(broker) as join:
        member = join(topic, topic, protocol)
        broker.wait_until(lambda: member.owned == {0}, DEADLINE_S)
        grown = confluent_kafka.admin.NewPartitions(topic, 3)
        client = admin_of(broker)  # its answers die with it
        client.create_partitions([grown])[topic].result(DEADLINE_S)
        broker.wait_until(lambda: member.owned == {0, 1, 2}, DEADLINE_S)


def test_a_deleted_topic_is_given_up(broker: Broker, topic: str, protocol: str) -> None:
    create(broker, topic, 1)
    with members(broker) as join:
        member = join(topic, topic, protocol)
        broker.wait_until(lambda: member.owned == {0}, DEADLINE_S)
        client = admin_of(broker)
        client.delete_topics([topic])[topic].result(DEADLINE_S)
        broker.wait_until(lambda: member.owned == set(), DEADLINE_S)
