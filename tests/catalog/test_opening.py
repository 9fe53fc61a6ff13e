"""Whatever happens to one of store, copy and folders: acknowledged topics are there, deleted ones are not, settings are
as they were, and no number is given twice. What was not taken is kept, and told."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kbroker.catalog.catalog import PRODUCER_IDS, Catalog
from kbroker.catalog.opening import OpenCatalog, open_catalog
from kbroker.catalog.sqlite import SqliteStore
from kbroker.catalog.store import Change
from kbroker.catalog.topics import TopicRecord
from kbroker.log.checkpoint import encode_metadata

NOW_MS = 1_700_000_000_000
NODES = [1, 2]
STORE, WAL, COPY = "meta.db", "meta.db-wal", "catalog.copy"
BLOCK = 1_000


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests end no machine: thousands of openings need not wait for a disk."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)


class Broker:
    """What a coordinator and its workers do to the data folder."""

    def __init__(self, folder: Path, now_ms: int = NOW_MS) -> None:
        self.folder = folder
        self.catalog = Catalog(list(NODES), 1_000, 1_000)
        self.opened = open_catalog(folder, self.catalog, now_ms)

    def change(self, changes: list[Change]) -> None:
        self.opened.store.commit(changes)
        self.catalog.apply(changes)

    def create(self, name: str, partitions: int = 1, **settings: str) -> None:
        dotted = {key.replace("_", "."): value for key, value in settings.items()}
        self.change(self.catalog.create(name, partitions, dotted, random.Random(name).randbytes(16)))
        self.serve(name)

    def serve(self, name: str) -> None:
        """Workers make its folders, and tell their epochs."""
        topic = self.catalog.topics[name]
        for index in range(len(topic.partitions)):
            made = self.folder / f"{name}-{index}"
            made.mkdir(exist_ok=True)
            (made / "partition.metadata").write_bytes(encode_metadata(topic.topic_id))
        self.change(self.catalog.raise_epochs({(name, index): 1 for index in range(len(topic.partitions))}))

    def delete(self, name: str) -> None:
        topic = self.catalog.topics[name]
        self.change(self.catalog.delete(name))
        for index in range(len(topic.partitions)):
            shutil.rmtree(self.folder / f"{name}-{index}")
        self.change(self.catalog.folders_gone(topic.topic_id, list(range(len(topic.partitions)))))

    def id_block(self) -> int:
        return self.opened.allocate(PRODUCER_IDS, BLOCK)

    def close(self) -> None:
        self.opened.store.close()
        self.opened.copy.close()


class History(NamedTuple):
    """A folder as a killed broker leaves it, and what was acknowledged."""

    folder: Path
    topics: dict[str, TopicRecord]
    ids_end: int
    earlier: Path
    """The same folder at an earlier time."""
    closed: Path
    """The folder after an orderly stop: there is no write-ahead log."""


def write_history(folder: Path) -> History:
    data, earlier = folder / "data", folder / "earlier"
    data.mkdir()
    broker = Broker(data)
    for number in range(3):
        broker.create(f"early{number}", 1 + number)
    broker.id_block()
    killed(broker, earlier)
    for number in range(3):
        broker.create(f"late{number}", 1, retention_ms="12345678")
    broker.change(broker.catalog.grow("early1", 3))
    broker.serve("early1")
    broker.change(broker.catalog.alter("early2", {"retention.ms": "77777"}, []))
    broker.change(broker.catalog.alter_broker("", {"log.retention.ms": "99999"}, []))
    broker.delete("early0")
    ids_end = broker.id_block() + BLOCK
    topics = dict(broker.catalog.topics)
    at_end = folder / "killed"
    killed(broker, at_end)
    broker.close()
    return History(at_end, topics, ids_end, earlier, data)


def killed(broker: Broker, copy: Path) -> None:
    """The folder as it is when nobody closes anything."""
    shutil.copytree(broker.folder, copy)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    return write_history(tmp_path_factory.mktemp("catalog"))


@pytest.fixture
def folder(history: History, tmp_path: Path) -> Path:
    shutil.copytree(history.folder, tmp_path / "data")
    return tmp_path / "data"


def check(history: History, folder: Path, *, settings: bool = True) -> OpenCatalog:
    """Open, and look whether all promises are kept; also by the next one, and after a change."""
    broker = Broker(folder)
    try:
        assert set(broker.catalog.topics) == set(history.topics)
        for name, topic in broker.catalog.topics.items():
            known = history.topics[name]
            assert topic.topic_id == known.topic_id
            assert len(topic.partitions) == len(known.partitions)
            if settings:
                assert topic == known
        if settings:
            assert broker.catalog.altered == {"": {"log.retention.ms": "99999"}}
        first = broker.id_block()
        assert history.ids_end <= first < 1 << 60
        broker.create("more")
    finally:
        broker.close()
    again = Broker(folder)
    try:
        assert set(again.catalog.topics) == {*history.topics, "more"}
        assert not again.opened.notices, "what was mended stays so"
        assert again.id_block() >= first + BLOCK
    finally:
        again.close()
    return broker.opened


def set_aside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if ".corrupt-" in path.name or ".older-" in path.name)


def test_what_was_killed_comes_back(history: History, folder: Path) -> None:
    assert check(history, folder).notices == []
    assert set_aside(folder) == []


def flips(data: bytes, dense: range, count: int, seed: int) -> Iterator[tuple[int, int]]:
    """Every byte of the dense part and a sample of the others, each with another mask."""
    chance = random.Random(seed)
    places = [*dense, *chance.sample(range(len(data)), min(count, len(data)))]
    for at in places:
        yield at, chance.choice((1, 2, 4, 8, 16, 32, 64, 128, 255))


@pytest.mark.parametrize(
    ("stopped", "name", "dense", "count"),
    [("killed", WAL, 56, 150), ("closed", STORE, 100, 150), ("killed", STORE, 0, 20), ("closed", COPY, 0, 100)],
)
def test_any_flipped_byte(history: History, tmp_path: Path, stopped: str, name: str, dense: int, count: int) -> None:
    source = history.folder if stopped == "killed" else history.closed
    data = (source / name).read_bytes()
    for at, mask in flips(data, range(min(dense, len(data))), count, seed=len(data)):
        target = tmp_path / f"{at}"
        shutil.copytree(source, target, dirs_exist_ok=True)
        damaged = bytearray(data)
        damaged[at] ^= mask
        (target / name).write_bytes(damaged)
        try:
            opened = check(history, target)
        except BaseException as error:
            raise AssertionError(f"{name}: byte {at} of {len(data)}, mask {mask}") from error
        if opened.notices:
            assert set_aside(target), opened.notices
        shutil.rmtree(target)


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("name", [STORE, WAL, COPY])
@pytest.mark.parametrize("damage", [Path.unlink, shorter, empty, zeros])
def test_one_is_lost_or_short(history: History, folder: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(folder / name)
    opened = check(history, folder)
    # What SQLite has not copied into its file yet is in the write-ahead log, whatever becomes of the file.
    assert opened.notices or name == STORE


@pytest.mark.parametrize("name", [STORE, COPY])
@pytest.mark.parametrize("damage", [Path.unlink, shorter, empty, zeros])
def test_one_is_lost_or_short_after_an_orderly_stop(
    history: History, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(history.closed, folder)
    damage(folder / name)
    assert check(history, folder).notices


@pytest.mark.parametrize("names", [(STORE, WAL), (COPY,), (WAL,)])
def test_one_is_old(history: History, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        shutil.copyfile(history.earlier / name, folder / name)
    opened = check(history, folder)
    (notice, *_) = opened.notices
    assert "is older than its" in notice
    assert set_aside(folder)
    assert any(name in notice for name in set_aside(folder))


def test_the_store_is_old_and_the_copy_is_gone(history: History, folder: Path) -> None:
    for name in (STORE, WAL):
        shutil.copyfile(history.earlier / name, folder / name)
    (folder / COPY).unlink()
    opened = check(history, folder, settings=False)
    told = "; ".join(opened.notices)
    assert "early0" in told, "deleted since"
    assert "gone of 3 topics (late0, late1, late2)" in told


def test_the_copy_is_old_and_the_store_is_gone(history: History, folder: Path) -> None:
    for name in (STORE, WAL):
        (folder / name).unlink()
    shutil.copyfile(history.earlier / COPY, folder / COPY)
    check(history, folder, settings=False)


def test_only_the_folders_are_left(history: History, folder: Path) -> None:
    for name in (STORE, WAL, COPY):
        (folder / name).unlink()
    opened = check(history, folder, settings=False)
    assert "6 topics" not in "; ".join(opened.notices)
    assert "rebuilt from the partition folders" in "; ".join(opened.notices)


def test_folders_of_others_are_left_alone(folder: Path) -> None:
    shutil.copytree(folder / "late0-0", folder / "backup-0")
    opened = Broker(folder).opened
    assert any("left alone: topic late0 has their id" in notice for notice in opened.notices)
    assert (folder / "backup-0").is_dir()


def test_a_deletion_goes_on_from_the_copy(folder: Path) -> None:
    broker = Broker(folder)
    topic = broker.catalog.topics["late0"]
    broker.change(broker.catalog.delete("late0"))
    broker.close()
    for name in (STORE, WAL):
        (folder / name).unlink(missing_ok=True)
    again = Broker(folder)
    assert "late0" not in again.catalog.topics
    assert topic.topic_id in again.catalog.removed


def test_a_killed_change_is_made_or_not(folder: Path) -> None:
    """Between store and copy: the store has it, nobody was told yet."""
    broker = Broker(folder)
    changes = broker.catalog.create("unanswered", 1, {}, bytes(16))
    assert isinstance(broker.opened.store, SqliteStore)
    broker.opened.store._watches.clear()
    broker.opened.store.commit(changes)
    shutil.copytree(folder, folder.with_name("killed"))
    broker.close()
    again = Broker(folder.with_name("killed"))
    assert "unanswered" in again.catalog.topics
    assert again.opened.notices == []


def test_what_an_older_kbroker_wrote(folder: Path, history: History) -> None:
    """Without revisions: the store counts, as it did then, and revisions begin."""
    broker = Broker(folder)
    assert isinstance(broker.opened.store, SqliteStore)
    broker.opened.store._db.execute("DELETE FROM counters WHERE name = 'revision'")
    broker.close()
    lines = (folder / COPY).read_bytes().splitlines(True)
    (folder / COPY).write_bytes(b"".join(line for line in lines if b" =" not in line))
    opened = check(history, folder)
    assert opened.notices == []
    assert set_aside(folder) == []
