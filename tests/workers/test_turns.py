"""Turns at a partition's folder: one user at a time, in the order in which they came."""

from __future__ import annotations

from functools import partial

from kbroker.types import TopicPartition
from kbroker.workers.turns import FolderTurns

A, B = TopicPartition("a", 0), TopicPartition("b", 0)


def test_the_second_waits_for_the_first_and_others_do_not() -> None:
    turns = FolderTurns()
    begun: list[str] = []
    for name, who in ((A, "open"), (A, "delete"), (B, "other"), (A, "open again")):
        turns.take(name, partial(begun.append, who))
    assert begun == ["open", "other"]
    turns.give_back(A)
    assert begun == ["open", "other", "delete"]
    turns.give_back(A)
    turns.give_back(A)
    turns.take(A, partial(begun.append, "anew"))
    assert begun[3:] == ["open again", "anew"]


def test_who_needs_it_no_more_gives_it_back_while_beginning() -> None:
    turns = FolderTurns()
    begun: list[str] = []
    turns.take(A, partial(begun.append, "first"))
    turns.take(A, partial(turns.give_back, A))
    turns.take(A, partial(begun.append, "third"))
    turns.give_back(A)
    assert begun == ["first", "third"]
