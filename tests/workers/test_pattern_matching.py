"""Patterns that take long are matched on a thread: the loop goes on, and who has little to match goes first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from kbroker.groups.patterns import matching
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.loop import Loop
from kbroker.workers.pattern_matching import PatternMatching

PATIENCE_S = 20
DEAR = "(?:.?.?.?){0,80}x"


class Rig:
    def __init__(self) -> None:
        self.loop = Loop()
        self.names = [f"topic-{number:04}" + "y" * 200 for number in range(300)]
        self.users = {("g", DEAR), ("g", ".*7y+"), ("h", DEAR)}
        self.told: list[tuple[str, str, frozenset[str]]] = []
        self.matching = PatternMatching(
            IoThreads(self.loop, 1, "patterns"),
            lambda: list(self.names),
            lambda group_id, pattern: (group_id, pattern) in self.users,
            lambda *found: self.told.append(found),
        )
        self.longest_s = 0.0

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.told
            started = time.thread_time()
            self.loop.turn(20)
            self.longest_s = max(self.longest_s, time.thread_time() - started)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.matching.close()
    made.loop.close()


def test_each_group_is_told_once_and_the_little_first(rig: Rig) -> None:
    rig.matching.want("g", DEAR)
    rig.matching.want("h", DEAR)
    rig.matching.want("g", ".*7y+")
    rig.until(lambda: len(rig.told) == 3)
    assert [told[1] for told in rig.told] == [".*7y+", DEAR, DEAR]
    assert {told[0] for told in rig.told[1:]} == {"g", "h"}
    for _, pattern, found in rig.told:
        assert found == matching(pattern, rig.names)
    assert rig.longest_s < 0.05


def test_topics_that_come_meanwhile_are_matched_too(rig: Rig) -> None:
    rig.matching.want("g", ".*7y+")
    rig.names.append("late-7y")
    rig.matching.names_changed()
    rig.until(lambda: bool(rig.told))
    assert "late-7y" in rig.told[0][2]


def test_who_does_not_want_it_any_more_costs_nothing(rig: Rig) -> None:
    rig.matching.want("g", DEAR)
    rig.users.clear()
    rig.matching.want("g", ".*7y+")
    rig.until(lambda: not rig.matching._works)
    assert rig.told == []


def test_without_topics(rig: Rig) -> None:
    rig.names.clear()
    rig.matching.want("g", DEAR)
    assert rig.told == [("g", DEAR, frozenset())]
