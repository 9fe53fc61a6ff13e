"""Admin against a broker: what works, and which error says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbroker import Admin, Consumer, Producer, TopicPartition
from kbroker.clients.records import NewTopic
from kbroker.errors import (
    BrokerUnavailable,
    ClientClosed,
    ConfigError,
    InvalidConfig,
    InvalidPartitions,
    InvalidReplicationFactor,
    InvalidTopic,
    OffsetOutOfRange,
    PolicyViolation,
    TopicAlreadyExists,
    UnknownTopicOrPartition,
)
from kbroker.testing import Broker


@pytest.fixture
def admin(broker: Broker) -> Iterator[Admin]:
    with Admin(broker.server) as made:
        yield made


def test_records_are_deleted(admin: Admin, broker: Broker) -> None:
    admin.create_topic("shorter", 2)
    with Producer(broker.server) as producer:
        for number in range(10):
            producer.send("shorter", b"%d" % number, partition=1)
        producer.flush()
    first, second = TopicPartition("shorter", 0), TopicPartition("shorter", 1)
    assert admin.delete_records({first: 0, second: 4}) == {first: 0, second: 4}
    assert admin.delete_records({second: 2}) == {second: 4}
    with Consumer(server=broker.server, auto_offset_reset="earliest") as consumer:
        assert consumer.beginning_offsets([first, second]) == {first: 0, second: 4}
    with pytest.raises(OffsetOutOfRange, match="offset 11 is not in 4 … 10"):
        admin.delete_records({second: 11})
    assert admin.delete_records({second: -1}) == {second: 10}
    for place in (TopicPartition("shorter", 2), TopicPartition("nowhere", 0)):
        with pytest.raises(UnknownTopicOrPartition):
            admin.delete_records({place: 0})
    with pytest.raises(ConfigError, match="before_offsets"):
        admin.delete_records({second: -2})
    admin.create_topic("compact", cleanup_policy="compact")
    with pytest.raises(PolicyViolation, match=r"cleanup\.policy=compact"):
        admin.delete_records({TopicPartition("compact", 0): 0})
    assert admin.delete_records({}) == {}


def test_a_topic_from_its_making_to_its_end(admin: Admin, broker: Broker) -> None:
    admin.create_topics([NewTopic("life", 2, topic_configs={"retention.ms": 60_000})])
    assert "life" in admin.list_topics()
    (described,) = admin.describe_topics(["life"])
    assert [p.partition for p in described.partitions] == [0, 1]
    assert all(p.leader > 0 for p in described.partitions)
    assert described.settings == {"retention.ms": "60000"}
    admin.alter_configs("life", {"segment.bytes": 2_000_000}, remove=["retention.ms"])
    assert admin.describe_topics(["life"])[0].settings == {"segment.bytes": "2000000"}
    admin.create_partitions({"life": 5})
    with Producer(broker.server) as producer:
        assert producer.partitions_for("life") == {0, 1, 2, 3, 4}
        assert producer.send("life", b"x", partition=4).get(10).offset == 0
    admin.delete_topics(["life"])
    assert "life" not in admin.list_topics()


def test_one_topic_by_keyword(admin: Admin) -> None:
    admin.create_topic("keyword", 1, retention_ms=1000)
    entries = {entry.name: entry for entry in admin.describe_configs("keyword")}
    assert (entries["retention.ms"].value, entries["retention.ms"].source) == ("1000", "topic")
    assert entries["segment.bytes"].source != "topic"
    assert entries["segment.bytes"].doc


def test_validate_only_makes_nothing(admin: Admin) -> None:
    admin.create_topics([NewTopic("only-tried")], validate_only=True)
    assert "only-tried" not in admin.list_topics()


@pytest.mark.parametrize(
    ("new", "error", "words"),
    [
        (NewTopic("a b"), InvalidTopic, "a b"),
        (NewTopic("x" * 250), InvalidTopic, "249"),
        (NewTopic("none", 0), InvalidPartitions, "0"),
        (NewTopic("copies", 1, 3), InvalidReplicationFactor, "3"),
        (NewTopic("setting", 1, topic_configs={"retention.msec": 1}), InvalidConfig, "retention.ms"),
        (NewTopic("value", 1, topic_configs={"retention.ms": "soon"}), InvalidConfig, "soon"),
    ],
)
def test_what_cannot_be_created(admin: Admin, new: NewTopic, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        admin.create_topics([new])
    assert new.name not in admin.list_topics()


def test_other_errors(admin: Admin, topic: str) -> None:
    with pytest.raises(TopicAlreadyExists, match=topic):
        admin.create_topics([NewTopic(topic)])
    with pytest.raises(UnknownTopicOrPartition, match="absent"):
        admin.delete_topics(["absent"])
    with pytest.raises(UnknownTopicOrPartition, match="absent"):
        admin.describe_topics(["absent"])
    with pytest.raises(UnknownTopicOrPartition, match="absent"):
        admin.describe_configs("absent")
    with pytest.raises(InvalidPartitions):
        admin.create_partitions({topic: 1})


def test_by_tcp(broker: Broker) -> None:
    with Admin(broker.tcp_server) as admin:
        admin.list_topics()


@pytest.mark.slow
def test_after_close_and_without_a_broker() -> None:
    with Broker() as broker:
        admin = Admin(broker.server, api_timeout_ms=1_000)
        broker.stop()
        with pytest.raises(BrokerUnavailable, match=r"front\.ipc"):
            admin.list_topics()
        broker.start()
        assert admin.list_topics() == []
        admin.close()
        admin.close()
        with pytest.raises(ClientClosed):
            admin.list_topics()
