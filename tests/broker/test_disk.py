"""Disks that are full, dead, read-only, lying or stalled: errors are named, nothing acknowledged is lost."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from kbroker import Consumer, Producer
from kbroker.errors import KafkaStorageError, RetriableError
from kbroker.kafka import codec as codec_of_kafka
from kbroker.kafka.apis import ApiKey
from kbroker.records.codec import decode_list, iter_batches
from kbroker.testing import Broker, BrokerFailed
from kbroker.wire import codec
from kbroker.wire import messages as m

from .disks import Disk, ext4_disk, memory_disk
from .kafka_client import KafkaClient
from .kafka_raw import dial
from .raw_client import RawClient, batch, direct
from .test_kafka_fetch import fetch, partitions

pytestmark = [pytest.mark.root, pytest.mark.slow]

KILOBYTES_100 = [bytes(100_000)]


def produce_until_refused(
    client: RawClient, topic: str, acks: int = -1, values: list[bytes] = KILOBYTES_100
) -> tuple[int, KafkaStorageError]:
    """How many batches of one record were acknowledged, and why the next was not."""
    for count in range(2000):
        try:
            client.ask(m.ProduceAnswer, m.Produce(topic, 0, acks), batch(values))
        except KafkaStorageError as error:
            return count, error
    raise AssertionError("the disk has no end")


def served_again(client: RawClient, topic: str, partition: int = 0) -> bool:
    try:
        client.ask(m.ProduceAnswer, m.Produce(topic, partition), batch(1))
    except RetriableError:
        return False
    return True


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", 16) as disk, Broker(data_dir=disk.data_dir) as broker:
        with RawClient(broker.server) as client:
            client.create("t")
            client.create("other")
            client.produce("other", batch(1))
            pids = {name: process["pid"] for name, process in broker.processes().items()}
            count, error = produce_until_refused(client, "t")
            assert count > 50
            assert "No space left on device" in str(error)
            filler = disk.fill()
            for _ in range(3):
                with pytest.raises(KafkaStorageError, match="No space left on device"):
                    client.ask(m.ProduceAnswer, m.Produce("t", 0, acks=1), batch(KILOBYTES_100))
            assert broker.log.count("cannot write") == 1
            assert len(client.records("t")) == count
            # What was freed meanwhile may do for one more; then there is nothing left.
            results = [
                client.ask(m.TopicResults, m.CreateTopics([m.NewTopic(f"more-{number}", 1)])).topics[0].error
                for number in range(8)
            ]
            assert results[-1] == KafkaStorageError.code
            assert {name: process["pid"] for name, process in broker.processes().items()} == pids
            # Also who starts on a full disk is read from, waits for space and does nobody harm.
            broker.kill("worker-0")
            broker.wait_until(lambda: broker.log.count("the disk takes no writes") == 2)
            assert len(client.records("t")) == count
            broker.kill("coordinator")
            filler.unlink()
            disk.remount("size=32m")
            broker.wait_until(lambda: served_again(client, "t") and served_again(client, "other"), 30)
            broker.wait_until(lambda: all(process["ready"] for process in broker.processes().values()))
            values = [record[4] for record in client.records("t")]
            assert values[:count] == KILOBYTES_100 * count
            assert KILOBYTES_100[0] not in values[count:]
            broker.wait_until(lambda: is_whole(broker), 30)
            client.ask_until_served(m.TopicResults, m.CreateTopics([m.NewTopic("two-more", 4)]))
            assert client.produce("two-more", batch(1), partition=3).base_offset == 0
        assert not list(disk.data_dir.glob("meta.db.corrupt*"))


@pytest.mark.slow
def test_a_dead_disk(tmp_path: Path) -> None:
    with ext4_disk(tmp_path / "disk", tmp_path / "image", 64) as disk:
        with Broker(workers=2, data_dir=disk.data_dir) as broker:
            with RawClient(broker.server) as client:
                client.create("t", 2)
                acknowledged = [0, 0]
                for number in range(20):
                    client.produce("t", batch(KILOBYTES_100), partition=number % 2)
                    acknowledged[number % 2] += 1
                client.ask(m.TopicResults, m.AlterSettings("t", {"retention.ms": "123456789"}))
                pids = {name: process["pid"] for name, process in broker.processes().items()}
                disk.die()
                for partition in (0, 1):
                    for acks in (-1, 1):
                        with pytest.raises(KafkaStorageError, match=r"Input/output error|I/O error"):
                            client.ask(m.ProduceAnswer, m.Produce("t", partition, acks), batch(1))
                result = client.ask(m.TopicResults, m.CreateTopics([m.NewTopic("late")])).topics[0]
                assert result.error == KafkaStorageError.code
                header = client.fetch("t", 0, max_wait_ms=0)[0]
                assert codec.decode_answer(m.FetchAnswer, header).partitions[0].error in (0, KafkaStorageError.code)
                assert {name: process["pid"] for name, process in broker.processes().items()} == pids
            broker.kill_all()
        disk.unmount()
        disk.mount()
        with Broker(workers=2, data_dir=disk.data_dir) as broker, RawClient(broker.server) as client:
            assert [len(client.records("t", partition)) for partition in (0, 1)] == acknowledged
            found = client.ask(m.SettingsAnswer, m.DescribeSettings("t")).settings
            assert [s.value for s in found if s.name == "retention.ms"] == ["123456789"]


def test_power_loss_takes_only_what_nobody_was_promised(tmp_path: Path) -> None:
    with ext4_disk(tmp_path / "disk", tmp_path / "image", 64) as disk:
        settings = {"log.flush.interval.ms": "3600000"}
        with Broker(settings, data_dir=disk.data_dir) as broker:
            with RawClient(broker.server) as client:
                client.create("t")
                for _ in range(10):
                    client.produce("t", batch(2))
                header = client.fetch("t", 0)[0]
                epoch = codec.decode_answer(m.FetchAnswer, header).partitions[0].leader_epoch
                for _ in range(10):
                    client.produce("t", batch(2), acks=1)
            disk.die()
            broker.kill_all()
        disk.unmount()
        disk.mount()
        with Broker(settings, data_dir=disk.data_dir) as broker, RawClient(broker.server) as client:
            assert len(client.records("t")) == 20
            client.produce("t", batch(30))
            # A consumer that had read up to offset 38 in the old epoch is told that this is another log now.
            place = m.FetchPartition("t", 0, 38, last_epoch=epoch)
            header, *payload = client.take(client.send(m.Fetch([place])))
            assert codec.decode_answer(m.FetchAnswer, header).partitions[0].diverging_offset == 20
            assert payload == []


def test_a_disk_that_turns_read_only(tmp_path: Path) -> None:
    """As ext4 does by itself after an error. Records are read on, all ways; nothing is written; status says so."""
    with (
        ext4_disk(tmp_path / "disk", tmp_path / "image", 64, mount="errors=remount-ro") as disk,
        Broker(data_dir=disk.data_dir, listeners="PLAINTEXT://127.0.0.1:0") as broker,
        RawClient(broker.server) as client,
        KafkaClient(broker, 1) as kafka,
    ):
        client.create("t")
        client.create("quiet")
        for topic in ("t", "quiet"):
            client.produce(topic, batch(5))
        pids = {name: process["pid"] for name, process in broker.processes().items()}
        disk.fail()
        for acks in (1, -1):
            with pytest.raises(KafkaStorageError, match="Read-only file system"):
                client.ask(m.ProduceAnswer, m.Produce("t", 0, acks), batch(1))
        assert kafka.produce("t", 0, b"x").error_code == KafkaStorageError.code
        result = client.ask(m.TopicResults, m.CreateTopics([m.NewTopic("late")])).topics[0]
        assert result.error == KafkaStorageError.code

        def read_all_ways() -> None:
            for topic in ("t", "quiet"):
                assert len(client.records(topic)) == 5
                assert len(fetched(kafka, topic)) == 5
                for transport in ("shm", "zmq"):
                    with Consumer(
                        topic, server=broker.server, auto_offset_reset="earliest", transport=transport
                    ) as consumer:
                        assert sum(map(len, consumer.poll(timeout_ms=10_000).values())) == 5
                        assert consumer.transport == transport

        read_all_ways()
        broker.wait_until(lambda: "writes to t-0" in outages(broker))
        assert "Read-only file system" in outages(broker)["writes to t-0"]
        assert {name: process["pid"] for name, process in broker.processes().items()} == pids
        for name in ("worker-0", "coordinator"):
            broker.kill_and_wait(name)
        broker.wait_until(lambda: "writes to quiet-0" in outages(broker), 20)
        # Its connections ended with the worker.
        with RawClient(broker.server) as client, KafkaClient(broker, 1) as kafka:
            read_all_ways()


def test_a_start_on_a_read_only_disk(tmp_path: Path) -> None:
    """Everything that was there can be read; once it takes writes again the broker goes on by itself."""
    with (
        ext4_disk(tmp_path / "disk", tmp_path / "image", 64) as disk,
        Broker(data_dir=disk.data_dir) as broker,
    ):
        with RawClient(broker.server) as client:
            client.create("t")
            client.produce("t", batch(5))
        broker.kill_all()
        disk.remount("ro")
        broker.start()
        with RawClient(broker.server) as client:
            assert len(client.records("t")) == 5
            with pytest.raises(KafkaStorageError, match="Read-only file system"):
                client.ask(m.ProduceAnswer, m.Produce("t", 0), batch(1))
            with pytest.raises(KafkaStorageError, match="takes no writes: Read-only file system"):
                client.create("late")
            assert set(outages(broker)) == {"writes to t-0", "changes of topics", "groups"}
            disk.remount("rw")
            broker.wait_until(lambda: is_whole(broker), 30)
            assert client.produce("t", batch(1)).base_offset == 5
            client.create("late")
        assert broker.stop() == 0
        broker.start()
        with RawClient(broker.server) as client:
            assert len(client.records("t")) == 6


def test_an_empty_read_only_disk(tmp_path: Path) -> None:
    with ext4_disk(tmp_path / "disk", tmp_path / "image", 64) as disk:
        disk.data_dir.mkdir()
        disk.remount("ro")
        with pytest.raises(BrokerFailed, match=r"Read-only file system"):
            Broker(data_dir=disk.data_dir).start()


@pytest.mark.slow
def test_a_sync_that_fails_and_then_lies(tmp_path: Path) -> None:
    with (
        memory_disk(tmp_path / "below", 12) as below,
        ext4_disk(tmp_path / "disk", below.folder / "image", 64, "-O", "^has_journal") as disk,
        Broker(data_dir=disk.data_dir) as broker,
        RawClient(broker.server) as client,
    ):
        client.create("t")
        count, error = produce_until_refused(client, "t")
        assert count > 10
        assert "t-0" in str(error)
        for _ in range(5):
            with pytest.raises(RetriableError):
                client.ask(m.ProduceAnswer, m.Produce("t", 0), batch(1))
        assert len(client.records("t")) == count, "reads go on"
        # Its successor tries to copy what the page cache shows: that fails too.
        refused = "t-0: the disk takes no writes"
        broker.kill("worker-0")
        broker.wait_until(lambda: refused in broker.log.partition("was killed by SIGKILL; restarting")[2])
        for _ in range(5):
            with pytest.raises(RetriableError):
                client.ask(m.ProduceAnswer, m.Produce("t", 0), batch(1))
        below.remount("size=200m")
        broker.wait_until(lambda: served_again(client, "t"), 40)
        values = [record[4] for record in client.records("t")]
        assert values[:count] == KILOBYTES_100 * count
        # From the disk, not from the page cache: that is what the sync had lied about.
        client.produce("t", batch([b"the last"]))
        expected = len(values) + 1
        broker.kill_all()
        disk.unmount()
        disk.mount()
        broker.start()
        assert len(client.records("t")) == expected


@pytest.mark.slow
def test_a_stalled_disk(tmp_path: Path) -> None:
    settings = {"process.heartbeat.timeout.ms": "500", "log.flush.interval.ms": "3600000"}
    with (
        ext4_disk(tmp_path / "disk", tmp_path / "image", 64) as disk,
        Broker(settings, workers=2, data_dir=disk.data_dir) as broker,
        RawClient(broker.server) as client,
    ):
        client.create("t", 2)
        for partition in (0, 1):
            client.produce("t", batch(5), partition=partition)
        pids = {name: process["pid"] for name, process in broker.processes().items()}
        owner = client.ask(m.MetadataAnswer, m.Metadata(["t"])).topics[0].partitions[0].leader - 1
        disk.freeze()
        try:
            stuck = client.send(m.Produce("t", 0), batch(1))
            broker.wait_until(lambda: bool(broker.processes()[f"worker-{owner}"]["stalled"]))
            with RawClient(broker.server) as reader, RawClient(direct(broker, 1 - owner)) as other:
                assert len(reader.records("t", 1)) == len(other.records("t", 1)) == 5
            assert {name: process["pid"] for name, process in broker.processes().items()} == pids
            assert "disk stalled" in broker.log
        finally:
            disk.thaw()
        assert codec.decode_answer(m.ProduceAnswer, client.take(stuck)[0]).base_offset == 5
        broker.wait_until(lambda: not broker.processes()[f"worker-{owner}"]["stalled"])
        assert client.produce("t", batch(1), partition=1).base_offset == 5
        assert {name: process["pid"] for name, process in broker.processes().items()} == pids


@pytest.mark.slow
def test_a_producer_warns_of_the_cause_and_not_of_what_follows_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        memory_disk(tmp_path / "disk", 16) as disk,
        Broker(data_dir=disk.data_dir) as broker,
        Producer(broker.server, batch_size=0, linger_ms=0) as producer,
    ):
        producer.send("t", b"first").get(30)
        filler = disk.fill()
        futures = [producer.send("t", bytes(100_000)) for _ in range(5)]
        # One is refused for the disk, those behind it for the gap, eight times each.
        broker.wait_until(lambda: producer.metrics()["retries"] >= 40, 30)
        filler.unlink()
        assert [future.get(30).offset for future in futures] == [1, 2, 3, 4, 5]
    assert "No space left on device" in caplog.text
    assert "follows" not in caplog.text


def outages(broker: Broker) -> dict[str, str]:
    return {outage["what"]: outage["why"] for outage in broker.status()["outages"]}


def fetched(kafka: KafkaClient, topic: str) -> list[Any]:
    answer = fetch(kafka, topic, {0: 0})
    return [record for one in iter_batches(partitions(answer)[0].records) for record in decode_list(one)]


def free_bytes(disk: Disk) -> int:
    facts = os.statvfs(disk.folder)
    return facts.f_bavail * facts.f_frsize


def is_whole(broker: Broker) -> bool:
    document = broker.status()
    return document["state"] == "ready" and not document["outages"]


def test_a_topic_is_deleted_on_a_disk_without_a_free_byte(tmp_path: Path) -> None:
    with (
        memory_disk(tmp_path / "disk", 24) as disk,
        Broker(data_dir=disk.data_dir) as broker,
        RawClient(broker.server) as client,
    ):
        client.create("t")
        client.create("other")
        for _ in range(50):
            client.produce("t", batch(KILOBYTES_100), acks=1)
        disk.fill()
        while True:
            result = client.ask(m.TopicResults, m.CreateTopics([m.NewTopic(f"more-{time.monotonic_ns()}")])).topics[0]
            if result.error == KafkaStorageError.code:
                break
        assert free_bytes(disk) < 1 << 20
        client.ask(m.TopicResults, m.DeleteTopics(["t"]))
        broker.wait_until(lambda: free_bytes(disk) > 4_000_000)
        client.create("again")
        broker.wait_until((disk.data_dir / ".spare").exists)
        client.produce("other", batch(1))
        broker.wait_until(lambda: is_whole(broker), 20)


def test_a_deleted_topic_gives_its_space_back_at_once(tmp_path: Path) -> None:
    """Whoever still waits for its records, or does not take them; and `status` is whole again without any write."""
    with (
        memory_disk(tmp_path / "disk", 40) as disk,
        Broker(data_dir=disk.data_dir, listeners="PLAINTEXT://127.0.0.1:0") as broker,
        RawClient(broker.server) as client,
        RawClient(broker.server) as waiting,
        Consumer("t", server=broker.server, auto_offset_reset="earliest", transport="shm") as reader,
    ):
        client.create("t", segment_bytes=str(4 << 20))
        client.create("other")
        client.produce("other", batch(1))
        for _ in range(200):
            client.produce("t", batch(KILOBYTES_100), acks=1)
        assert reader.poll(timeout_ms=10_000)
        waiting.send(m.Fetch([m.FetchPartition("t", 0, 200)], max_wait_ms=60_000))
        types = codec_of_kafka.request_types(ApiKey.FETCH)
        place = types.FetchPartition(
            partition=0, current_leader_epoch=-1, fetch_offset=0, log_start_offset=-1, partition_max_bytes=16 << 20
        )
        wanted = types.FetchRequest(
            replica_id=-1, max_wait_ms=0, min_bytes=1, max_bytes=16 << 20, topics=[types.FetchTopic("t", [place])]
        )
        with dial(broker, receive_bytes=4096) as lazy:
            lazy.sendall(b"".join(codec_of_kafka.write_request(ApiKey.FETCH, 4, 1, "lazy", wanted)))
            lazy.recv(1)
            # What does not fit any more leaves some 100 KB, which the catalog needs for the deletion.
            _, error = produce_until_refused(client, "other", values=[bytes(900_000)])
            assert "No space left" in str(error)
            broker.wait_until(lambda: not is_whole(broker))
            assert free_bytes(disk) < 2 << 20
            client.ask(m.TopicResults, m.DeleteTopics(["t"]))
            reader.poll(timeout_ms=0)  # a reader closes its files when it looks, or ends
            broker.wait_until(lambda: free_bytes(disk) > 20_000_000, 3)
            broker.wait_until(lambda: is_whole(broker), 5)
        assert "other-0 takes records again" in broker.log
        client.produce("other", batch(1))
