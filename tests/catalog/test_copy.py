"""The catalog's copy: what was added is read back, also after damage and after a disk that took nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from kbroker.catalog import copy
from kbroker.catalog.copy import CatalogCopy
from kbroker.catalog.reconcile import State
from kbroker.catalog.store import ABSENT, Change


class Entries:
    """A store, as far as its copy sees it."""

    def __init__(self, folder: Path) -> None:
        self.values: dict[str, bytes] = {}
        self.revision = 0
        self.copy = CatalogCopy(folder, lambda: State(dict(self.values), {}, self.revision))

    def put(self, key: str, value: bytes | None) -> None:
        if value is None:
            del self.values[key]
        else:
            self.values[key] = value
        self.revision += 1
        self.copy.add([Change(key, ABSENT, value)], self.revision)

    @property
    def copied(self) -> Mapping[str, bytes]:
        return self.copy.read().entries


def test_the_last_value_of_a_key_counts(tmp_path: Path) -> None:
    store = Entries(tmp_path)
    assert store.copied == {}
    store.put("topics/a", b"1")
    store.put("topics/b", b"")
    store.put("topics/a", b"2")
    store.put("altered/", b"\0\xff")
    store.put("topics/b", None)
    assert store.copied == store.values == {"topics/a": b"2", "altered/": b"\0\xff"}
    store.copy.renew()
    assert store.copied == store.values
    store.copy.close()


def test_damaged_lines_are_passed_over_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Entries(tmp_path)
    for number in range(4):
        store.put(f"topics/{number}", b"%d" % number)
    store.copy.close()
    lines = [line for line in store.copy.path.read_bytes().splitlines(True) if b"topics" in line]
    lines[1] = lines[1].replace(b"topics", b"topicS")
    store.copy.path.write_bytes(b"".join([*lines[:2], b"\xff\n", lines[2], lines[3][:-3]]))
    state = store.copy.read()
    assert state.entries == {"topics/0": b"0", "topics/2": b"2"}
    assert state.damage == "2 lines", "an unfinished last line is what a crash leaves"
    assert "2 damaged lines" in caplog.text


def test_revision_and_counters(tmp_path: Path) -> None:
    store = Entries(tmp_path)
    store.put("topics/a", b"1")
    store.put("topics/a", b"2")
    store.copy.add_counter("ids", 1000)
    store.copy.add_counter("ids", 2000)
    assert store.copy.read() == State({"topics/a": b"2"}, {"ids": 2000}, 2)
    assert store.copy.is_ours


def test_it_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "ADDED_BYTES_MAX", 1000)
    store = Entries(tmp_path)
    for _ in range(1000):
        store.put("topics/a", b"x" * 20)
    assert store.copy.path.stat().st_size < 2000
    assert store.copied == store.values
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
    assert store.copied == store.values
    store.copy.close()
