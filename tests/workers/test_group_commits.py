"""When group commits begin: once the loop has nothing to read, or has put them off for long enough."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.config import LogConfig
from kbroker.log.log import PartitionLog
from kbroker.shm.control_page import ControlPage
from kbroker.types import TopicPartition
from kbroker.workers.group_commits import WAIT_NS_MAX, GroupCommits
from kbroker.workers.loop import READ, Loop
from kbroker.workers.partition import Partition


class Turns:
    """A loop with one connection, of which each turn reads one message, and a clock that stands still."""

    def __init__(self, folder: Path) -> None:
        self.now_ns = 0
        self.begun: list[int] = []
        self.loop = Loop()
        self._reader, self._writer = os.pipe()
        self.loop.add(self._reader, READ, lambda _events: self._read())
        self.commits = GroupCommits(self.loop, lambda partition: self.begun.append(partition.partition), self._clock_ns)
        self.loop.at_turn_end(self.commits.end_turn, self.commits.wanted)
        self.partitions = [self._partition(folder, number) for number in range(2)]

    @staticmethod
    def _partition(folder: Path, number: int) -> Partition:
        name = TopicPartition("t", number)
        log = PartitionLog.open(folder / f"t-{number}", name, bytes(16), LogConfig(), 1, 9_000)
        return Partition(name, log, ControlPage.create(1, 1))

    def _clock_ns(self) -> int:
        return self.now_ns

    def _read(self) -> None:
        number = os.read(self._reader, 1)[0]
        self.commits.want(self.partitions[number])

    def send(self, *partitions: int) -> None:
        os.write(self._writer, bytes(partitions))

    def close(self) -> None:
        for partition in self.partitions:
            partition.log.abandon()
        self.loop.close()
        os.close(self._reader)
        os.close(self._writer)


@pytest.fixture
def turns(tmp_path: Path) -> Iterator[Turns]:
    turns = Turns(tmp_path)
    yield turns
    turns.close()


def test_at_once_when_nothing_else_is_there(turns: Turns) -> None:
    turns.send(0)
    turns.loop.turn()
    assert turns.begun == [0]
    turns.loop.turn(0)
    assert turns.begun == [0], "once for each that was wanted"


def test_what_is_there_to_be_read_goes_along(turns: Turns) -> None:
    turns.send(0, 0, 1, 0)
    for _ in range(3):
        turns.loop.turn()
        assert turns.begun == []
    turns.loop.turn()
    assert sorted(turns.begun) == [0, 1]


def test_input_without_an_end_does_not_put_it_off_for_ever(turns: Turns) -> None:
    turns.send(*[0] * 10)
    turns.loop.turn()
    turns.now_ns = WAIT_NS_MAX - 1
    turns.loop.turn()
    assert turns.begun == []
    turns.now_ns = WAIT_NS_MAX
    turns.loop.turn()
    assert turns.begun == [0]
    # The next one has its own time.
    turns.loop.turn()
    assert turns.begun == [0]
    turns.now_ns = 2 * WAIT_NS_MAX
    turns.loop.turn()
    assert turns.begun == [0, 0]


def test_a_call_that_was_asked_for_counts_as_input(turns: Turns) -> None:
    turns.loop.call_soon(lambda: turns.loop.call_soon(lambda: turns.send(1)))
    turns.send(0)
    turns.loop.turn()
    assert turns.begun == []
    turns.loop.turn()
    assert turns.begun == [], "what it has sent is there now"
    turns.loop.turn()
    assert sorted(turns.begun) == [0, 1]
