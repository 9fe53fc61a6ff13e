"""A fetch that waits: woken when a high watermark moves, answered when there is enough or its time is up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from kbroker.errors import KbrokerError
from kbroker.types import TopicPartition
from kbroker.workers.loop import Loop, Timer
from kbroker.workers.partition import HighWatermarkWaiter


def least_bytes(min_bytes: int, max_bytes: int, of_each: int) -> int:
    """What is enough for an answer: fetch.min.bytes, or all that it may hold (KIP-541), one byte at least.

    `max_bytes`: the smaller of what client and broker allow; `of_each`: what is allowed of each partition, together.
    """
    return max(1, min(min_bytes, max_bytes, of_each))


def count_bytes(size_bytes: int, most_bytes: int, is_all: bool) -> int:
    """What a partition's records count towards that. Where there is more than the answer may hold of them it is full,
    though whole batches seldom fill it to the byte."""
    return size_bytes if is_all else max(size_bytes, most_bytes)


class Parkable(Protocol):
    """A partition at which fetches wait."""

    @property
    def parked(self) -> set[HighWatermarkWaiter]: ...


class ParkedFetch:
    """What fetches of both protocols share. `_gather` looks up what there is and says whether it is enough, or must not
    wait; `_respond` reads and answers it, once, and sets `_is_over`; `_fail` tells the client that something went wrong
    that nobody foresaw."""

    __slots__ = ("_is_over", "_loop", "_places", "_timer")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._is_over = False
        self._places: list[Parkable] = []
        self._timer: Timer | None = None

    def _gather(self) -> bool:
        raise AssertionError("each protocol has its own")

    def _respond(self) -> None:
        raise AssertionError("each protocol has its own")

    def _fail(self, error: Exception) -> None:
        raise AssertionError("each protocol has its own") from error

    def _step(self, step: Callable[[], None]) -> None:
        """Go on with what has waited. Who calls knows nothing of fetches: what goes wrong ends this one alone."""
        try:
            step()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._is_over = True
        self._finish_waiting()
        self._fail(error)

    def _park(self, names: Iterable[TopicPartition], serving: Mapping[TopicPartition, Parkable], wait_ms: int) -> None:
        for name in names:
            partition = serving.get(name)
            if partition is not None:
                self._places.append(partition)
                partition.parked.add(self)
        self._timer = self._loop.call_later(wait_ms, self._time_is_up)

    def look_again(self) -> None:
        """A high watermark has moved."""
        if self._is_over:
            return
        try:
            if self._gather():
                self._finish_waiting()
                self._respond()
        except Exception as error:
            self._give_up(error)

    def abandon(self, error: KbrokerError) -> None:
        """A partition goes away: say what is known now; the other partitions get their answer too."""
        del error
        if not self._is_over:
            self._loop.call_soon(self._time_is_up)

    def _time_is_up(self) -> None:
        self._step(self._respond_now)

    def _respond_now(self) -> None:
        if not self._is_over:
            self._finish_waiting()
            self._gather()
            self._respond()

    def _finish_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for partition in self._places:
            partition.parked.discard(self)
        self._places = []
