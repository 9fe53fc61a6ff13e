"""A wrong argument is named, with what it may be, before anything is connected."""

from __future__ import annotations

from typing import Any

import pytest

from kbroker import Consumer, Producer
from kbroker.clients.producer_options import check_idempotence
from kbroker.clients.topic_partitions import TopicPartitions
from kbroker.errors import BrokerUnavailable, ConfigError

NOWHERE = "ipc:///nowhere/at/all"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("acks", 2),
        ("acks", "most"),
        ("acks", True),
        ("compression_type", "rar"),
        ("batch_size", -1),
        ("linger_ms", -5),
        ("linger_ms", 1.5),
        ("buffer_memory", 0),
        ("retries", -1),
        ("max_in_flight_requests_per_connection", 0),
        ("max_request_size", 1),
        ("key_serializer", "utf-8"),
        ("partitioner", 3),
        ("client_id", 3),
    ],
)
def test_producer_arguments(argument: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=argument):
        Producer(NOWHERE, **{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("auto_offset_reset", "newest"),
        ("transport", "tcp"),
        ("isolation_level", "none"),
        ("max_poll_records", 0),
        ("fetch_max_bytes", 1),
        ("consumer_timeout_ms", -1),
        ("value_deserializer", 5),
        ("group", ""),
        ("group_instance_id", "without-a-group"),
        ("auto_commit_interval_ms", 0),
        ("max_poll_interval_ms", "soon"),
        ("client_id", None),
    ],
)
def test_consumer_arguments(argument: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=argument):
        Consumer("t", server=NOWHERE, **{argument: value})


@pytest.mark.parametrize(
    ("acks", "retries", "in_flight", "hindrance"),
    [(1, 5, 5, "acks"), (0, 5, 5, "acks"), (-1, 0, 5, "retries"), (-1, 5, 6, "max_in_flight")],
)
def test_idempotence_asked_for_against_another_option(acks: int, retries: int, in_flight: int, hindrance: str) -> None:
    with pytest.raises(ConfigError, match=f"enable_idempotence=True does not go with {hindrance}"):
        check_idempotence(True, acks, retries, in_flight)
    assert check_idempotence(None, acks, retries, in_flight) is False


def test_idempotence_is_the_default() -> None:
    assert check_idempotence(None, -1, 5, 5) is True
    assert check_idempotence(False, -1, 5, 5) is False


def test_no_broker_is_named_with_its_endpoint() -> None:
    with pytest.raises(BrokerUnavailable, match="/nowhere/at/all"):
        Producer(NOWHERE, api_timeout_ms=50)


class TestTopicPartitions:
    def test_a_key_goes_where_java_puts_it(self) -> None:
        partitions = TopicPartitions("t", 100)
        # Values of org.apache.kafka.common.utils.Utils.murmur2, masked, modulo 100.
        assert partitions.for_key(b"21").partition == (-973932308 & 0x7FFFFFFF) % 100
        assert partitions.for_key(b"foobar").partition == (-790332482 & 0x7FFFFFFF) % 100

    def test_sticky_changes_among_those_with_an_owner(self) -> None:
        partitions = TopicPartitions("t", 4)
        partitions.update([1, -1, -1, 2])
        chosen = {partitions.next_sticky().partition for _ in range(20)}
        assert chosen == {0, 3}

    def test_a_wrong_partition_is_named(self) -> None:
        partitions = TopicPartitions("t", 4)
        with pytest.raises(ConfigError, match="0 … 3"):
            partitions.number(4)

    def test_more_partitions_come_in(self) -> None:
        partitions = TopicPartitions("t", 1)
        partitions.update([1, 2, 1])
        assert len(partitions.all) == 3
        assert partitions.next_sticky().partition != 0
