"""The catalog's copy: what was added is read back, also after damage and after a disk that took nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kbroker.catalog import copy
from kbroker.catalog.catalog import Catalog
from kbroker.catalog.copy import CatalogCopy
from kbroker.catalog.rebuild import completed
from kbroker.catalog.store import ABSENT, Change, Versioned
from kbroker.catalog.topics import PartitionRecord, TopicRecord


class Entries:
    """A store, as far as its copy sees it."""

    def __init__(self, folder: Path) -> None:
        self.values: dict[str, bytes] = {}
        self.copy = CatalogCopy(folder, lambda: {key: Versioned(1, value) for key, value in self.values.items()})

    def put(self, key: str, value: bytes | None) -> None:
        if value is None:
            del self.values[key]
        else:
            self.values[key] = value
        self.copy.add([Change(key, ABSENT, value)])


def test_the_last_value_of_a_key_counts(tmp_path: Path) -> None:
    store = Entries(tmp_path)
    assert store.copy.read() == {}
    store.put("topics/a", b"1")
    store.put("topics/b", b"")
    store.put("topics/a", b"2")
    store.put("altered/", b"\0\xff")
    store.put("topics/b", None)
    assert store.copy.read() == store.values == {"topics/a": b"2", "altered/": b"\0\xff"}
    store.copy.renew()
    assert store.copy.read() == store.values
    store.copy.close()


def test_damaged_lines_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Entries(tmp_path)
    for number in range(4):
        store.put(f"topics/{number}", b"%d" % number)
    store.copy.close()
    lines = store.copy.path.read_bytes().splitlines(True)
    lines[1] = lines[1].replace(b"topics", b"topicS")
    store.copy.path.write_bytes(b"".join([*lines[:2], b"\xff\n", lines[2], lines[3][:-3]]))
    assert store.copy.read() == {"topics/0": b"0", "topics/2": b"2"}
    assert caplog.text.count("damaged line") == 3


def test_it_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "ADDED_BYTES_MAX", 1000)
    store = Entries(tmp_path)
    for _ in range(1000):
        store.put("topics/a", b"x" * 20)
    assert store.copy.path.stat().st_size < 2000
    assert store.copy.read() == store.values
    store.copy.close()


def test_after_a_failure_the_next_change_writes_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Entries(tmp_path)
    store.put("topics/a", b"1")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fdatasync", full)
        store.put("topics/b", b"2")
    assert "is behind until the next change: No space left on device" in caplog.text
    store.put("topics/c", b"3")
    assert store.copy.read() == store.values
    store.copy.close()


def a_topic(name: str, number: int, partitions: int, **settings: str) -> TopicRecord:
    return TopicRecord(name, bytes([number]) * 16, [PartitionRecord(1) for _ in range(partitions)], settings)


def test_the_disk_counts_and_the_copy_completes_it() -> None:
    copied = Catalog([1], 10, 100)
    topics = [a_topic("a", 1, 2, x="1"), a_topic("older", 2, 1, x="2"), a_topic("away", 3, 1), a_topic("del", 4, 2)]
    for topic in topics:
        copied.apply(copied.adopt(topic))
    copied.apply(copied.delete("del"))
    copied.apply(copied.alter_broker("", {"log.retention.ms": "5"}, []))
    found = [a_topic("a", 1, 3), a_topic("older", 7, 1), a_topic("del", 4, 2), a_topic("new", 5, 1)]
    changes, problems = completed(found, copied)
    rebuilt = Catalog([1], 10, 100)
    rebuilt.apply(changes)
    assert {name: (len(t.partitions), t.settings) for name, t in rebuilt.topics.items()} == {
        "a": (3, {"x": "1"}),
        "older": (1, {}),
        "new": (1, {}),
    }
    assert rebuilt.topics["older"].topic_id == bytes([7]) * 16
    assert [topic.name for topic in rebuilt.removed.values()] == ["del"]
    assert rebuilt.altered == {"": {"log.retention.ms": "5"}}
    told = "; ".join(problems)
    assert "gone of 2 topics (new, older)" in told
    assert "found of 1 topic (away)" in told
