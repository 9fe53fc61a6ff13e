"""A data folder that an older version has written must open, with all that is in it, after every change.

`tests/compat_data/make.py` wrote them; a change of the format adds another pair, and never takes one away.
"""

from __future__ import annotations

import importlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kbroker import Admin, Consumer, Producer
from kbroker.testing import Broker
from kbroker.types import TopicPartition

FOLDER = Path(__file__).parent.parent / "compat_data"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
LONG = {"offsets.retention.minutes": 2_147_483_647}  # what was committed on the day of its making is still asked for


def found(broker: Broker) -> dict[tuple[str, int], list[tuple[int, int, str, str]]]:
    """Every record of every topic that was written, read from the beginning."""
    records: dict[tuple[str, int], list[tuple[int, int, str, str]]] = {}
    with Consumer(server=broker.server) as consumer:
        for topic, count in EXPECTED["topics"].items():
            for index in range(count):
                place = TopicPartition(topic, index)
                consumer.assign([place])
                consumer.seek_to_beginning(place)
                end = consumer.end_offsets([place])[place]
                got = records.setdefault((topic, index), [])
                while consumer.position(place) < end:
                    for record in consumer.poll(timeout_ms=1000).get(place, []):
                        assert record.headers[1:] == [("again", b"1"), ("again", b"2")]
                        assert record.key is not None
                        assert record.value is not None
                        key, value = record.key.decode(), record.value.decode()
                        got.append((record.offset, record.timestamp, key, value))
    return records


def written(count: int) -> dict[tuple[str, int], list[tuple[int, int, str, str]]]:
    """The same, as it was written and not deleted since."""
    records: dict[tuple[str, int], list[tuple[int, int, str, str]]] = {}
    for record in EXPECTED["records"][:count]:
        topic, index = record["topic"], record["partition"]
        if record["offset"] >= EXPECTED["log_start"].get(topic, {}).get(str(index), 0):
            facts = (record["offset"], record["timestamp_ms"], record["key"], record["value"])
            records.setdefault((topic, index), []).append(facts)
    return records


@pytest.fixture(params=["clean", "killed"])
def kind(request: pytest.FixtureRequest) -> str:
    """How the broker ended that wrote the folder."""
    return str(request.param)


@pytest.fixture
def broker(kind: str, tmp_path: Path) -> Iterator[Broker]:
    """Today's broker on the folder of then."""
    with tarfile.open(FOLDER / f"{kind}.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    with Broker(LONG, workers=2, data_dir=tmp_path / "data") as running:
        yield running


def test_an_old_folder_has_all_that_was_written(kind: str, broker: Broker) -> None:
    assert broker.status()["state"] == "ready"
    count = EXPECTED["clean_records"] if kind == "clean" else len(EXPECTED["records"])
    assert found(broker) == written(count)
    assert not list(broker.data_dir.rglob("*.corrupt"))

    with Admin(broker.server) as admin:
        assert set(admin.list_topics()) == set(EXPECTED["topics"])
        for topic, settings in EXPECTED["topic_settings"].items():
            entries = {entry.name: entry.value for entry in admin.describe_configs(topic)}
            assert settings.items() <= entries.items()
        for group, facts in EXPECTED["groups"].items():
            committed = admin.list_consumer_group_offsets(group)
            offsets = {str(place.partition): at.offset for place, at in committed.items() if at.offset}
            assert offsets == {index: offset for index, offset in facts["offsets"].items() if offset}
    entries = ask_node(broker, 1)
    assert EXPECTED["broker_settings"].items() <= entries.items()


def ask_node(broker: Broker, node: int) -> dict[str, str]:
    """A node's settings, as a Kafka client is told."""
    admin: Any = importlib.import_module("confluent_kafka.admin")  # what it has is not typed
    resource = admin.ConfigResource(admin.ResourceType.BROKER, str(node))
    client = admin.AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    return {name: entry.value for name, entry in client.describe_configs([resource])[resource].result(10).items()}


def test_an_old_folder_takes_records_and_opens_again(broker: Broker) -> None:
    before = found(broker)
    with Producer(broker.server) as producer:
        headers = [("codec", b"none"), ("again", b"1"), ("again", b"2")]
        sent = [
            producer.send(topic, b"new", key=b"new", partition=index, headers=headers).get(timeout=10)
            for topic, index in before
        ]
    for facts, known in zip(sent, before.values(), strict=True):
        assert facts.offset == known[-1][0] + 1
    broker.restart()
    after = found(broker)
    for place, known in before.items():
        assert after[place][:-1] == known
        assert after[place][-1][3] == "new"
