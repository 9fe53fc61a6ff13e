"""Records that were on the disk and are gone, or have changed there: clients and operators are told."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from confluent_kafka import Consumer as KafkaReader
from confluent_kafka import Producer as KafkaWriter
from confluent_kafka import TopicPartition as KafkaPartition

from kbroker import Consumer, Producer
from kbroker.errors import CorruptRecord, OffsetOutOfRange, PolicyViolation
from kbroker.testing import Broker
from kbroker.wire import messages as m

from ..log.batches import batch as log_batch
from .kafka_client import KafkaClient
from .raw_client import RawClient, batch
from .test_kafka_fetch import list_offsets

pytestmark = pytest.mark.slow

TOPIC = "orders"
MAX_TIMESTAMP = -3


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as running:
        yield running


def with_segments(broker: Broker, topic: str = TOPIC, count: int = 5) -> list[Path]:
    """A topic of `count` segments with ten records each. Returns their files."""
    with RawClient(broker.server) as client:
        client.create(topic, segment_ms="1", retention_ms="-1")
        for number in range(count):
            client.produce(topic, bytes(log_batch([b"%d" % n for n in range(10)], timestamp_ms=1_000 * (number + 1))))
    files = sorted((broker.data_dir / f"{topic}-0").glob("*.log"))
    assert len(files) == count
    return files


def run(broker: Broker, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = broker.environment | {"KBROKER_SERVER": broker.server}
    return subprocess.run(
        [sys.executable, "-m", "kbroker", *arguments],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def offsets(broker: Broker, topic: str = TOPIC) -> list[int]:
    with RawClient(broker.server) as client:
        return [record[0] for record in client.records(topic)]


def test_a_lost_segment_keeps_its_partition_from_writing(broker: Broker) -> None:
    files = with_segments(broker)
    assert broker.stop() == 0
    files[1].unlink()
    for attempt in range(2):
        broker.start()
        status = run(broker, "status")
        assert status.returncode == 3
        assert "degraded" in status.stdout
        assert "writes to orders-0: offsets 10 to 19 were on the disk and are not there" in status.stdout
        assert "kbroker log repair orders-0 --accept-loss" in status.stdout
        assert broker.log.count("ERROR worker 0: orders-0: offsets 10 to 19 were on the disk") == attempt + 1
        with RawClient(broker.server) as client, KafkaClient(broker, 1) as kafka:
            for acks in (-1, 1):
                with pytest.raises(PolicyViolation, match=r"orders-0: offsets 10 to 19.*--accept-loss"):
                    client.produce(TOPIC, batch(1), acks=acks)
                found = kafka.produce(TOPIC, 0, b"x", acks=acks)
                assert found.error_code == 44
                assert "--accept-loss" in found.error_message
        assert offsets(broker) == [*range(10), *range(20, 50)], "reads go on"
        if not attempt:
            broker.kill_all()
    with Producer(broker.server) as producer, pytest.raises(PolicyViolation, match="accept-loss"):
        producer.send(TOPIC, b"x").get(10)
    refused: list[object] = []
    writer = KafkaWriter({"bootstrap.servers": broker.bootstrap_servers})
    writer.produce(TOPIC, b"x", on_delivery=lambda error, _record: refused.append(error and error.name()))
    assert writer.flush(10) == 0, "at once, not after the time-out"
    assert refused == ["POLICY_VIOLATION"]

    assert run(broker, "log", "repair", "orders-0").returncode == 1, "a loss is accepted by name only"
    assert "ends at 10" in run(broker, "log", "verify", str(files[0].parent)).stdout
    repaired = run(broker, "log", "repair", "orders-0", "--accept-loss")
    assert repaired.returncode == 0, repaired.stderr
    assert "orders-0: goes on without offsets 10 to 19" in repaired.stdout
    assert run(broker, "log", "verify", str(files[0].parent)).returncode == 0, "what is accepted is no fault"
    with RawClient(broker.server) as client:
        assert client.produce(TOPIC, batch(1)).base_offset == 50
    broker.wait_until(lambda: broker.status()["state"] == "ready")
    for transport in ("shm", "zmq"):
        with Consumer(TOPIC, server=broker.server, auto_offset_reset="earliest", transport=transport) as consumer:
            read = [record.offset for record in islice(consumer, 41)]
        assert read == [*range(10), *range(20, 51)], "a consumer goes past the gap"
    broker.restart()
    assert broker.status()["state"] == "ready"


def test_a_cut_tail_is_set_aside_and_repaired_with_no_broker(broker: Broker) -> None:
    files = with_segments(broker)
    assert broker.stop() == 0
    with files[-1].open("r+b") as file:
        file.truncate(files[-1].stat().st_size - 7)
    rest = files[-1].read_bytes()
    broker.start()
    assert "offsets 40 to 49 were on the disk" in run(broker, "status").stdout
    assert files[-1].with_name(f"{files[-1].name}.corrupt").read_bytes() == rest
    assert offsets(broker) == [*range(40)]
    broker.stop()
    arguments = ("log", "repair", "orders-0", "--data-dir", str(broker.data_dir))
    refused = run(broker, *arguments)
    assert refused.returncode == 1
    assert "--accept-loss" in refused.stderr
    assert run(broker, *arguments, "--accept-loss").returncode == 0
    assert "nothing is corrupt or lost" in run(broker, *arguments).stdout
    broker.start()
    assert broker.status()["state"] == "ready"
    with RawClient(broker.server) as client:
        assert client.produce(TOPIC, batch(1)).base_offset == 50


def test_a_folder_that_is_gone_is_no_new_partition(broker: Broker) -> None:
    with_segments(broker)
    broker.stop()
    shutil.rmtree(broker.data_dir / "orders-0")
    broker.start()
    assert "writes to orders-0: offsets 0 and on were on the disk" in run(broker, "status").stdout
    with RawClient(broker.server) as client:
        with pytest.raises(PolicyViolation, match="files are gone"):
            client.produce(TOPIC, batch(1))
        client.create("fresh", 1)
        client.produce("fresh", batch(1))
    assert run(broker, "log", "repair", "orders-0", "--accept-loss").returncode == 0
    with RawClient(broker.server) as client:
        assert client.produce(TOPIC, batch(1)).base_offset == 0


def test_lost_offsets_of_groups_keep_groups_out_of_service(broker: Broker) -> None:
    with RawClient(broker.server) as client:
        client.create(TOPIC, 1)
        client.produce(TOPIC, batch(1))
    committed = run(broker, "group", "reset-offsets", "g", "--topic", TOPIC, "--to-latest", "--execute")
    if committed.returncode:
        committed = run(broker, "consume", TOPIC, "-g", "g", "--from-beginning", "-n", "1")
    assert committed.returncode == 0, committed.stderr
    broker.stop()
    path = broker.data_dir / "__consumer_offsets-0" / f"{0:020d}.log"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    broker.start()
    assert "kbroker log repair __consumer_offsets-0 --accept-loss" in run(broker, "status").stdout
    repaired = run(broker, "log", "repair", "__consumer_offsets-0", "--accept-loss")
    assert repaired.returncode == 0, repaired.stderr
    broker.wait_until(lambda: broker.status()["state"] == "ready", 30)


def test_repair_says_what_was_wrong_with_its_arguments(broker: Broker) -> None:
    assert "is no partition" in run(broker, "log", "repair", "orders").stderr
    missing = run(broker, "log", "repair", "nothing-0")
    assert missing.returncode == 2
    assert "there is no folder" in missing.stderr


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x40
    with path.open("r+b") as file:
        file.seek(position)
        file.write(content[position : position + 1])


@pytest.mark.parametrize("found_by", ["scrub", "native", "kafka", "report", "shm", "zmq"])
def test_a_corrupt_segment_is_told_and_gone_past(found_by: str) -> None:
    with Broker(log_scrub_bytes_per_second=1 << 30 if found_by == "scrub" else 0) as broker:
        files = with_segments(broker)
        if found_by in ("scrub", "report", "shm", "zmq"):
            flip(files[1], files[1].stat().st_size - 5)  # in the last record: only the CRC tells
            if found_by == "report":
                with RawClient(broker.server) as client:
                    for offset in (17, 17, 31):
                        client.ask(m.CorruptReported, m.ReportCorrupt(TOPIC, 0, offset))
                    with pytest.raises(OffsetOutOfRange):
                        client.ask(m.CorruptReported, m.ReportCorrupt(TOPIC, 0, 10_000))
            elif found_by != "scrub":
                with (
                    Consumer(TOPIC, server=broker.server, auto_offset_reset="earliest", transport=found_by) as consumer,
                    pytest.raises(CorruptRecord),
                ):
                    for _ in consumer:
                        pass
        else:
            flip(files[1], 16)  # the magic: a reader stumbles over it
            with RawClient(broker.server) as client:
                if found_by == "native":
                    client.fetch(TOPIC, 15, max_wait_ms=0)
                else:
                    reader = KafkaReader({"bootstrap.servers": broker.bootstrap_servers, "group.id": "g"})
                    reader.assign([KafkaPartition(TOPIC, 0, 15)])
                    broker.wait_until(lambda: reader.poll(0.1) is None and "corrupt" in broker.log, 20)
                    reader.close()
        broker.wait_until(lambda: broker.status()["outages_in_all"] == 1, 25)
        status = run(broker, "status").stdout
        assert "offsets 10 to 19 of orders-0: corrupt, readers stop there; `kbroker log repair orders-0`" in status
        assert "ERROR worker 0: orders-0: offsets 10 to 19 are corrupt" in broker.log
        with RawClient(broker.server) as client:
            assert client.produce(TOPIC, batch(1)).base_offset == 50, "writes go on"
        content = files[1].read_bytes()
        broker.kill("worker-0")
        broker.wait_until(lambda: broker.is_ready("worker-0"))
        assert broker.status()["outages_in_all"] == 1, "whoever comes next knows it"
        repaired = run(broker, "log", "repair", "orders-0")
        assert repaired.returncode == 0, repaired.stderr
        assert "goes on without offsets 10 to 19" in repaired.stdout
        assert files[1].with_name(f"{files[1].name}.corrupt").read_bytes() == content
        broker.wait_until(lambda: broker.status()["state"] == "ready")
        assert offsets(broker) == [*range(10), *range(20, 51)]


def test_the_largest_timestamp_is_found_after_a_restart(broker: Broker) -> None:
    with_segments(broker)
    with RawClient(broker.server) as client:
        client.produce(TOPIC, bytes(log_batch([b"x"], timestamp_ms=700)))  # older than all others
    for _ in range(2):
        broker.restart()
        with KafkaClient(broker, 1) as kafka:
            assert list_offsets(kafka, TOPIC, 0, MAX_TIMESTAMP) == (0, 49, 5_009)
        broker.kill("worker-0")
        broker.wait_until(lambda: broker.is_ready("worker-0"))
