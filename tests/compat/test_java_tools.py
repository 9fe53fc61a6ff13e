"""Apache Kafka's own tools against our broker, and its log dump over our files.

Each run starts a JVM (a second of CPU or two), so a test asks much of few runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.testing import Broker
from tests.compat.java_tools import JavaTools

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")


class Tools:
    """The tools, each told where the broker is."""

    def __init__(self, java: JavaTools, broker: Broker) -> None:
        self.java = java
        self.address = ("--bootstrap-server", broker.bootstrap_servers)

    def __call__(self, tool: str, *arguments: str, stdin: str = "") -> str:
        return self.java.run(tool, *self.address, *arguments, stdin=stdin)

    def fails(self, tool: str, *arguments: str) -> str:
        """All that a tool says when it is refused."""
        ran = self.java.try_to(tool, *self.address, *arguments)
        assert "Exception" in ran.err + ran.out, ran
        return ran.out + ran.err


@pytest.fixture
def tools(java: JavaTools, broker: Broker) -> Tools:
    return Tools(java, broker)


def test_topics(tools: Tools, topic: str) -> None:
    tools("kafka-topics", "--create", "--topic", topic, "--partitions", "2", "--config", "retention.ms=100000")
    assert "TopicExistsException" in tools.fails("kafka-topics", "--create", "--topic", topic)
    tools("kafka-topics", "--alter", "--topic", topic, "--partitions", "3")
    described = tools("kafka-topics", "--describe", "--topic", topic)
    assert re.search(r"PartitionCount: 3\s+ReplicationFactor: 1\s+Configs: retention.ms=100000", described), described
    assert re.findall(r"Partition: (\d)\s+Leader: ([12])\s+Replicas: \2\s+Isr: \2", described), described
    tools("kafka-topics", "--delete", "--topic", topic)
    assert topic not in tools("kafka-topics", "--list").split()


def test_records(tools: Tools, topic: str) -> None:
    tools("kafka-topics", "--create", "--topic", topic, "--partitions", "2")
    sent = "".join(f"h:1,n:\\N\tk{i}\tv{i}\n" for i in range(50))
    parsing = [f"{name}=true" for name in ("parse.key", "parse.headers")] + ["null.marker=\\N"]
    settings = [part for each in parsing for part in ("--reader-property", each)]
    tools("kafka-console-producer", "--topic", topic, "--compression-codec", "zstd", *settings, stdin=sent)
    offsets = dict(re.findall(rf"{re.escape(topic)}:(\d):(\d+)", tools("kafka-get-offsets", "--topic", topic)))
    assert sum(map(int, offsets.values())) == 50
    printing = [f"print.{name}=true" for name in ("key", "headers", "offset", "partition")]
    settings = [part for each in printing for part in ("--formatter-property", each)]
    found = ""
    for partition, count in offsets.items():
        found += tools(
            "kafka-console-consumer", "--topic", topic, "--partition", partition, "--offset", "earliest",
            "--max-messages", count, *settings,
        )  # fmt: skip
    read = re.findall(r"Partition:(\d)\tOffset:(\d+)\th:1,n:null\t(k\d+)\t(v\d+)\n", found)
    assert sorted(int(value[1:]) for *_, value in read) == list(range(50)), found
    everything = tools("kafka-console-consumer", "--topic", topic, "--from-beginning", "--max-messages", "50")
    assert sorted(int(value[1:]) for value in everything.split()) == list(range(50)), everything
    for partition, count in offsets.items():
        assert [int(offset) for where, offset, *_ in read if where == partition] == list(range(int(count)))


def test_load_programs(tools: Tools, topic: str) -> None:
    tools("kafka-topics", "--create", "--topic", topic)
    said = tools(
        "kafka-producer-perf-test", "--topic", topic, "--num-records", "3000", "--record-size", "100",
        "--throughput", "-1", "--command-property", "compression.type=lz4",
    )  # fmt: skip
    assert "3000 records sent" in said
    said = tools("kafka-verifiable-producer", "--topic", topic, "--max-messages", "200", "--acks", "-1")
    events = [json.loads(line) for line in said.splitlines()]
    assert [event["offset"] for event in events if event["name"] == "producer_send_success"] == list(range(3000, 3200))
    assert events[-1]["acked"] == 200


def test_log_dirs(tools: Tools, topic: str, broker: Broker) -> None:
    tools("kafka-topics", "--create", "--topic", topic, "--partitions", "2")
    said = tools("kafka-log-dirs", "--describe", "--topic-list", topic)
    nodes = json.loads(said[said.index("{") :])["brokers"]
    assert [node["broker"] for node in nodes] == [0, 1, 2]
    assert {folder["logDir"] for node in nodes for folder in node["logDirs"]} == {str(broker.data_dir)}
    partitions = [place["partition"] for node in nodes for folder in node["logDirs"] for place in folder["partitions"]]
    assert sorted(partitions) == [f"{topic}-0", f"{topic}-1"]


def test_delete_records(tools: Tools, topic: str, tmp_path: Path) -> None:
    tools("kafka-topics", "--create", "--topic", topic)
    tools("kafka-verifiable-producer", "--topic", topic, "--max-messages", "40")
    wanted = tmp_path / "offsets.json"
    wanted.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 7}]}))
    said = tools("kafka-delete-records", "--offset-json-file", str(wanted))
    assert re.search(r"partition: \S+-0\s+low_watermark: 7", said), said
    assert f"{topic}:0:7" in tools("kafka-get-offsets", "--topic", topic, "--time", "earliest")


def test_access_rules_are_said_to_be_off(tools: Tools) -> None:
    assert "SecurityDisabledException" in tools.fails("kafka-acls", "--list")


@pytest.fixture(scope="module")
def files(java: JavaTools) -> Iterator[Path]:
    """The folder of a broker that has stopped, and that had: several segments, compressions, producers, commits."""
    with Broker(workers=1) as broker:
        tools = Tools(java, broker)
        tools("kafka-topics", "--create", "--topic", "dumped", "--config", "segment.bytes=1048576")
        for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
            tools(
                "kafka-producer-perf-test", "--topic", "dumped", "--num-records", "5000", "--record-size", "100",
                "--throughput", "-1", "--command-property", f"compression.type={codec}",
            )  # fmt: skip
        tools("kafka-topics", "--create", "--topic", "packed", "--config", "compression.type=zstd")
        tools(
            "kafka-producer-perf-test", "--topic", "packed", "--num-records", "5000", "--record-size", "100",
            "--throughput", "-1", "--command-property", "compression.type=gzip",
        )  # fmt: skip
        member = {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "g",
            "group.instance.id": "i",
            "auto.offset.reset": "earliest",
        }
        consumer = confluent_kafka.Consumer(member)
        consumer.subscribe(["dumped"])
        consumer.poll(30)  # until there is an assignment, and a record
        consumer.commit(offsets=[confluent_kafka.TopicPartition("dumped", 0, 42)], asynchronous=False)
        consumer.close()
        for protocol in ("classic", "consumer"):
            tools(
                "kafka-console-consumer", "--topic", "packed", "--from-beginning", "--max-messages", "9",
                "--group", protocol, "--command-property", f"group.protocol={protocol}",
            )  # fmt: skip
        broker.stop()
        yield broker.data_dir


COMPLAINTS = re.compile(
    r"isvalid: false|not valid|Mismatches|mismatch|out of order|Exception|Could not|unexpected", re.I
)


def dump(java: JavaTools, files: list[Path], *options: str) -> str:
    said = java.run("kafka-dump-log", *options, "--files", ",".join(map(str, files)))
    assert not COMPLAINTS.search(said), said
    return said


def test_dump_log(java: JavaTools, files: Path) -> None:
    logs = sorted(files.glob("dumped-0/*.log"))
    assert len(logs) > 1
    said = dump(java, logs, "--deep-iteration")
    assert [int(offset) for offset in re.findall(r"^\| offset: (\d+)", said, re.M)] == list(range(25_000))
    assert set(re.findall(r"compresscodec: (\w+)", said)) == {"none", "gzip", "snappy", "lz4", "zstd"}
    assert said.count("isvalid: true") == said.count("baseOffset:")


def test_dump_log_of_what_the_broker_has_compressed(java: JavaTools, files: Path) -> None:
    said = dump(java, sorted(files.glob("packed-0/*.log")), "--deep-iteration")
    assert [int(offset) for offset in re.findall(r"^\| offset: (\d+)", said, re.M)] == list(range(5_000))
    assert set(re.findall(r"compresscodec: (\w+)", said)) == {"zstd"}


def test_dump_indexes(java: JavaTools, files: Path) -> None:
    # Every entry is looked up in the segment beside it.
    indexes = sorted(files.glob("dumped-0/*.index")) + sorted(files.glob("dumped-0/*.timeindex"))
    said = dump(java, indexes, "--deep-iteration")
    assert len(re.findall(r"^offset: \d+ position: \d+", said, re.M)) > 50
    assert len(re.findall(r"^timestamp: \d+ offset: \d+", said, re.M)) > 10


def test_dump_producers_and_commits(java: JavaTools, files: Path) -> None:
    snapshot = max(files.glob("dumped-0/*.snapshot"))
    assert len(set(re.findall(r"^producerId: (\d+) producerEpoch: 0", dump(java, [snapshot]), re.M))) == 5
    said = dump(java, sorted(files.glob("__consumer_offsets-*/*.log")), "--deep-iteration", "--offsets-decoder")
    assert re.search(r'"group":"g".*"topic":"dumped".*"partition":0.*"offset":42', said), said
    for protocol in ("classic", "consumer"):
        assert re.search(rf'"group":"{protocol}".*"topic":"packed".*"partition":0.*"offset":9', said), said
    assert '"groupId":"consumer"' in said, said
    group = r'"type":"2","data":\{"group":"g"\}.*"protocolType":"consumer".*"groupInstanceId":"i".*"topic":"dumped"'
    assert re.search(group, said), said
