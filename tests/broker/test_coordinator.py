"""Topics: what a create, delete or alter has promised when it is answered, and what is refused by which name."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from kbroker.errors import (
    InvalidConfig,
    InvalidPartitions,
    InvalidReplicationFactor,
    InvalidTopic,
    MessageTooLarge,
    RequestError,
    RequestTimedOut,
    RetriableError,
    TopicAlreadyExists,
    UnknownTopicOrPartition,
)
from kbroker.testing import Broker, BrokerFailed
from kbroker.wire import codec
from kbroker.wire import messages as m

from .raw_client import RawClient, batch, direct, owner_of

pytestmark = pytest.mark.slow

Ask = Callable[[object], None]


@pytest.fixture
def change(client: RawClient) -> Ask:
    """Asks for a change and raises the error of its first topic."""

    def ask(request: object) -> None:
        result = client.ask(m.TopicResults, request).topics[0]
        codec.raise_error(result.error, result.message)

    return ask


def folders(broker: Broker, topic: str) -> list[str]:
    return sorted(path.name for path in broker.data_dir.iterdir() if path.name.startswith(topic))


def owners(client: RawClient, topic: str) -> list[int]:
    """The worker of each partition."""
    found = client.ask(m.MetadataAnswer, m.Metadata([topic])).topics[0]
    return [partition.leader - 1 for partition in found.partitions]


def test_a_created_topic_takes_records_at_once_on_every_path(broker: Broker, client: RawClient, topic: str) -> None:
    with RawClient(direct(broker, 0)) as first, RawClient(direct(broker, 1)) as second:
        doors = (first, second)
        for number in range(50):
            name = f"{topic}-{number}"
            client.create(name, 4)
            for partition, owner in enumerate(owners(client, name)):
                # `ask`, not `produce`: not even an error that invites to try again is allowed.
                request = m.Produce(name, partition, acks=1)
                assert client.ask(m.ProduceAnswer, request, batch(1)).base_offset == 0
                assert doors[owner].ask(m.ProduceAnswer, request, batch(1)).base_offset == 1


def test_a_topic_made_anew_has_nothing_of_the_old_one(
    broker: Broker, client: RawClient, topic: str, change: Ask
) -> None:
    for _ in range(5):
        client.create(topic, 3)
        for partition in range(3):
            assert client.ask(m.ProduceAnswer, m.Produce(topic, partition), batch(4)).base_offset == 0
        change(m.DeleteTopics([topic]))
        assert folders(broker, topic) == []
        with pytest.raises(UnknownTopicOrPartition):
            client.ask(m.ProduceAnswer, m.Produce(topic, 0), batch(1))
    client.create(topic)
    assert client.records(topic) == []


def test_delete_and_create_at_once_leave_the_new_topic(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic, 4)
    for partition in range(4):
        client.produce(topic, batch([bytes(100_000)]), partition=partition)
    pending = []
    for _ in range(10):
        pending.append(client.send(m.DeleteTopics([topic])))
        pending.append(client.send(m.CreateTopics([m.NewTopic(topic, 4)])))
    for request_id in pending:
        (result,) = codec.decode_answer(m.TopicResults, client.take(request_id)[0]).topics
        assert result.error == 0, result.message
    assert folders(broker, topic) == [f"{topic}-{partition}" for partition in range(4)]
    for partition in range(4):
        assert client.ask(m.ProduceAnswer, m.Produce(topic, partition), batch(1)).base_offset == 0


def test_the_space_of_a_deleted_topic_is_free_at_once(broker: Broker, client: RawClient, topic: str) -> None:
    """An open file keeps its space: none may wait for a garbage collection, which in an idle worker never comes."""
    client.create(topic, 8)
    for partition in range(8):
        client.produce(topic, batch(1), partition=partition)
    client.send(m.Fetch([m.FetchPartition(topic, partition, 1) for partition in range(8)], max_wait_ms=60_000))
    client.ask(m.TopicResults, m.DeleteTopics([topic]))

    def deleted_files() -> list[str]:
        folders = [Path(f"/proc/{broker.pid(f'worker-{index}')}/fd") for index in range(broker.workers)]
        places = [os.readlink(fd) for folder in folders for fd in folder.iterdir() if fd.is_symlink()]
        return [place for place in places if f"/{topic}-" in place]

    broker.wait_until(lambda: not deleted_files())


def test_a_topic_deleted_and_made_anew_while_its_workers_are_dead(
    broker: Broker, client: RawClient, topic: str, change: Ask
) -> None:
    client.create(topic, 4)
    for partition in range(4):
        client.produce(topic, batch(9), partition=partition)
    broker.kill("worker-0")
    broker.kill("worker-1")
    change(m.DeleteTopics([topic]))
    client.create(topic, 4)
    for partition in range(4):
        assert client.produce(topic, batch(1), partition=partition).base_offset == 0
    broker.wait_until(lambda: folders(broker, topic) == [f"{topic}-{partition}" for partition in range(4)])
    assert "out of service" not in broker.log


def test_a_folder_is_remembered_until_its_own_worker_has_deleted_it(
    broker: Broker, client: RawClient, topic: str, change: Ask
) -> None:
    client.create(topic, 4)
    broker.kill("worker-1", signal.SIGSTOP)
    with pytest.raises(RequestTimedOut, match="the change is made, but worker-1 did not acknowledge it"):
        change(m.DeleteTopics([topic], timeout_ms=200))
    broker.wait_until(lambda: len(folders(broker, topic)) == 2)
    broker.kill_and_wait("worker-1")
    broker.wait_until(lambda: not folders(broker, topic))


def test_a_deletion_that_was_interrupted_is_gone_on_with(broker: Broker, topic: str) -> None:
    left = broker.data_dir / f"{topic}-0.{'0123456789abcdef' * 2}-delete"
    left.mkdir()
    (left / "00000000000000000000.log").write_bytes(bytes(100))
    not_ours = broker.data_dir / "notes-delete"
    not_ours.mkdir()
    broker.kill_and_wait("worker-0")
    broker.wait_until(lambda: not left.exists())
    assert not_ours.exists()


def test_the_longest_name_can_be_created_and_deleted(broker: Broker, client: RawClient, change: Ask) -> None:
    name = "n" * 249
    client.create(name, 2)
    client.produce(name, batch(1), partition=1)
    change(m.DeleteTopics([name]))
    assert folders(broker, "nnn") == []


def test_more_partitions(client: RawClient, topic: str, change: Ask) -> None:
    client.create(topic, 2)
    client.produce(topic, batch(3), partition=1)
    change(m.CreatePartitions(topic, 6))
    for partition in (0, 2, 3, 4, 5):
        assert client.ask(m.ProduceAnswer, m.Produce(topic, partition), batch(1)).base_offset == 0
    assert len(client.records(topic, 1)) == 3
    with pytest.raises(InvalidPartitions, match="only grow"):
        change(m.CreatePartitions(topic, 6))
    with pytest.raises(UnknownTopicOrPartition):
        change(m.CreatePartitions("nobody", 6))


def test_settings_take_effect_when_the_alter_is_answered(client: RawClient, topic: str, change: Ask) -> None:
    client.create(topic)
    change(m.AlterSettings(topic, {"max.message.bytes": "500"}))
    with pytest.raises(MessageTooLarge, match="allows 500"):
        client.ask(m.ProduceAnswer, m.Produce(topic, 0), batch([bytes(1000)]))
    found = {s.name: s for s in client.ask(m.SettingsAnswer, m.DescribeSettings(topic)).settings}
    assert (found["max.message.bytes"].value, found["max.message.bytes"].source) == ("500", "topic")
    change(m.AlterSettings(topic, remove=["max.message.bytes"]))
    assert client.ask(m.ProduceAnswer, m.Produce(topic, 0), batch([bytes(1000)])).base_offset == 0
    with pytest.raises(InvalidConfig, match=r"did you mean retention\.ms"):
        change(m.AlterSettings(topic, {"retention.mss": "5"}))
    with pytest.raises(InvalidConfig, match=r"did you mean retention\.ms"):
        change(m.AlterSettings(topic, remove=["retention.mss"]))
    change(m.AlterSettings(topic, remove=["retention.ms"]))
    with pytest.raises(InvalidConfig, match=r"retention\.ms='soon' is not valid"):
        change(m.AlterSettings(topic, {"retention.ms": "soon"}))
    with pytest.raises(UnknownTopicOrPartition):
        change(m.AlterSettings("nobody", {"retention.ms": "5"}))
    with pytest.raises(UnknownTopicOrPartition):
        client.ask(m.SettingsAnswer, m.DescribeSettings("nobody"))


@pytest.mark.parametrize(
    ("new", "error", "words"),
    [
        (m.NewTopic(""), InvalidTopic, "empty"),
        (m.NewTopic(".."), InvalidTopic, "cannot be called"),
        (m.NewTopic("a/b"), InvalidTopic, "characters other than"),
        (m.NewTopic("a\nb"), InvalidTopic, "characters other than"),
        (m.NewTopic("é"), InvalidTopic, "characters other than"),
        (m.NewTopic("n" * 250), InvalidTopic, "at most 249"),
        (m.NewTopic("fine", 0), InvalidPartitions, "at least 1"),
        (m.NewTopic("fine", -3), InvalidPartitions, "at least 1"),
        (m.NewTopic("fine", 2**62), InvalidPartitions, r"partitions\.max"),
        (m.NewTopic("fine", 1, 3), InvalidReplicationFactor, "one broker host"),
        (m.NewTopic("fine", 1, 0), InvalidReplicationFactor, "one broker host"),
        (m.NewTopic("fine", settings={"retension.ms": "5"}), InvalidConfig, r"did you mean retention\.ms"),
        (m.NewTopic("fine", settings={"retention.ms": "-9"}), InvalidConfig, "not valid"),
        (m.NewTopic("taken.name"), TopicAlreadyExists, "exists already"),
        (m.NewTopic("taken_name"), InvalidTopic, "would collide"),
    ],
)
def test_what_cannot_be_created_is_named_also_by_a_dry_run(
    client: RawClient, change: Ask, new: m.NewTopic, error: type[RequestError], words: str
) -> None:
    client.ask(m.TopicResults, m.CreateTopics([m.NewTopic("taken.name")]))
    for validate_only in (True, False):
        with pytest.raises(error, match=words):
            change(m.CreateTopics([new], validate_only=validate_only))


def test_a_dry_run_makes_nothing(broker: Broker, client: RawClient, topic: str, change: Ask) -> None:
    change(m.CreateTopics([m.NewTopic(topic)], validate_only=True))
    assert client.ask(m.MetadataAnswer, m.Metadata([topic])).topics[0].error == UnknownTopicOrPartition.code
    assert folders(broker, topic) == []


def test_one_request_with_good_and_bad_topics(client: RawClient, topic: str) -> None:
    new = [m.NewTopic(topic), m.NewTopic("a b"), m.NewTopic(topic), m.NewTopic(f"{topic}-2", 2)]
    results = client.ask(m.TopicResults, m.CreateTopics(new)).topics
    assert [result.error for result in results] == [0, InvalidTopic.code, TopicAlreadyExists.code, 0]
    results = client.ask(m.TopicResults, m.DeleteTopics([topic, "nobody", f"{topic}-2"])).topics
    assert [result.error for result in results] == [0, UnknownTopicOrPartition.code, 0]


def test_metadata_makes_topics_only_when_asked_to(client: RawClient, topic: str) -> None:
    assert client.ask(m.MetadataAnswer, m.Metadata([topic])).topics[0].error == UnknownTopicOrPartition.code
    answer = client.ask(m.MetadataAnswer, m.Metadata([topic, "not valid", topic], auto_create=True))
    assert [found.error for found in answer.topics] == [0, InvalidTopic.code, 0]
    assert client.ask(m.ProduceAnswer, m.Produce(topic, 0), batch(1)).base_offset == 0
    assert topic in [found.name for found in client.ask(m.MetadataAnswer, m.Metadata()).topics]


def test_metadata_makes_no_topics_where_that_is_switched_off(topic: str) -> None:
    with Broker({"auto.create.topics.enable": "false"}) as broker, RawClient(broker.server) as client:
        answer = client.ask(m.MetadataAnswer, m.Metadata([topic], auto_create=True))
        assert answer.topics[0].error == UnknownTopicOrPartition.code


def test_producer_ids_are_given_once(broker: Broker, client: RawClient) -> None:
    given = []
    for _ in range(3):
        given += [client.ask(m.ProducerIdAnswer, m.InitProducerId()).producer_id for _ in range(5)]
        broker.kill("coordinator")
        pending = client.send(m.InitProducerId())
        try:
            given.append(codec.decode_answer(m.ProducerIdAnswer, client.take(pending)[0]).producer_id)
        except RequestError:
            given.append(client.ask_until_served(m.ProducerIdAnswer, m.InitProducerId()).producer_id)
    assert len(set(given)) == 18


def test_creates_in_flight_when_the_coordinator_dies_are_all_answered(
    broker: Broker, client: RawClient, topic: str
) -> None:
    names = [f"{topic}-{number}" for number in range(40)]
    sent = {name: client.send(m.CreateTopics([m.NewTopic(name, 2)])) for name in names}
    codec.decode_answer(m.TopicResults, client.take(sent[names[5]])[0])
    broker.kill("coordinator")
    made = []
    for name in names:
        if name == names[5]:
            continue
        try:
            (result,) = codec.decode_answer(m.TopicResults, client.take(sent[name])[0]).topics
            made += [name] if result.error == 0 else []
        except RetriableError:
            continue
    for name in names:
        result = client.ask_until_served(m.TopicResults, m.CreateTopics([m.NewTopic(name, 2)])).topics[0]
        assert result.error == (TopicAlreadyExists.code if name in made else result.error)
        assert result.error in (0, TopicAlreadyExists.code), result.message
        for partition in (0, 1):
            assert client.produce(name, batch(1), partition=partition).base_offset == 0


def test_a_new_coordinator_moves_nothing_that_is_being_served(topic: str) -> None:
    with Broker(workers=2) as broker, RawClient(broker.server) as client:
        names = [f"{topic}-{number}" for number in range(8)]
        for name in names:
            client.create(name)
            client.produce(name, batch(1))
        before = {name: owner_of(client, name, 0) for name in names}
        gone = [name for name in names if before[name] == 0]
        client.ask(m.TopicResults, m.DeleteTopics(gone))
        names = [name for name in names if name not in gone]
        broker.kill_and_wait("coordinator")
        for name in names:
            assert owner_of(client, name, 0) == before[name] == 1
            assert client.ask(m.ProduceAnswer, m.Produce(name, 0), batch(1)).base_offset == 1


def test_leader_epochs_rise_with_every_start_of_ownership(broker: Broker, client: RawClient, topic: str) -> None:
    def epoch() -> int:
        found = client.ask_until_served(m.MetadataAnswer, m.Metadata([topic])).topics[0]
        return found.partitions[0].leader_epoch if found.partitions else -1

    client.create(topic)
    seen = [codec.decode_answer(m.FetchAnswer, client.fetch(topic, max_wait_ms=0)[0]).partitions[0].leader_epoch]
    for _ in range(3):
        broker.kill_and_wait(f"worker-{owner_of(client, topic, 0)}")
        client.produce(topic, batch(1))
        header = client.fetch(topic, max_wait_ms=0)[0]
        seen.append(codec.decode_answer(m.FetchAnswer, header).partitions[0].leader_epoch)
    assert seen == sorted(set(seen))
    broker.wait_until(lambda: epoch() == seen[-1])


# --- the catalog's file ---


def fill(client: RawClient) -> None:
    client.create("a", 3, max_message_bytes="2000000")
    client.create("b-1")
    for partition in range(3):
        client.produce("a", batch(partition + 1), partition=partition)
    client.produce("b-1", batch(7))


def check_filled(client: RawClient) -> None:
    assert [len(client.records("a", partition)) for partition in range(3)] == [1, 2, 3]
    assert len(client.records("b-1")) == 7
    assert client.produce("a", batch(1), partition=2).base_offset == 3


def overwrite(path: Path) -> None:
    path.write_bytes(b"no catalog at all" * 5000)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def spoil_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)


def other_tables(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE entries (other)")
    database.close()


def spoil_value(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE entries SET value = x'c1c1' WHERE key = 'topics/a'")
    database.close()


@pytest.mark.parametrize("damage", [overwrite, shorten, spoil_pages, other_tables, spoil_value])
def test_a_damaged_catalog_is_set_aside_and_rebuilt(damage: Callable[[Path], None]) -> None:
    with Broker(workers=2) as broker:
        with RawClient(broker.server) as client:
            fill(client)
            used = client.ask(m.ProducerIdAnswer, m.InitProducerId()).producer_id
        broker.stop()
        damage(broker.data_dir / "meta.db")
        broker.start()
        with RawClient(broker.server) as client:
            check_filled(client)
            assert client.ask(m.ProducerIdAnswer, m.InitProducerId()).producer_id > used
        assert len(list(broker.data_dir.glob("meta.db.corrupt-*"))) >= 1
        assert "the catalog was damaged; it is kept as" in broker.log


def test_a_lost_catalog_is_rebuilt() -> None:
    with Broker(workers=2) as broker:
        with RawClient(broker.server) as client:
            fill(client)
        broker.stop()
        for path in broker.data_dir.glob("meta.db*"):
            path.unlink()
        broker.start()
        with RawClient(broker.server) as client:
            check_filled(client)
        assert "2 topics rebuilt from the partition folders" in broker.log


@pytest.mark.parametrize("has_copy", [True, False])
def test_a_lost_catalogs_settings_come_from_its_copy(has_copy: bool) -> None:
    with Broker(workers=2) as broker:
        with RawClient(broker.server) as client:
            fill(client)
            client.ask(m.TopicResults, m.AlterSettings("a", {"retention.ms": "123456789"}))
            client.create("gone")
            client.ask(m.TopicResults, m.DeleteTopics(["gone"]))
        broker.kill_all()  # the copy has each change before it is answered
        for path in broker.data_dir.glob("*"):
            if path.name.startswith("meta.db") or (path.name == "catalog.copy" and not has_copy):
                path.unlink()
        broker.start()
        with RawClient(broker.server) as client:
            check_filled(client)
            settings = {s.name: s.value for s in client.ask(m.SettingsAnswer, m.DescribeSettings("a")).settings}
            assert (settings["retention.ms"] == "123456789") == has_copy
            assert [topic.name for topic in client.ask(m.MetadataAnswer, m.Metadata()).topics] == ["a", "b-1"]
        assert ("are gone of 2 topics (a, b-1)" in broker.log) != has_copy


def test_a_catalog_damaged_while_the_broker_runs_is_rebuilt_by_the_next_coordinator() -> None:
    with Broker(workers=2) as broker, RawClient(broker.server) as client:
        fill(client)
        overwrite(broker.data_dir / "meta.db")
        broker.kill_and_wait("coordinator")
        for partition in range(3):
            client.produce("a", batch(1), partition=partition)
        assert client.produce("b-1", batch(1)).base_offset == 7


def test_a_flipped_bit_in_the_write_ahead_log() -> None:
    """SQLite opens an older state then without a word; the copy knows better."""
    with Broker(workers=2) as broker:
        with RawClient(broker.server) as client:
            client.create("deleted")
            wal = broker.data_dir / "meta.db-wal"
            flipped = wal.stat().st_size + 100
            fill(client)
            client.ask(m.TopicResults, m.DeleteTopics(["deleted"]))
            used = client.ask(m.ProducerIdAnswer, m.InitProducerId()).producer_id
        broker.kill_all()
        data = bytearray(wal.read_bytes())
        data[flipped] ^= 1
        wal.write_bytes(data)
        broker.start()
        with RawClient(broker.server) as client:
            check_filled(client)
            assert [topic.name for topic in client.ask(m.MetadataAnswer, m.Metadata()).topics] == ["a", "b-1"]
            assert client.ask(m.ProducerIdAnswer, m.InitProducerId()).producer_id > used
        (aside,) = broker.data_dir.glob("meta.db.older-*[0-9]")
        assert aside.with_name(f"{aside.name}-wal").read_bytes() == data
        (notice,) = broker.status()["notices"]
        assert "the catalog's store is older than its copy" in notice
        assert notice.removeprefix("coordinator: ") in broker.log


def test_a_catalog_of_a_newer_format_is_not_touched() -> None:
    with Broker() as broker:
        broker.stop()
        with sqlite3.connect(broker.data_dir / "meta.db") as database:
            database.execute("PRAGMA user_version=99")
        database.close()
        (broker.data_dir / "catalog.copy").unlink()  # it would say that the format is ours, and the store damaged
        with pytest.raises(BrokerFailed, match="has format 99; this kbroker knows 1: use the newer kbroker"):
            broker.start()
        assert not list(broker.data_dir.glob("*corrupt*"))


def test_a_folder_of_another_topic_is_refused_and_the_others_serve() -> None:
    with Broker() as broker:
        with RawClient(broker.server) as client:
            client.create("t", 3)
            for partition in range(3):
                client.produce("t", batch(2), partition=partition)
            client.create("other")
        broker.stop()
        for path in (broker.data_dir / "t-1").iterdir():
            path.unlink()
        for path in (broker.data_dir / "other-0").iterdir():
            path.rename(broker.data_dir / "t-1" / path.name)
        broker.start()
        with RawClient(broker.server) as client:
            assert len(client.records("t", 0)) == len(client.records("t", 2)) == 2
            with pytest.raises(RequestError, match=r"t-1 is out of service.*belongs to topic id"):
                client.ask(m.ProduceAnswer, m.Produce("t", 1), batch(1))


def test_another_number_of_workers_moves_no_folder_and_loses_nothing(topic: str) -> None:
    with Broker(workers=1) as broker:
        with RawClient(broker.server) as client:
            client.create(topic, 7)
        for round_, workers in enumerate((1, 3, 2)):
            broker.stop()
            broker.workers = workers
            broker.start()
            with RawClient(broker.server) as client:
                found = owners(client, topic)
                assert set(found) == set(range(workers))
                for partition in range(7):
                    assert len(client.records(topic, partition)) == 2 * round_
                    assert client.produce(topic, batch(2), partition=partition).base_offset == 2 * round_
        assert folders(broker, topic) == [f"{topic}-{partition}" for partition in range(7)]


def test_who_asks_for_compaction_hears_that_it_is_not_there_yet(broker: Broker, client: RawClient, topic: str) -> None:
    def told() -> int:
        return broker.log.count(
            f"topic {topic}: cleanup.policy=compact asks for keys, but compaction of topics comes later"
        )

    client.create(topic)
    assert told() == 0
    for policy, count in (("compact", 1), ("compact,delete", 1), ("delete", 1), ("compact", 2)):
        client.ask(m.TopicResults, m.AlterSettings(topic, {"cleanup.policy": policy}))
        assert told() == count
    client.create(f"{topic}-2", cleanup_policy="compact")
    assert broker.log.count(f"topic {topic}-2: cleanup.policy=compact") == 1
