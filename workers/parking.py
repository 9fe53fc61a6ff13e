"""A fetch that waits: woken when a high watermark moves, answered when there is enough or its time is up, cancelled
when its client hangs up. And what bounds all those that wait in a process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

from kbroker.errors import KbrokerError
from kbroker.types import TopicPartition
from kbroker.workers.loop import Loop, Timer
from kbroker.workers.partition import HighWatermarkWaiter

FETCHES_MAX: Final = 50_000
"""Fetches that wait in one process; one more is answered at once with what is there."""
PLACES_MAX: Final = 500_000
"""The same for the partitions that they wait for together: one fetch may name many. The oldest of those that name more
than WIDE_PLACES is answered for one that names fewer: clients whose fetches never wait would ask without a pause."""
OF_PARTITION_MAX: Final = 10_000
"""Fetches that an append to one partition wakes. Those above it look by themselves, every CROWDED_LOOK_MS."""
CROWDED_LOOK_MS: Final = 250
LOOKS_A_TURN: Final = 500
"""Partitions that are looked up for waiting fetches in one turn of the loop, some 2 ms of work; the rest is done in the
next turns, between which others are served."""
WIDE_PLACES: Final = 50
WIDE_LOOKS_PER_MS: Final = 10
"""A fetch of more partitions than WIDE_PLACES that has not found enough looks again after one ms for so many: each look
is some µs for each of them, whichever partition was appended to."""


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


class WaitingClient(Protocol):
    """The request that a fetch answers: told while the fetch waits, so that a hang-up cancels it."""

    def begin_waiting(self, waits: ParkedFetch, /) -> None: ...
    def end_waiting(self, waits: ParkedFetch, /) -> None: ...


class Parking:
    """All fetches that wait in one process."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.fetches = 0
        self.places = 0
        self.wide: dict[ParkedFetch, None] = {}
        """Those of more than WIDE_PLACES partitions, the oldest first."""
        self._to_look: dict[HighWatermarkWaiter, None] = {}
        self._is_looking = False

    def has_room(self, places: int) -> bool:
        """Whether one more may wait, for so many partitions; a wide one makes room for one that is not."""
        if self.places + places > PLACES_MAX and places <= WIDE_PLACES and self.wide:
            next(iter(self.wide)).answer_now()
        return self.fetches < FETCHES_MAX and self.places + places <= PLACES_MAX

    def wake(self, parked: Collection[HighWatermarkWaiter]) -> None:
        """A high watermark has moved: have those look again who wait for it."""
        if self._to_look or len(parked) > LOOKS_A_TURN:
            self._to_look.update(dict.fromkeys(parked))
            self._look_soon()
            return
        looks = 0
        for waiter in (*parked,):
            if looks < LOOKS_A_TURN:
                looks += waiter.look_again()
            else:
                self._to_look[waiter] = None
        if self._to_look:
            self._look_soon()

    def _look_soon(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self.loop.call_soon(self._look)

    def _look(self) -> None:
        self._is_looking = False
        looks, to_look = 0, self._to_look
        while to_look and looks < LOOKS_A_TURN:
            waiter = next(iter(to_look))
            del to_look[waiter]
            looks += waiter.look_again()
        if to_look:
            self._look_soon()


class ParkedFetch:
    """What fetches of both protocols share. `_gather` looks up what there is and says whether it is enough, or must not
    wait; `_respond` reads and answers it, once, and sets `_is_over`; `_fail` tells the client that something went wrong
    that nobody foresaw."""

    __slots__ = ("_client", "_count", "_is_crowded", "_is_over", "_look_timer", "_looked_ms", "_parking", "_places",
                 "_timer")  # fmt: skip

    def __init__(self, parking: Parking, client: WaitingClient) -> None:
        self._parking = parking
        self._client = client
        self._is_over = False
        self._places: list[Parkable] = []
        self._count = 0  # of partitions that it waits for; 0: it does not wait
        self._timer: Timer | None = None
        self._look_timer: Timer | None = None
        self._looked_ms = 0
        self._is_crowded = False

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

    def _park(
        self, names: Collection[TopicPartition], serving: Mapping[TopicPartition, Parkable], wait_ms: int
    ) -> bool:
        """Wait for these partitions. False: too many wait already."""
        parking = self._parking
        if not parking.has_room(len(names)):
            return False
        for name in names:
            partition = serving.get(name)
            if partition is None:
                continue
            if len(partition.parked) >= OF_PARTITION_MAX:
                self._is_crowded = True
                continue
            self._places.append(partition)
            partition.parked.add(self)
        self._count = max(1, len(names))
        parking.fetches += 1
        parking.places += self._count
        if self._count > WIDE_PLACES:
            parking.wide[self] = None
        self._client.begin_waiting(self)
        self._timer = parking.loop.call_later(wait_ms, self.answer_now)
        if self._is_crowded:
            self._look_later(CROWDED_LOOK_MS)
        return True

    def look_again(self) -> int:
        """A high watermark has moved. How many partitions were looked up."""
        if self._is_over:
            return 0
        count = self._count
        if count > WIDE_PLACES:
            now_ms = self._parking.loop.now_ms()
            early_ms = self._looked_ms + count // WIDE_LOOKS_PER_MS - now_ms
            if early_ms > 0:
                self._look_later(early_ms)
                return 0
            self._looked_ms = now_ms
        try:
            if self._gather():
                self._finish_waiting()
                self._respond()
        except Exception as error:
            self._give_up(error)
        return count

    def _look_later(self, delay_ms: int) -> None:
        if self._look_timer is None:
            self._look_timer = self._parking.loop.call_later(delay_ms, self._look_by_itself)

    def _look_by_itself(self) -> None:
        self._look_timer = None
        self._parking.wake((self,))
        if self._is_crowded and not self._is_over:
            self._look_later(CROWDED_LOOK_MS)

    def abandon(self, error: KbrokerError) -> None:
        """A partition goes away: say what is known now; the other partitions get their answer too."""
        del error
        if not self._is_over:
            self._parking.loop.call_soon(self.answer_now)

    def cancel(self) -> None:
        """The client has hung up."""
        self._is_over = True
        self._finish_waiting()

    def answer_now(self) -> None:
        """Its time is up, or it has to make room: it is answered with what there is."""
        self._step(self._respond_now)

    def _respond_now(self) -> None:
        if not self._is_over:
            self._finish_waiting()
            self._gather()
            self._respond()

    def _finish_waiting(self) -> None:
        if not self._count:
            return
        for timer in (self._timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._look_timer = None
        for partition in self._places:
            partition.parked.discard(self)
        self._places = []
        self._parking.fetches -= 1
        self._parking.places -= self._count
        self._parking.wide.pop(self, None)
        self._count = 0
        self._client.end_waiting(self)
