"""Java applications against our broker: the clients, Kafka Streams and Kafka Connect of Apache Kafka.

The tours in `java/` say what each step comes to. What they print with Apache Kafka's own broker is kept beside them;
ours must make them print the same, but for what is named here with its reason. To make it anew: `python -m
tests.compat.apache_kafka`, and the tour with its address and the prefix `t.`.
"""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from kbroker.testing import Broker
from tests.compat.group_members import GROUP_SETTINGS
from tests.compat.java_applications import SOURCES, Application, JavaApplications

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
admin = pytest.importorskip("confluent_kafka.admin")

DEADLINE_S: Final = 60
TOUR_S: Final = 240
SETTLING: Final = {"session.timeout.ms": 1000, "heartbeat.interval.ms": 200}

UNSUPPORTED: Final = "UnsupportedVersionException"
DIFFERENT: Final = {
    "ClientsTour": {
        # Transactions come later.
        "initTransactions": (
            "Could not find a coordinator with type TRANSACTION with key t.t due to unexpected error: "
            "transactions are not supported yet: leave transactional.id out"
        ),
    },
    "AdminTour": {
        # Neither loggers nor client metrics nor single groups have settings that could be altered.
        "a broker's logger": "InvalidRequestException",
        "a group's settings altered": "InvalidRequestException",
        "client metrics": "InvalidRequestException",
        "listConfigResources": "[BROKER, TOPIC]",
        "listConfigResources of groups": "[]",
        # One log folder; no quorum, no features to switch, no brokers that come and go.
        "alterReplicaLogDirs": UNSUPPORTED,
        "describeFeatures": "[]",
        "updateFeatures": UNSUPPORTED,
        "describeMetadataQuorum": UNSUPPORTED,
        "unregisterBroker": UNSUPPORTED,
        # Transactions come later.
        "describeTransactions": "ClusterAuthorizationException",
        "abortTransaction": UNSUPPORTED,
        "fenceProducers": "ClusterAuthorizationException",
        # So does authentication.
        "describeDelegationToken": UNSUPPORTED,
        "createDelegationToken": UNSUPPORTED,
        # There are two kinds of groups, classic and consumer.
        "describeShareGroups": UNSUPPORTED,
        "describeStreamsGroups": UNSUPPORTED,
        "listShareGroupOffsets": UNSUPPORTED,
    },
}


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Node 1 exists in both: the tours ask about its settings."""
    with Broker(GROUP_SETTINGS, workers=2, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


@pytest.mark.parametrize("tour", ["ClientsTour", "AdminTour"])
def test_a_tour_comes_to_what_it_does_with_apache_kafka(
    applications: JavaApplications, broker: Broker, tour: str
) -> None:
    said = applications.run(tour, broker.bootstrap_servers, "t.", timeout_s=TOUR_S)
    expected = (SOURCES / f"{tour}.txt").read_text().splitlines()
    for name, ours in DIFFERENT[tour].items():
        (number,) = (number for number, line in enumerate(expected) if line.startswith(f"{name}: "))
        expected[number] = f"{name}: {ours}"
    assert said.splitlines() == expected


# --- Kafka Streams ---


class Words:
    """The topics of a word count: lines go in, counts come out."""

    def __init__(self, broker: Broker, application: str) -> None:
        servers = {"bootstrap.servers": broker.bootstrap_servers}
        self.application = application
        self.admin = admin.AdminClient(servers)
        names = [f"{application}.lines", f"{application}.counts"]
        for made in self.admin.create_topics([admin.NewTopic(name, 2, 1) for name in names]).values():
            made.result(DEADLINE_S)
        self._producer = confluent_kafka.Producer(servers)
        self.consumer = confluent_kafka.Consumer(servers | {"group.id": "reader", "enable.auto.commit": False})
        self.consumer.assign([confluent_kafka.TopicPartition(names[1], index, 0) for index in range(2)])
        self.counts: dict[str, int] = {}

    def say(self, *lines: str) -> None:
        for number, line in enumerate(lines):
            self._producer.produce(f"{self.application}.lines", line.encode(), partition=number % 2)
        assert self._producer.flush(DEADLINE_S) == 0

    def are(self, expected: dict[str, int]) -> bool:
        """Whether the words have been counted so, as far as is known now."""
        message = self.consumer.poll(0.1)
        if message is not None and message.error() is None:
            self.counts[message.key().decode()] = int.from_bytes(message.value(), "big")
        return self.counts == expected

    def has_committed(self) -> bool:
        """Whether all that there is to read is read for good."""
        asked = [confluent_kafka.ConsumerGroupTopicPartitions(self.application)]
        (found,) = self.admin.list_consumer_group_offsets(asked).values()
        committed = {
            (place.topic, place.partition): place.offset for place in found.result(DEADLINE_S).topic_partitions
        }
        for topic in (f"{self.application}.lines", f"{self.application}-words-repartition"):
            for index in range(2):
                place = confluent_kafka.TopicPartition(topic, index)
                _, end = self.consumer.get_watermark_offsets(place, DEADLINE_S)
                if end and committed.get((topic, index)) != end:
                    return False
        return True

    def busy_members(self) -> int:
        """How many members of the application have something to read."""
        (found,) = self.admin.describe_consumer_groups([self.application]).values()
        return sum(bool(member.assignment.topic_partitions) for member in found.result(DEADLINE_S).members)

    def settings(self, topic: str) -> dict[str, str]:
        resource = admin.ConfigResource(admin.ResourceType.TOPIC, topic)
        (found,) = self.admin.describe_configs([resource]).values()
        return {name: entry.value for name, entry in found.result(DEADLINE_S).items()}


def times(count: int) -> dict[str, int]:
    return {"to": 2 * count, "be": 2 * count, "or": count, "not": count}


def settings_of(values: dict[str, Any]) -> Sequence[str]:
    return [f"{name}={value}" for name, value in values.items()]


def test_streams(applications: JavaApplications, broker: Broker, tmp_path: Path) -> None:
    words = Words(broker, "wordcount")
    arguments = (broker.bootstrap_servers, words.application)

    def started(name: str) -> Any:
        return applications.running(tmp_path, "WordCount", *arguments, str(tmp_path / name), *settings_of(SETTLING))

    def counted(count: int, running: Application) -> None:
        words.say("to be or", "not to be")
        broker.wait_until(lambda: words.are(times(count)), DEADLINE_S)
        broker.wait_until(words.has_committed, DEADLINE_S)
        assert "failed" not in running.said

    with closing(words.consumer), started("second") as second:
        with started("first") as first:
            for each in (first, second):
                each.wait_for(lambda line: line == "RUNNING", DEADLINE_S)
            broker.wait_until(lambda: words.busy_members() == 2, DEADLINE_S)
            counted(1, first)
            counted(2, second)
            first.kill()
        # Its counts come back from the topic of changes: a word that was counted there goes on from its number.
        counted(3, second)
        assert second.end() == 0
        assert words.settings("wordcount-counted-changelog")["cleanup.policy"] == "compact"
        assert words.settings("wordcount-words-repartition")["retention.ms"] == "-1"


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("group.protocol=streams", "does not support the STREAMS group protocol"),
        ("processing.guarantee=exactly_once_v2", "initialize transactions"),
    ],
)
def test_streams_that_are_refused(
    applications: JavaApplications, broker: Broker, tmp_path: Path, setting: str, why: str
) -> None:
    words = Words(broker, f"refused.{setting.partition('=')[2]}")
    with (
        closing(words.consumer),
        applications.running(
            tmp_path, "WordCount", broker.bootstrap_servers, words.application, str(tmp_path), setting
        ) as refused,
    ):
        assert why in refused.wait_for(lambda line: line.startswith("failed: "), DEADLINE_S)
        refused.wait_for(lambda line: line == "ERROR", DEADLINE_S)


# --- Kafka Connect ---

FILE_STREAM: Final = "org.apache.kafka.connect.file.FileStream"


class ConnectWorker:
    """A worker of a Connect cluster, and its REST interface."""

    def __init__(self, broker: Broker, folder: Path, name: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.id = f"127.0.0.1:{self._port}"
        settings = {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "connect-cluster",
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.storage.StringConverter",
            "offset.flush.interval.ms": 200,
            "plugin.discovery": "service_load",
            "scheduled.rebalance.max.delay.ms": 500,
            "listeners": f"http://{self.id}",
            **SETTLING,
            **{f"consumer.{name}": value for name, value in SETTLING.items()},
        }
        for kind in ("config", "offset", "status"):
            settings |= {f"{kind}.storage.topic": f"connect-{kind}", f"{kind}.storage.replication.factor": 1}
            if kind != "config":
                settings[f"{kind}.storage.partitions"] = 2
        self.properties = folder / f"{name}.properties"
        self.properties.write_text("\n".join(settings_of(settings)))

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer; None while it has none: it starts, or the cluster rebalances."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.id}{path}", data, {"Content-Type": "application/json"})
        request.method = method
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            return None

    def configure(self, connector: str, settings: dict[str, Any]) -> bool:
        """Make a connector, or change it. Whether it was taken."""
        return self.ask("PUT", f"/connectors/{connector}/config", settings) is not None

    def source_position(self) -> int:
        """How far the source has come for good, in bytes."""
        known = self.ask("GET", "/connectors/source/offsets") or {"offsets": []}
        return sum(item["offset"]["position"] for item in known["offsets"])

    def workers(self) -> set[str]:
        """Who runs the tasks."""
        found = [self.ask("GET", f"/connectors/{name}/status") or {"tasks": []} for name in ("source", "sink")]
        return {task["worker_id"] for status in found for task in status["tasks"] if task["state"] == "RUNNING"}


def test_connect(applications: JavaApplications, broker: Broker, tmp_path: Path) -> None:
    source, sink = tmp_path / "source.txt", tmp_path / "sink.txt"
    source.touch()
    sink.touch()
    first, second = (ConnectWorker(broker, tmp_path, name) for name in ("first", "second"))
    connectors: dict[str, dict[str, Any]] = {
        "source": {"connector.class": f"{FILE_STREAM}SourceConnector", "file": str(source), "topic": "copied"},
        "sink": {"connector.class": f"{FILE_STREAM}SinkConnector", "file": str(sink), "topics": "copied"},
    }
    written: list[str] = []

    def running(worker: ConnectWorker) -> Any:
        return applications.running(tmp_path, "org.apache.kafka.connect.cli.ConnectDistributed", str(worker.properties))

    def copies(*lines: str) -> None:
        written.extend(lines)
        with open(source, "a") as file:
            file.writelines(f"{line}\n" for line in lines)
        # Each at least once, and in order where it comes first.
        broker.wait_until(lambda: list(dict.fromkeys(sink.read_text().split())) == written, DEADLINE_S)

    with running(first) as leader:
        for name, settings in connectors.items():
            broker.wait_until(partial(first.configure, name, settings), DEADLINE_S)
        copies("a", "b")
        broker.wait_until(lambda: first.source_position() == 2 * len(written), DEADLINE_S)
        # What there is to do, and how far it has come, the other one reads from the cluster's topics.
        with running(second):
            broker.wait_until(lambda: second.workers() == {first.id, second.id}, DEADLINE_S)
            copies("c")
            leader.kill()
            broker.wait_until(lambda: second.workers() == {second.id}, DEADLINE_S)
            copies("d", "e")
            broker.wait_until(lambda: second.source_position() == 2 * len(written), DEADLINE_S)
    client = admin.AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    for kind in ("config", "offset", "status"):
        resource = admin.ConfigResource(admin.ResourceType.TOPIC, f"connect-{kind}")
        (found,) = client.describe_configs([resource]).values()
        assert found.result(DEADLINE_S)["cleanup.policy"].value == "compact"
