"""The catalog's decisions, over a store that is a plain dictionary and over SQLite."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.catalog.catalog import Catalog, check_entries
from kbroker.catalog.rebuild import folders_in, topics_on_disk
from kbroker.catalog.sqlite import SqliteStore, open_store
from kbroker.catalog.store import ABSENT, Change, VersionConflict
from kbroker.errors import (
    InvalidConfig,
    InvalidPartitions,
    InvalidTopic,
    KbrokerError,
    StartError,
    ThrottlingQuotaExceeded,
    TopicAlreadyExists,
    UnknownTopicOrPartition,
)


def catalog(workers: int = 2) -> Catalog:
    return Catalog(list(range(1, workers + 1)), topics_max=10, partitions_max=100)


def leaders(of: Catalog) -> Counter[int]:
    return Counter(partition.leader for topic in of.topics.values() for partition in topic.partitions)


def test_a_topic_is_spread_over_the_workers() -> None:
    found = catalog(3)
    found.apply(found.create("t", 7, {}, b"i" * 16))
    assert sorted(leaders(found).values()) == [2, 2, 3]
    assert found.topics["t"].partitions[0].replicas == [found.topics["t"].partitions[0].leader]


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "ä", "x" * 250, "a/b", "a\n"])
def test_names_that_kafka_would_refuse(name: str) -> None:
    with pytest.raises(InvalidTopic):
        catalog().create(name, 1, {}, b"i" * 16)


def test_what_cannot_be_created_is_named() -> None:
    found = catalog()
    found.apply(found.create("a.b", 1, {}, b"i" * 16))
    with pytest.raises(TopicAlreadyExists, match=r"a\.b"):
        found.create("a.b", 1, {}, b"j" * 16)
    with pytest.raises(InvalidTopic, match=r"collide with a\.b"):
        found.create("a_b", 1, {}, b"j" * 16)
    with pytest.raises(InvalidPartitions, match="at least 1"):
        found.create("c", 0, {}, b"j" * 16)
    with pytest.raises(InvalidPartitions, match=r"partitions\.max=100"):
        found.create("c", 100, {}, b"j" * 16)
    with pytest.raises(InvalidConfig, match=r"retention\.ms"):
        found.create("c", 1, {"retention.ms": "soon"}, b"j" * 16)
    with pytest.raises(InvalidConfig, match=r"did you mean retention\.ms"):
        found.create("c", 1, {"retension.ms": "5"}, b"j" * 16)


def test_more_topics_than_the_limit_are_refused() -> None:
    found = catalog()
    for number in range(10):
        found.apply(found.create(f"t{number}", 1, {}, bytes([number]) * 16))
    with pytest.raises(InvalidTopic, match=r"topics\.max=10"):
        found.create("one-more", 1, {}, b"x" * 16)


def test_a_deleted_topic_is_remembered_until_its_folders_are_gone() -> None:
    found = catalog()
    found.apply(found.create("t", 3, {}, b"i" * 16))
    found.apply(found.delete("t"))
    assert "t" not in found.topics
    assert len(found.removed[b"i" * 16].leaders) == 3
    found.apply(found.create("t", 1, {}, b"j" * 16))
    found.apply(found.folders_gone(b"i" * 16, [0, 2]))
    assert found.removed[b"i" * 16].leaders[1] > 0
    assert found.folders_gone(b"i" * 16, [2]) == []
    found.apply(found.folders_gone(b"i" * 16, [1]))
    assert not found.removed
    assert found.folders_gone(b"i" * 16, [0]) == []
    with pytest.raises(UnknownTopicOrPartition):
        found.delete("nobody")


def test_partitions_only_grow() -> None:
    found = catalog()
    found.apply(found.create("t", 2, {}, b"i" * 16))
    with pytest.raises(InvalidPartitions, match="only grow"):
        found.grow("t", 2)
    found.apply(found.grow("t", 5))
    assert len(found.topics["t"].partitions) == 5


def test_settings_are_replaced_and_removed() -> None:
    found = catalog()
    found.apply(found.create("t", 1, {"retention.ms": "5", "segment.ms": "7"}, b"i" * 16))
    found.apply(found.alter("t", {"retention.ms": "6"}, ["segment.ms"]))
    assert found.topics["t"].settings == {"retention.ms": "6"}


def test_leader_epochs_only_rise() -> None:
    found = catalog()
    found.apply(found.create("t", 2, {}, b"i" * 16))
    found.apply(found.raise_epochs({("t", 0): 4, ("t", 9): 1, ("gone", 0): 1}))
    assert [p.leader_epoch for p in found.topics["t"].partitions] == [4, 0]
    assert found.raise_epochs({("t", 0): 3}) == []


@given(
    before=st.integers(1, 6),
    after=st.integers(1, 6),
    sizes=st.lists(st.integers(1, 12), max_size=6),
)
def test_another_number_of_workers_moves_as_few_partitions_as_it_takes(
    before: int, after: int, sizes: list[int]
) -> None:
    found = catalog(before)
    for number, size in enumerate(sizes):
        found.apply(found.create(f"t{number}", size, {}, bytes([number]) * 16))
    old = {(t.name, i): p.leader for t in found.topics.values() for i, p in enumerate(t.partitions)}
    found.node_ids = list(range(1, after + 1))
    found.apply(found.reassign())
    new = {(t.name, i): p.leader for t in found.topics.values() for i, p in enumerate(t.partitions)}
    load = Counter(new.values())
    assert set(load) <= set(found.node_ids)
    assert not load or max(load.values()) <= -(-sum(sizes) // after)
    if after <= before:
        stayed = sum(old[place] == new[place] for place in old)
        kept = Counter(leader for leader in old.values() if leader <= after)
        most = -(-sum(sizes) // after)
        assert stayed == sum(min(count, most) for count in kept.values())
    assert found.reassign() == []


def test_who_was_asked_for_leads_whenever_it_is_there() -> None:
    found = catalog(3)
    found.apply(found.create("t", 4, {}, bytes(16), [3, 3, 3, 1]))
    found.apply(found.grow("t", 6, [2, 3]))
    found.apply(found.create("u", 2, {}, bytes([1]) * 16))

    def leaders(workers: int) -> list[int]:
        found.node_ids = list(range(1, workers + 1))
        found.apply(found.reassign())
        return [partition.leader for partition in found.topics["t"].partitions]

    assert leaders(3) == [3, 3, 3, 1, 2, 3]
    fewer = leaders(2)
    assert fewer[3:5] == [1, 2]
    assert set(fewer) == {1, 2}, "others have them as long as that worker is away"
    assert leaders(3) == [3, 3, 3, 1, 2, 3]
    assert leaders(8)[:6] == [3, 3, 3, 1, 2, 3]


def test_the_settings_of_all_topics_are_bounded() -> None:
    found = Catalog([1], 10_000, 10_000)
    large = ",".join(f"{number}:1" for number in range(4_000))
    assert len(large) < 32_768

    def fill() -> None:
        for number in range(1_000):
            settings = {"leader.replication.throttled.replicas": large}
            found.apply(found.create(f"t{number}", 1, settings, number.to_bytes(16)))

    with pytest.raises(InvalidConfig, match="remove some"):
        fill()
    assert 100 < len(found.topics) < 1_000
    found.apply(found.alter("t0", {"retention.ms": "5"}, ["leader.replication.throttled.replicas"]))
    found.apply(found.delete("t1"))
    found.apply(found.create("again", 1, {"retention.ms": "5"}, b"?" * 16))
    with pytest.raises(InvalidConfig, match="too long"):
        found.create("long", 1, {"cleanup.policy": "compact," * 5_000}, b"!" * 16)


def test_deleted_partitions_whose_folders_stay_are_bounded() -> None:
    found = Catalog([1], 10, 10)

    def fill() -> None:
        for number in range(10):
            found.apply(found.create("t", 10, {}, number.to_bytes(16)))
            found.apply(found.delete("t"))

    with pytest.raises(ThrottlingQuotaExceeded, match="still being removed"):
        fill()
    assert sum(len(removed.leaders) for removed in found.removed.values()) == 20
    found.apply(found.folders_gone(bytes(16), list(range(10))))
    found.apply(found.create("t", 10, {}, b"?" * 16))


def test_sqlite_keeps_what_was_committed(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "meta.db")
    found = catalog()
    for name in ("a", "b"):
        changes = found.create(name, 2, {}, name.encode() * 16)
        store.commit(changes)
        found.apply(changes)
    changes = found.delete("a")
    store.commit(changes)
    found.apply(changes)
    store.close()
    again = catalog()
    again.load(SqliteStore(tmp_path / "meta.db").entries(""))
    assert again.topics == found.topics
    assert again.removed == found.removed
    again.apply(again.grow("b", 3))


def test_a_commit_is_all_or_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "meta.db")
    seen: list[Change] = []
    store.watch("x/", seen.extend)
    store.commit([Change("x/1", ABSENT, b"one")])
    with pytest.raises(VersionConflict, match="x/1 is at version 1"):
        store.commit([Change("x/2", ABSENT, b"two"), Change("x/1", ABSENT, b"other")])
    assert list(store.entries("x/")) == ["x/1"]
    assert seen == [Change("x/1", ABSENT, b"one")]


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "meta.db")
    assert store.allocate("ids", 10) == 0
    store.close()
    store = SqliteStore(tmp_path / "meta.db")
    assert store.allocate("ids", 10) == 10
    store.raise_counter("ids", 500)
    store.raise_counter("ids", 100)
    assert store.allocate("ids", 1) == 500


@pytest.mark.parametrize("damage", [b"this is no database", b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_damaged_store_is_set_aside_and_the_topics_are_found_again(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "meta.db").write_bytes(damage)
    store, aside = open_store(tmp_path, 123, check_entries)
    assert aside == tmp_path / "meta.db.corrupt-123"
    assert aside.read_bytes() == damage
    assert store.entries("") == {}


def test_a_store_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "meta.db")
    db.execute("PRAGMA user_version=2")
    db.close()
    with pytest.raises(StartError, match="has format 2; this kbroker knows 1"):
        open_store(tmp_path, 0, check_entries)


def test_topics_are_found_by_their_folders(tmp_path: Path) -> None:
    for folder, topic_id in (("a-b-0", "AAAAAAAAAAAAAAAAAAAAAA"), ("a-b-2", "AAAAAAAAAAAAAAAAAAAAAA")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "partition.metadata").write_text(f"version: 0\ntopic_id: {topic_id}\n")
    (tmp_path / "bad-0").mkdir()
    (tmp_path / "bad-0" / "partition.metadata").write_text("?")
    (tmp_path / "lost+found").mkdir()
    folders = folders_in(tmp_path)
    topics, problems = topics_on_disk(tmp_path, folders, 1, lambda _name, _index: False)
    assert [(topic.name, topic.topic_id, len(topic.partitions)) for topic in topics] == [("a-b", bytes(16), 3)]
    assert len(problems) == 1
    assert "bad-0" in problems[0]
    assert topics_on_disk(tmp_path, folders, 1, lambda _name, _index: True) == ([], [])


def test_sqlite_says_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "meta.db").mkdir()
    with pytest.raises(KbrokerError, match=r"meta\.db cannot be used"):
        SqliteStore(tmp_path / "meta.db")
    assert sqlite3.sqlite_version_info >= (3, 35)
