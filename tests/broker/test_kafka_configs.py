"""Settings as Kafka's admins see and alter them, through whichever node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.configs import BROKER, CLIENT_METRICS, GROUP, TOPIC
from kbroker.testing import Broker

from .kafka_client import KafkaClient, port_of

UNKNOWN_TOPIC, INVALID_CONFIG, INVALID_REQUEST, MESSAGE_TOO_LARGE = 3, 40, 42, 10
SET, DELETE, APPEND, SUBTRACT = range(4)
FROM_TOPIC, FOR_NODE, FOR_ALL, FROM_FILE, DEFAULT = range(1, 6)


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(workers=2, listeners="PLAINTEXT://127.0.0.1:0", log_retention_ms=5_000_000) as running:
        yield running


@pytest.fixture
def client(broker: Broker) -> Iterator[KafkaClient]:
    with KafkaClient(broker, 2) as found:
        yield found


def described(client: KafkaClient, kind: int, name: str, *names: str) -> dict[str, Any]:
    types = codec.request_types(ApiKey.DESCRIBE_CONFIGS)
    resource = types.DescribeConfigsResource(
        resource_type=kind, resource_name=name, configuration_keys=list(names) or None
    )
    request = types.DescribeConfigsRequest(resources=[resource], include_synonyms=True, include_documentation=True)
    (result,) = client.ask(ApiKey.DESCRIBE_CONFIGS, 4, request).results
    assert result.error_code == 0, result.error_message
    return {entry.name: entry for entry in result.configs}


def value(client: KafkaClient, kind: int, name: str, setting: str) -> tuple[str, int]:
    entry = described(client, kind, name, setting)[setting]
    return entry.value, entry.config_source


def alter(
    client: KafkaClient, kind: int, name: str, *changes: tuple[str, int, str | None], validate_only: bool = False
) -> tuple[int, str]:
    types = codec.request_types(ApiKey.INCREMENTAL_ALTER_CONFIGS)
    configs = [types.AlterableConfig(name=n, config_operation=operation, value=text) for n, operation, text in changes]
    resource = types.AlterConfigsResource(resource_type=kind, resource_name=name, configs=configs)
    request = types.IncrementalAlterConfigsRequest(resources=[resource], validate_only=validate_only)
    (result,) = client.ask(ApiKey.INCREMENTAL_ALTER_CONFIGS, 1, request).responses
    return result.error_code, result.error_message or ""


def test_a_topics_settings_have_every_place_they_come_from(client: KafkaClient, topic: str) -> None:
    client.create(topic, retention_ms="1000", preallocate="TRUE")
    found = described(client, TOPIC, topic)
    retention = found["retention.ms"]
    assert [(item.name, item.value, item.source) for item in retention.synonyms] == [
        ("retention.ms", "1000", FROM_TOPIC),
        ("log.retention.ms", "5000000", FROM_FILE),
        ("log.retention.ms", "604800000", DEFAULT),
    ]
    assert (found["preallocate"].value, found["segment.bytes"].config_source) == ("true", DEFAULT)
    assert found["follower.replication.throttled.replicas"].synonyms == []
    assert all(entry.documentation and not entry.read_only for entry in found.values())
    kinds = {
        name: found[name].config_type for name in ("preallocate", "compression.type", "segment.bytes", "segment.ms")
    }
    assert list(kinds.values()) == [1, 2, 3, 5]
    assert (found["min.cleanable.dirty.ratio"].config_type, found["cleanup.policy"].config_type) == (6, 7)


def test_operations(client: KafkaClient, topic: str) -> None:
    client.create(topic)
    assert alter(client, TOPIC, topic, ("cleanup.policy", APPEND, "compact"), ("flush.ms", SET, "9")) == (0, "")
    assert value(client, TOPIC, topic, "cleanup.policy") == ("delete,compact", FROM_TOPIC)
    assert alter(client, TOPIC, topic, ("cleanup.policy", SUBTRACT, "delete"), ("flush.ms", DELETE, None)) == (0, "")
    assert value(client, TOPIC, topic, "cleanup.policy") == ("compact", FROM_TOPIC)
    assert value(client, TOPIC, topic, "flush.ms") == ("1000", DEFAULT)
    assert alter(client, TOPIC, topic, ("flush.ms", SET, "8"), validate_only=True) == (0, "")
    assert value(client, TOPIC, topic, "flush.ms") == ("1000", DEFAULT)


def test_the_old_way_to_alter_replaces_all(client: KafkaClient, topic: str) -> None:
    client.create(topic, flush_ms="5", retention_ms="6")
    types = codec.request_types(ApiKey.ALTER_CONFIGS)
    resource = types.AlterConfigsResource(
        resource_type=TOPIC, resource_name=topic, configs=[types.AlterableConfig(name="retention.ms", value="7")]
    )
    answer = client.ask(ApiKey.ALTER_CONFIGS, 2, types.AlterConfigsRequest(resources=[resource]))
    assert answer.responses[0].error_code == 0
    assert value(client, TOPIC, topic, "retention.ms") == ("7", FROM_TOPIC)
    assert value(client, TOPIC, topic, "flush.ms") == ("1000", DEFAULT)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ([("retention.ms", SET, "soon")], INVALID_CONFIG, "whole number"),
        ([("retension.ms", SET, "5")], INVALID_CONFIG, "did you mean retention.ms"),
        ([("retension.ms", DELETE, None)], INVALID_CONFIG, "did you mean retention.ms"),
        ([("retention.ms", APPEND, "5")], INVALID_CONFIG, "no list"),
        ([("retention.ms", SET, None)], INVALID_REQUEST, "no value"),
        ([("retention.ms", 9, "5")], INVALID_REQUEST, "no operation 9"),
        ([("retention.ms", SET, "5"), ("retention.ms", SET, "6")], INVALID_REQUEST, "more than once"),
        ([("min.compaction.lag.ms", SET, "9"), ("max.compaction.lag.ms", SET, "8")], INVALID_CONFIG, "more than"),
        ([("remote.storage.enable", SET, "true")], INVALID_CONFIG, "no tiered storage"),
        ([("compression.type", SET, "GZIP")], INVALID_CONFIG, "gzip"),
        ([("compression.gzip.level", SET, "0")], INVALID_CONFIG, "1 … 9"),
        ([("leader.replication.throttled.replicas", SET, "0:1,x")], INVALID_CONFIG, "PARTITION:NODE"),
        ([("min.cleanable.dirty.ratio", SET, "nan")], INVALID_CONFIG, "a number"),
        ([("segment.bytes", SET, "1_048_576")], INVALID_CONFIG, "whole number"),
    ],
)
def test_what_cannot_be(module_client: KafkaClient, changes: list[Any], code: int, says: str) -> None:
    assert alter(module_client, TOPIC, "kept", *changes)[0] == code
    assert says in alter(module_client, TOPIC, "kept", *changes)[1]
    assert alter(module_client, TOPIC, "nobody", *changes)[0] in (UNKNOWN_TOPIC, code)


@pytest.fixture(scope="module")
def module_client() -> Iterator[KafkaClient]:
    with Broker(workers=1, listeners="PLAINTEXT://127.0.0.1:0") as running, KafkaClient(running, 0) as found:
        found.create("kept")
        yield found


def leader_of(client: KafkaClient, topic: str) -> int:
    leader: int = client.metadata(topic)[topic].partitions[0].leader_id
    return leader


def test_the_broker_is_altered_while_it_runs(broker: Broker, client: KafkaClient, topic: str) -> None:
    client.create(topic)
    leader = leader_of(client, topic)
    with KafkaClient(broker, leader) as owner:
        assert alter(client, BROKER, "", ("message.max.bytes", SET, "200")) == (0, "")
        assert owner.produce(topic, 0, bytes(300)).error_code == MESSAGE_TOO_LARGE
        assert value(client, TOPIC, topic, "max.message.bytes") == ("200", FOR_ALL)
        assert alter(client, BROKER, str(leader), ("message.max.bytes", SET, "5000")) == (0, "")
        assert owner.produce(topic, 0, bytes(300)).error_code == 0
    assert value(client, BROKER, str(leader), "message.max.bytes") == ("5000", FOR_NODE)
    assert value(client, BROKER, str(3 - leader), "message.max.bytes") == ("200", FOR_ALL)
    assert list(described(client, BROKER, "")) == ["message.max.bytes"]


@pytest.mark.slow
def test_what_was_altered_outlives_every_process(broker: Broker, client: KafkaClient, topic: str) -> None:
    client.create(topic)
    leader = leader_of(client, topic)
    assert alter(client, BROKER, "", ("message.max.bytes", SET, "200"), ("log.retention.ms", SET, "7")) == (0, "")
    broker.kill_all()
    broker.start()
    for node in (0, 1, 2):
        with KafkaClient(broker, node) as found:
            assert value(found, BROKER, "1", "message.max.bytes") == ("200", FOR_ALL)
    with KafkaClient(broker, leader) as owner:
        assert owner.produce(topic, 0, bytes(300)).error_code == MESSAGE_TOO_LARGE
        assert alter(owner, BROKER, "", ("message.max.bytes", DELETE, None)) == (0, "")
        assert owner.produce(topic, 0, bytes(300)).error_code == 0
        assert value(owner, BROKER, "1", "log.retention.ms") == ("7", FOR_ALL)


def test_settings_that_only_a_start_can_change(client: KafkaClient) -> None:
    found = described(client, BROKER, "0")
    assert not found["log.retention.ms"].read_only
    for name in ("num.partitions", "log.dir", "listeners", "workers"):
        assert found[name].read_only
        code, says = alter(client, BROKER, "", (name, SET, "2"))
        assert (code, "cannot be altered" in says) == (INVALID_REQUEST, True)
    assert alter(client, BROKER, "9", ("log.retention.ms", SET, "2"))[0] == INVALID_REQUEST
    assert found["log.dir"].config_source == FROM_FILE


def test_a_new_topic_is_told_its_settings(client: KafkaClient, topic: str) -> None:
    types = codec.request_types(ApiKey.CREATE_TOPICS)
    configs = [types.CreatableTopicConfig(name="retention.ms", value="5")]
    new = types.CreatableTopic(name=topic, num_partitions=1, replication_factor=1, configs=configs)
    (made,) = client.ask(ApiKey.CREATE_TOPICS, 7, types.CreateTopicsRequest(topics=[new], timeout_ms=10_000)).topics
    found = {item.name: (item.value, item.config_source) for item in made.configs}
    assert found["retention.ms"] == ("5", FROM_TOPIC)
    assert found["segment.bytes"] == ("1073741824", DEFAULT)


def test_groups_show_what_their_members_are_told(client: KafkaClient) -> None:
    assert value(client, GROUP, "any", "consumer.session.timeout.ms") == ("45000", DEFAULT)
    assert value(client, GROUP, "any", "consumer.heartbeat.interval.ms") == ("5000", DEFAULT)
    assert described(client, CLIENT_METRICS, "any") == {}


def test_each_node_shows_where_it_is_reached(broker: Broker, client: KafkaClient) -> None:
    for node in (0, 1, 2):
        shown = value(client, BROKER, str(node), "advertised.listeners")
        assert shown == (f"PLAINTEXT://127.0.0.1:{port_of(broker, node)}", FROM_FILE)


def test_odd_resources_are_refused_one_by_one(client: KafkaClient) -> None:
    types = codec.request_types(ApiKey.DESCRIBE_CONFIGS)
    asked = [(TOPIC, "no"), (TOPIC, "a/b"), (BROKER, "1"), (BROKER, "1"), (GROUP, ""), (BROKER, "2")]
    resources = [
        types.DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=None)
        for kind, name in asked
    ]
    answer = client.ask(ApiKey.DESCRIBE_CONFIGS, 4, types.DescribeConfigsRequest(resources=resources))
    codes = [result.error_code for result in answer.results]
    assert codes == [UNKNOWN_TOPIC, 17, INVALID_REQUEST, INVALID_REQUEST, INVALID_REQUEST, 0]
