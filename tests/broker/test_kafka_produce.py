"""Produce requests that arrive together: each is answered as if it had come alone, in their order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.records.codec import BatchBuilder
from kbroker.testing import Broker

from .kafka_client import KafkaClient, batch, produce_request

CORRUPT_MESSAGE, UNKNOWN_TOPIC_OR_PARTITION, OUT_OF_ORDER_SEQUENCE = 2, 3, 45
Ask = tuple[int, int, Any]


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(workers=1, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


@pytest.fixture
def topic(topic: str, worker: KafkaClient) -> str:
    """A topic of two partitions of the test's own."""
    worker.create(topic, 2)
    return topic


def produce(topic: str, records: bytes, *, acks: int = 1, partition: int = 0, version: int = 9) -> Ask:
    return ApiKey.PRODUCE, version, produce_request(topic, partition, records, acks)


def idempotent(sequence: int) -> bytes:
    builder = BatchBuilder(0, 1 << 20, producer_id=4_000, producer_epoch=0, base_sequence=sequence)
    assert builder.append(1_000, None, b"%d" % sequence)
    return bytes(builder.build())


def latest(topic: str) -> Ask:
    types = codec.request_types(ApiKey.LIST_OFFSETS)
    partition = types.ListOffsetsPartition(partition_index=0, current_leader_epoch=-1, timestamp=-1)
    topics = [types.ListOffsetsTopic(name=topic, partitions=[partition])]
    return ApiKey.LIST_OFFSETS, 5, types.ListOffsetsRequest(replica_id=-1, isolation_level=0, topics=topics)


def produced(worker: KafkaClient, count: int) -> list[tuple[int, int]]:
    """Error code and base offset of the next answers."""
    found = [worker.receive().responses[0].partition_responses[0] for _ in range(count)]
    return [(int(one.error_code), int(one.base_offset)) for one in found]


@pytest.mark.parametrize("acks", [1, -1])
def test_offsets_follow_each_other(worker: KafkaClient, topic: str, acks: int) -> None:
    worker.send_at_once(*(produce(topic, batch(*[b"x"] * count), acks=acks) for count in (1, 5, 2)))
    assert produced(worker, 3) == [(0, 0), (0, 1), (0, 6)]


@pytest.mark.parametrize("acks", [1, -1])
def test_a_bad_one_spoils_no_other(worker: KafkaClient, topic: str, acks: int) -> None:
    good, bad = batch(b"good"), batch(b"bad")[:-1] + b"?"
    worker.send_at_once(*(produce(topic, records, acks=acks) for records in (good, bad, good, b"", good)))
    (first, second, third, fourth, fifth) = produced(worker, 5)
    assert (first, second, third, fifth) == ((0, 0), (CORRUPT_MESSAGE, -1), (0, 1), (0, 2))
    assert fourth[0]


def test_repeated_and_missing_sequences(worker: KafkaClient, topic: str) -> None:
    worker.send_at_once(*(produce(topic, idempotent(sequence)) for sequence in (0, 1, 2)))
    assert produced(worker, 3) == [(0, 0), (0, 1), (0, 2)]
    worker.send_at_once(*(produce(topic, idempotent(sequence), acks=-1) for sequence in (3, 3, 1, 5, 4)))
    assert produced(worker, 5) == [(0, 3), (0, 3), (0, 1), (OUT_OF_ORDER_SEQUENCE, -1), (0, 4)]


def test_acks_versions_and_partitions_mixed(worker: KafkaClient, topic: str) -> None:
    one = batch(b"x")
    worker.send_at_once(
        produce(topic, one),
        produce(topic, one, acks=-1),
        produce(topic, one, version=7),
        produce(topic, one, partition=1),
        produce(topic, one),
        produce(topic, one, partition=99),
        produce(topic, one, partition=1),
    )
    expected = [(0, 0), (0, 1), (0, 2), (0, 0), (0, 3), (UNKNOWN_TOPIC_OR_PARTITION, -1), (0, 1)]
    assert produced(worker, 7) == expected


def test_what_follows_on_the_connection_sees_them(worker: KafkaClient, topic: str) -> None:
    worker.send_at_once(
        latest(topic), produce(topic, batch(b"a")), produce(topic, batch(b"b")), latest(topic), produce(topic, batch())
    )
    assert worker.receive().topics[0].partitions[0].offset == 0
    assert produced(worker, 2) == [(0, 0), (0, 1)]
    assert worker.receive().topics[0].partitions[0].offset == 2
    assert worker.receive().responses[0].partition_responses[0].error_code


@pytest.mark.parametrize("acks", [[-1], [-1, 1]], ids=["all", "all and 1"])
def test_more_than_may_be_in_flight(worker: KafkaClient, topic: str, acks: list[int]) -> None:
    worker.send_at_once(
        *(produce(topic, batch(b"x" * 100), acks=acks[number % len(acks)]) for number in range(300)),
    )
    assert produced(worker, 300) == [(0, number) for number in range(300)]


def test_large_ones_that_come_in_pieces(worker: KafkaClient, topic: str) -> None:
    for _ in range(3):
        worker.send_at_once(*(produce(topic, batch(*[b"%d" % n * 1_000] * 60)) for n in range(9)))
        assert all(not code for code, _ in produced(worker, 9))
    worker.send_at_once(latest(topic))
    assert worker.receive().topics[0].partitions[0].offset == 3 * 9 * 60
