"""Settings through Apache Kafka's own `kafka-configs`, and beside those of its own broker."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.configs import BROKER, TOPIC
from kbroker.testing import Broker
from tests.broker.kafka_client import KafkaClient
from tests.compat.apache_kafka import ApacheKafka
from tests.compat.java_tools import JavaTools

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OURS_ALONE = {"flush.acks.all", "record.validation"}
ALTERABLE_HERE = {"log.retention.check.interval.ms"}


class Configs:
    """`kafka-configs` for one entity of a running broker; value and synonyms of each setting that it prints."""

    def __init__(self, java: JavaTools, broker: Broker, kind: str, *entity: str) -> None:
        self._java = java
        self._arguments = ("--bootstrap-server", broker.bootstrap_servers, "--entity-type", kind, *entity)

    def __call__(self, *arguments: str) -> dict[str, tuple[str, str]]:
        said = self._java.run("kafka-configs", *self._arguments, *arguments)
        found = re.findall(r"^  (\S+?)=(.*) sensitive=\w+ synonyms=\{(.*)\}$", said, re.M)
        return {name: (value, synonyms) for name, value, synonyms in found}


def test_topics(java: JavaTools, broker: Broker, topic: str) -> None:
    java.run("kafka-topics", "--bootstrap-server", broker.bootstrap_servers, "--create", "--topic", topic)
    configs = Configs(java, broker, "topics", "--entity-name", topic)
    configs("--alter", "--add-config", "cleanup.policy=[compact,delete],retention.ms=5000,compression.type=zstd")
    configs("--alter", "--delete-config", "retention.ms")
    assert configs("--describe") == {
        "cleanup.policy": (
            "compact,delete",
            "DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact,delete, DEFAULT_CONFIG:log.cleanup.policy=delete",
        ),
        "compression.type": (
            "zstd",
            "DYNAMIC_TOPIC_CONFIG:compression.type=zstd, DEFAULT_CONFIG:compression.type=producer",
        ),
    }
    everything = configs("--describe", "--all")
    assert everything["retention.ms"] == ("604800000", "DEFAULT_CONFIG:log.retention.ms=604800000")


def test_brokers(java: JavaTools) -> None:
    with Broker(workers=1, num_partitions=3) as broker:
        everybody = Configs(java, broker, "brokers", "--entity-default")
        everybody("--alter", "--add-config", "log.retention.ms=86400000,message.max.bytes=2000000")
        everybody("--alter", "--delete-config", "message.max.bytes")
        assert everybody("--describe") == {
            "log.retention.ms": ("86400000", "DYNAMIC_DEFAULT_BROKER_CONFIG:log.retention.ms=86400000")
        }
        found = Configs(java, broker, "brokers", "--entity-name", "1")("--describe", "--all")
        assert found["num.partitions"] == (
            "3",
            "STATIC_BROKER_CONFIG:num.partitions=3, DEFAULT_CONFIG:num.partitions=1",
        )
        assert found["log.retention.ms"][1].startswith("DYNAMIC_DEFAULT_BROKER_CONFIG:log.retention.ms=86400000")


# --- beside Apache Kafka's own broker ---


@pytest.fixture(scope="module")
def both(broker: Broker, apache: ApacheKafka) -> Iterator[tuple[KafkaClient, KafkaClient]]:
    """A connection to our broker and one to Apache Kafka's; each has the topic `compared`."""
    with KafkaClient(broker, 1) as ours, KafkaClient(apache.port, 1) as theirs:
        ours.create("compared")
        theirs.create("compared")
        yield ours, theirs


def described(client: KafkaClient, kind: int = TOPIC, name: str = "compared") -> dict[str, Any]:
    types = codec.request_types(ApiKey.DESCRIBE_CONFIGS)
    resource = types.DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=None)
    (result,) = client.ask(ApiKey.DESCRIBE_CONFIGS, 4, types.DescribeConfigsRequest(resources=[resource])).results
    return {entry.name: entry for entry in result.configs}


