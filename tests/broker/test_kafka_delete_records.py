"""DeleteRecords on a running broker: every way to read sees the new start, and so does the next process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kbroker import Consumer, TopicPartition
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker
from kbroker.types import OFFSETS_TOPIC

from .kafka_client import KafkaClient

pytestmark = pytest.mark.slow

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
admin = pytest.importorskip("confluent_kafka.admin")
kafka = pytest.importorskip("kafka", reason="kafka-python is not installed")
DEADLINE_S = 20


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(workers=2, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


@pytest.fixture
def leader(broker: Broker, topic: str) -> Iterator[KafkaClient]:
    """A client of the node that leads the topic's partition 0, in which there are 10 records."""
    with KafkaClient(broker, 0) as client:
        client.create(topic, 1, segment_bytes=str(1 << 20))
        node = client.metadata(topic)[topic].partitions[0].leader_id
    with KafkaClient(broker, node) as client:
        for number in range(5):
            client.produce(topic, 0, b"%d" % (2 * number), b"%d" % (2 * number + 1))
        yield client


def delete(client: KafkaClient, *wanted: tuple[str, int, int], version: int = 2) -> list[tuple[int, int]]:
    """Error code and log start offset of each."""
    types = codec.request_types(ApiKey.DELETE_RECORDS)
    topics = [
        types.DeleteRecordsTopic(
            name=topic, partitions=[types.DeleteRecordsPartition(partition_index=index, offset=offset)]
        )
        for topic, index, offset in wanted
    ]
    answer = client.ask(ApiKey.DELETE_RECORDS, version, types.DeleteRecordsRequest(topics=topics, timeout_ms=10_000))
    return [(item.error_code, item.low_watermark) for topic in answer.topics for item in topic.partitions]


def earliest(client: KafkaClient, topic: str) -> int:
    types = codec.request_types(ApiKey.LIST_OFFSETS)
    asked = types.ListOffsetsPartition(partition_index=0, timestamp=-2, current_leader_epoch=-1)
    request = types.ListOffsetsRequest(replica_id=-1, topics=[types.ListOffsetsTopic(name=topic, partitions=[asked])])
    found: int = client.ask(ApiKey.LIST_OFFSETS, 7, request).topics[0].partitions[0].offset
    return found


@pytest.mark.parametrize("version", [0, 1, 2])
def test_it_moves_the_start(leader: KafkaClient, topic: str, version: int) -> None:
    assert delete(leader, (topic, 0, 3), version=version) == [(0, 3)]
    assert earliest(leader, topic) == 3
    assert delete(leader, (topic, 0, 2), version=version) == [(0, 3)]
    assert delete(leader, (topic, 0, 11), (topic, 0, -2), version=version) == [(1, -1), (1, -1)]
    assert delete(leader, (topic, 0, -1), version=version) == [(0, 10)]
    assert earliest(leader, topic) == 10
    assert delete(leader, version=version) == []


def test_what_cannot_be_deleted(broker: Broker, leader: KafkaClient, topic: str) -> None:
    assert delete(leader, (topic, 7, 1), ("nowhere", 0, 1), (OFFSETS_TOPIC, 0, 0)) == [(3, -1), (3, -1), (6, -1)]
    for node in {0, 1, 2} - {leader.node}:
        with KafkaClient(broker, node) as client:
            assert delete(client, (topic, 0, 1)) == [(6, -1)]
    with KafkaClient(broker, 0) as client:
        assert delete(client, (OFFSETS_TOPIC, 0, 0)) == [(17, -1)]


def test_what_is_only_compacted_keeps_its_records(broker: Broker, topic: str) -> None:
    with KafkaClient(broker, 0) as client:
        client.create(topic, 1, cleanup_policy="compact")
        node = client.metadata(topic)[topic].partitions[0].leader_id
    with KafkaClient(broker, node) as client:
        assert delete(client, (topic, 0, 0)) == [(44, -1)]


def test_it_outlives_the_worker(broker: Broker, leader: KafkaClient, topic: str) -> None:
    assert delete(leader, (topic, 0, 7)) == [(0, 7)]
    broker.kill_and_wait(f"worker-{leader.node - 1}")
    with KafkaClient(broker, leader.node) as client:
        assert earliest(client, topic) == 7


def test_readers_through_shared_memory_see_it(broker: Broker, leader: KafkaClient, topic: str) -> None:
    partition = TopicPartition(topic, 0)
    with Consumer(server=broker.server, auto_offset_reset="earliest") as consumer:
        consumer.assign([partition])
        first = read(consumer)
        assert first == 0
        assert consumer.transport == "shm"
        assert delete(leader, (topic, 0, 7)) == [(0, 7)]
        consumer.seek(partition, 2)
        assert read(consumer) == 7, "its place is gone: from the earliest on"


def read(consumer: Consumer) -> int:
    """The offset of the next record."""
    for _ in range(40):
        for records in consumer.poll(timeout_ms=500).values():
            if records:
                return int(records[0].offset)
    raise AssertionError("no record came")


def test_files_before_it_go(broker: Broker, topic: str) -> None:
    with KafkaClient(broker, 0) as client:
        client.create(topic, 1, segment_bytes=str(1 << 20), file_delete_delay_ms="0")
        node = client.metadata(topic)[topic].partitions[0].leader_id
    folder = broker.data_dir / f"{topic}-0"
    with KafkaClient(broker, node) as client:
        for _ in range(5):
            client.produce(topic, 0, b"x" * 600_000)
        assert len(list(folder.glob("*.log"))) == 5
        assert delete(client, (topic, 0, 3)) == [(0, 3)]
    broker.wait_until(lambda: len(list(folder.glob("*.log*"))) == 2)


@pytest.mark.usefixtures("leader")
def test_real_clients(broker: Broker, topic: str) -> None:
    settings: dict[str, Any] = {"bootstrap.servers": broker.bootstrap_servers}
    client = admin.AdminClient(settings)
    partition = confluent_kafka.TopicPartition(topic, 0, 4)
    (future,) = client.delete_records([partition]).values()
    assert future.result(DEADLINE_S).low_watermark == 4
    theirs = kafka.KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    place = kafka.TopicPartition(topic, 0)
    assert theirs.delete_records({place: 6})[place]["low_watermark"] == 6
    theirs.close()
    consumer = kafka.KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
    assert consumer.beginning_offsets([place]) == {place: 6}
    consumer.close()
