"""What each client can do, once through: administer, produce, consume, look back, be in a group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiokafka
import aiokafka.admin
import confluent_kafka
import confluent_kafka.admin
import kafka
import kafka.admin
import pytest

from kbroker.testing import Broker

from .clients import DEADLINE_S, AioKafka, ConfluentKafka, KafkaPython, Record

RETENTION_MS = "86400000"
NOT_SERVED = (kafka.errors.IncompatibleBrokerVersion,)
"""How kafka-python says that the broker does not list an API."""


def records() -> list[Record]:
    """Few and small."""
    now_ms = time.time_ns() // 1_000_000
    return [Record(b"k", b"v", (("one", b"1"),), now_ms), Record(None, b"w", (), now_ms + 1)]


def confluent_kafka_tour(broker: Broker, topic: str) -> None:
    """confluent-kafka."""
    admin: Any = confluent_kafka.admin  # its types are not exported
    client = admin.AdminClient({"bootstrap.servers": broker.bootstrap_servers})

    def done(futures: dict[Any, Any]) -> Any:
        (future,) = futures.values()
        return future.result(DEADLINE_S)

    new = admin.NewTopic(topic, 2, 1, config={"retention.ms": RETENTION_MS})
    done(client.create_topics([new]))
    with pytest.raises(confluent_kafka.KafkaException, match="TOPIC_ALREADY_EXISTS"):
        done(client.create_topics([new]))
    done(client.create_partitions([admin.NewPartitions(topic, 3)]))
    listed = client.list_topics(timeout=DEADLINE_S)
    assert sorted(listed.brokers) == [0, 1, 2]
    assert {partition.leader for partition in listed.topics[topic].partitions.values()} == {1, 2}
    names = confluent_kafka.TopicCollection([topic])
    assert len(done(client.describe_topics(names)).partitions) == 3
    assert len(client.describe_cluster().result(DEADLINE_S).nodes) == 3

    kind = admin.ConfigResource.Type.TOPIC
    assert done(client.describe_configs([admin.ConfigResource(kind, topic)]))["retention.ms"].value == RETENTION_MS
    change = admin.ConfigEntry("retention.ms", "90000000", incremental_operation=admin.AlterConfigOpType.SET)
    done(client.incremental_alter_configs([admin.ConfigResource(kind, topic, incremental_configs=[change])]))
    assert done(client.describe_configs([admin.ConfigResource(kind, topic)]))["retention.ms"].value == "90000000"
    done(client.alter_configs([admin.ConfigResource(kind, topic, set_config={"retention.ms": RETENTION_MS})]))
    assert client.list_consumer_groups().result(DEADLINE_S).errors == []

    sent = records()
    library = ConfluentKafka()
    library.write(broker, topic, sent)
    library.write(broker, topic, sent, **{"enable.idempotence": True})
    assert library.read(broker, topic, 4) == sent * 2
    assert library.offset_at(broker, topic, sent[0].timestamp_ms) == 0
    partition = confluent_kafka.TopicPartition(topic, 0)
    assert done(client.list_offsets({partition: admin.OffsetSpec.latest()})).offset == 4
    assert done(client.list_offsets({partition: admin.OffsetSpec.max_timestamp()})).offset in (1, 3)

    alone = {"bootstrap.servers": broker.bootstrap_servers, "group.id": topic, "enable.auto.commit": False}
    consumer = confluent_kafka.Consumer(alone)
    consumer.commit(offsets=[confluent_kafka.TopicPartition(topic, 0, 2)], asynchronous=False)
    assert [place.offset for place in consumer.committed([partition], DEADLINE_S)] == [2]
    consumer.close()

    for protocol in ("classic", "consumer"):
        group = f"{topic}.{protocol}"
        settings = {"group.id": group, "group.protocol": protocol, "auto.offset.reset": "earliest"}
        consumer = confluent_kafka.Consumer({"bootstrap.servers": broker.bootstrap_servers, **settings})
        consumer.subscribe([topic])
        for _ in range(4):
            message: Any = consumer.poll(DEADLINE_S)
            assert message is not None
            assert message.error() is None
        described = done(client.describe_consumer_groups([group]))
        assert described.state == confluent_kafka.ConsumerGroupState.STABLE
        consumer.close()  # commits
        asked = confluent_kafka.ConsumerGroupTopicPartitions(group, [partition])
        assert [place.offset for place in done(client.list_consumer_group_offsets([asked])).topic_partitions] == [4]
        done(client.delete_consumer_groups([group]))

    done(client.delete_topics([topic]))
    with pytest.raises(confluent_kafka.KafkaException, match="UNKNOWN_TOPIC_OR_PART"):
        done(client.delete_topics([topic]))


def kafka_python_tour(broker: Broker, topic: str) -> None:
    """kafka-python, whose admin knows nearly every API."""
    admin = kafka.admin
    client = kafka.KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    partition = kafka.TopicPartition(topic, 0)
    resource = admin.ConfigResource(admin.ConfigResourceType.TOPIC, topic)
    changed = admin.ConfigResource(admin.ConfigResourceType.TOPIC, topic, {"retention.ms": "90000000"})

    def retention() -> str:
        (described,) = client.describe_configs([resource], config_filter="all").values()
        return str(described[topic]["retention.ms"]["value"])

    client.create_topics([admin.NewTopic(topic, 2, 1, topic_configs={"retention.ms": RETENTION_MS})])
    client.wait_for_topics([topic])
    with pytest.raises(kafka.errors.TopicAlreadyExistsError):
        client.create_topics([admin.NewTopic(topic, 2, 1)])
    with pytest.raises(kafka.errors.InvalidTopicError):
        client.create_topics([admin.NewTopic("no/such name", 2, 1)])
    client.create_partitions({topic: admin.NewPartitions(3)})
    assert topic in client.list_topics()
    (described,) = client.describe_topics([topic])
    assert [found["leader_id"] for found in described["partitions"]] == [1, 2, 1]
    assert client.describe_topic_partitions([topic])
    assert [node["broker_id"] for node in client.describe_cluster()["brokers"]] == [0, 1, 2]
    assert client.api_versions()
    assert client.get_broker_version_data(0)

    assert retention() == RETENTION_MS
    client.alter_configs([changed])
    assert retention() == "90000000"
    client.reset_configs([changed])
    assert retention() == "604800000"
    assert client.list_config_resources()

    sent = records()
    library = KafkaPython()
    library.write(broker, topic, sent, acks=0, enable_idempotence=False)
    library.write(broker, topic, sent)
    assert library.read(broker, topic, 4) == sent * 2
    assert library.offset_at(broker, topic, sent[0].timestamp_ms) == 0
    latest = client.list_partition_offsets({partition: admin.OffsetSpec.LATEST})
    assert latest[partition].offset == 4
    assert client.describe_log_dirs()
    assert client.list_groups() == []
    assert not any(client.list_transactions().values())
    with pytest.raises(kafka.errors.SecurityDisabledError):
        client.describe_acls(_every_rule())

    consumer = kafka.KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=topic, enable_auto_commit=False)
    consumer.assign([partition])
    consumer.commit({partition: kafka.OffsetAndMetadata(2, "here", -1)})
    assert consumer.committed(partition) == 2
    consumer.close()
    assert client.list_group_offsets({topic: None})

    group = f"{topic}.members"
    member = kafka.KafkaConsumer(
        topic, bootstrap_servers=broker.bootstrap_servers, group_id=group, auto_offset_reset="earliest"
    )
    assert [next(member).value for _ in range(4)] == [record.value for record in sent * 2]
    assert client.describe_groups([group])[group]["group_state"] == "Stable"
    assert client.list_groups()
    member.close()
    assert client.list_group_offsets({group: [partition]})[group][partition].offset == 4
    client.alter_group_offsets(group, {partition: kafka.OffsetAndMetadata(1, "", -1)})
    client.delete_group_offsets(group, [partition])
    client.delete_groups([group])

    # Those that are not listed are refused by the client; whatever is served must be answered.
    rest: list[Callable[[], object]] = [
        lambda: client.delete_records({partition: 1}),
        lambda: client.describe_producers([partition]),
        client.describe_features,
        client.describe_metadata_quorum,
        client.describe_user_scram_credentials,
        client.list_partition_reassignments,
    ]
    for call in rest:
        try:
            call()
        except NOT_SERVED:
            continue
    client.delete_topics([topic])
    with pytest.raises(kafka.errors.UnknownTopicOrPartitionError):
        client.delete_topics([topic])
    client.close()


def _every_rule() -> Any:
    admin = kafka.admin
    resource = admin.ResourcePatternFilter(admin.ResourceType.ANY, None, admin.ACLResourcePatternType.ANY)
    return admin.ACLFilter(None, None, admin.ACLOperation.ANY, admin.ACLPermissionType.ANY, resource)


def aiokafka_tour(broker: Broker, topic: str) -> None:
    """aiokafka."""
    asyncio.run(_aiokafka_admin(broker, topic))
    sent = records()
    library = AioKafka()
    library.write(broker, topic, sent)
    library.write(broker, topic, sent, enable_idempotence=True)
    assert library.read(broker, topic, 4) == sent * 2
    assert library.offset_at(broker, topic, sent[0].timestamp_ms) == 0
    asyncio.run(_aiokafka_commit(broker, topic))
    asyncio.run(_aiokafka_group(broker, topic, [record.value for record in sent * 2]))


async def _aiokafka_admin(broker: Broker, topic: str) -> None:
    admin = aiokafka.admin
    client = admin.AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    await client.start()
    try:
        await client.create_topics([admin.NewTopic(topic, 2, 1, topic_configs={"retention.ms": RETENTION_MS})])
        await client.create_partitions({topic: admin.NewPartitions(3)})
        assert topic in await client.list_topics()
        (described,) = await client.describe_topics([topic])
        assert len(described["partitions"]) == 3
        assert len((await client.describe_cluster())["brokers"]) == 3
        resource = admin.config_resource.ConfigResource(admin.config_resource.ConfigResourceType.TOPIC, topic)
        answers = await client.describe_configs([resource])
        entries = {entry[0]: entry[1] for entry in answers[0].resources[0][4]}
        assert entries["retention.ms"] == RETENTION_MS
        resource.configs = {"retention.ms": "90000000"}
        await client.alter_configs([resource])
        assert await client.list_consumer_groups() == []
        gone = f"{topic}.gone"
        await client.create_topics([admin.NewTopic(gone, 1, 1)])
        await client.delete_topics([gone])
        assert gone not in await client.list_topics()
    finally:
        await client.close()


async def _aiokafka_commit(broker: Broker, topic: str) -> None:
    partition = aiokafka.TopicPartition(topic, 0)
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers, group_id=topic, enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([partition])
        await consumer.commit({partition: 2})
        assert await consumer.committed(partition) == 2
        assert await consumer.end_offsets([partition]) == {partition: 4}
    finally:
        await consumer.stop()


async def _aiokafka_group(broker: Broker, topic: str, values: list[bytes | None]) -> None:
    member = aiokafka.AIOKafkaConsumer(
        topic, bootstrap_servers=broker.bootstrap_servers, group_id=f"{topic}.members", auto_offset_reset="earliest"
    )
    await member.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert [(await member.getone()).value for _ in values] == values
    finally:
        await member.stop()


TOURS: dict[str, Callable[[Broker, str], None]] = {
    "confluent-kafka": confluent_kafka_tour,
    "kafka-python": kafka_python_tour,
    "aiokafka": aiokafka_tour,
}