def test_topic_settings_have_kafkas_names_types_and_defaults(both: tuple[KafkaClient, KafkaClient]) -> None:
    ours, theirs = map(described, both)
    assert set(ours) - OURS_ALONE == set(theirs)
    for name, entry in theirs.items():
        assert (ours[name].config_type, ours[name].read_only) == (entry.config_type, entry.read_only), name
        if name != "flush.ms":  # what acks=1 wrote is on the disk within a second here
            assert ours[name].value == entry.value, name


def test_broker_settings_of_kafkas_names_have_its_types(both: tuple[KafkaClient, KafkaClient]) -> None:
    ours, theirs = (described(client, BROKER, str(client.node)) for client in both)
    common = set(ours) & set(theirs) - {"log.dir", "listeners"}  # one of each here, lists in Kafka
    assert len(common) > 40
    for name in common:
        assert ours[name].config_type == theirs[name].config_type, name
    assert {name for name in common if not ours[name].read_only and theirs[name].read_only} == ALTERABLE_HERE


VALUES = {
    "cleanup.policy": ["compact", "compact,delete", "delete, compact", "", "compact,compact", "Delete", "none"],
    "compression.gzip.level": ["-1", "0", "1", "9", "10"],
    "compression.lz4.level": ["0", "1", "17", "18"],
    "compression.type": ["uncompressed", "gzip", "snappy", "lz4", "zstd", "producer", "none", "GZIP", ""],
    "compression.zstd.level": ["-131072", "0", "22", "23"],
    "delete.retention.ms": ["-1", "0"],
    "file.delete.delay.ms": ["-1", "0"],
    "flush.messages": ["0", "1"],
    "flush.ms": ["-1", "0"],
    "follower.replication.throttled.replicas": ["*", "0:1,1:2", "", "x", "0:1:2"],
    "index.interval.bytes": ["-1", "0"],
    "local.retention.bytes": ["-3", "-2", "1"],
    "local.retention.ms": ["-3", "-2", "1"],
    "max.compaction.lag.ms": ["0", "1"],
    "max.message.bytes": ["-1", "0", "2147483647", "2147483648"],
    "message.timestamp.after.max.ms": ["-1", "0"],
    "message.timestamp.before.max.ms": ["-1", "0"],
    "message.timestamp.type": ["CreateTime", "LogAppendTime", "createtime"],
    "min.cleanable.dirty.ratio": ["0", "1", "5e-1", "-0.1", "1.1", "x"],
    "min.compaction.lag.ms": ["-1", "0"],
    "min.insync.replicas": ["0", "1", "2"],
    "preallocate": ["true", "TRUE", "yes", "1"],
    "remote.storage.enable": ["false", "true"],
    "retention.bytes": ["-1", "0", " 5", "x"],
    "retention.ms": ["-1", "-2", "1.5", "", "9223372036854775807", "9223372036854775808"],
    "segment.bytes": ["1048575", "1048576"],
    "segment.index.bytes": ["3", "4"],
    "segment.jitter.ms": ["-1", "0"],
    "segment.ms": ["0", "1"],
    "unclean.leader.election.enable": ["true", "2"],
    "bogus": ["1"],
}


def creation_code(client: KafkaClient, name: str, value: str) -> int:
    types = codec.request_types(ApiKey.CREATE_TOPICS)
    configs = [types.CreatableTopicConfig(name=name, value=value)]
    new = types.CreatableTopic(name="never-made", num_partitions=1, replication_factor=1, configs=configs)
    request = types.CreateTopicsRequest(topics=[new], timeout_ms=10_000, validate_only=True)
    code: int = client.ask(ApiKey.CREATE_TOPICS, 7, request).topics[0].error_code
    return code


def test_values_are_taken_and_refused_as_kafka_does(both: tuple[KafkaClient, KafkaClient]) -> None:
    asked = [(name, value) for name, values in VALUES.items() for value in values]
    ours, theirs = ([creation_code(client, name, value) for name, value in asked] for client in both)
    assert list(zip(asked, ours, strict=True)) == list(zip(asked, theirs, strict=True))
