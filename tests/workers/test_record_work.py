"""Work on records beside the loop: in turns, within its memory, and every outcome comes back to the loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from kbroker.errors import InvalidRecord
from kbroker.records.steps import MEMORY, TURN, Steps
from kbroker.workers import record_work
from kbroker.workers.in_turns import OPEN_MAX, SLICE, InTurns
from kbroker.workers.loop import Loop
from kbroker.workers.record_work import LARGE_MAX, UNDER_WAY_MAX, RecordWork, Unwanted


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


class Outcomes:
    """What came back, in order."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.all: list[tuple[object, BaseException | None]] = []

    def add(self, result: object, error: BaseException | None) -> None:
        self.all.append((result, error))

    def wait_for(self, count: int) -> None:
        while len(self.all) < count:
            self.loop.turn(10_000)


def test_results_and_errors_come_back_on_the_loop(loop: Loop) -> None:
    work, outcomes = RecordWork(loop), Outcomes(loop)
    threads = []

    def fine() -> Steps[int]:
        threads.append(threading.current_thread().name)
        yield TURN
        return 7

    def bad() -> Steps[int]:
        yield TURN
        raise InvalidRecord("no record")

    work.submit(fine(), outcomes.add)
    work.submit(bad(), outcomes.add)
    outcomes.wait_for(2)
    assert threads[0].startswith("records-")
    results = {result for result, _ in outcomes.all}
    assert results == {7, None}
    assert sorted(str(error) for _, error in outcomes.all) == ["None", "no record"]
    assert not work.unfinished


def test_a_short_one_is_done_beside_long_ones(loop: Loop) -> None:
    work, outcomes = RecordWork(loop), Outcomes(loop)
    stop = threading.Event()

    def long() -> Steps[str]:
        while not stop.is_set():
            yield TURN
        return "long"

    def short() -> Steps[str]:
        yield TURN
        return "short"

    for _ in range(5):
        work.submit(long(), outcomes.add)
    work.submit(short(), outcomes.add)
    outcomes.wait_for(1)
    assert outcomes.all == [("short", None)]
    stop.set()
    outcomes.wait_for(6)


def test_only_so_many_use_much_memory(loop: Loop) -> None:
    work, outcomes = RecordWork(loop), Outcomes(loop)
    lock, let_go = threading.Lock(), threading.Event()
    inside: list[int] = []
    most = [0]

    def large(number: int) -> Steps[int]:
        yield MEMORY
        with lock:
            inside.append(number)
            most[0] = max(most[0], len(inside))
        while not let_go.is_set():
            yield TURN
        with lock:
            inside.remove(number)
        return number

    def small() -> Steps[str]:
        yield TURN
        return "small"

    for number in range(3 * UNDER_WAY_MAX):
        work.submit(large(number), outcomes.add)
    work.submit(small(), outcomes.add)
    outcomes.wait_for(1)
    assert outcomes.all == [("small", None)], "those who wait for memory keep nobody else waiting"
    let_go.set()
    outcomes.wait_for(3 * UNDER_WAY_MAX + 1)
    assert most[0] == LARGE_MAX // 2


def test_it_says_when_it_is_full(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_work, "WAITING_MAX", 3)
    work, outcomes = RecordWork(loop), Outcomes(loop)
    let_go = threading.Event()

    def waits() -> Steps[None]:
        let_go.wait()
        yield TURN

    for _ in range(3):
        assert not work.is_full
        work.submit(waits(), outcomes.add)
    assert work.is_full
    let_go.set()
    outcomes.wait_for(3)
    assert not work.is_full


@pytest.mark.parametrize("is_large", [False, True])
def test_lookups_keep_no_batches_waiting(loop: Loop, is_large: bool) -> None:
    work, outcomes = RecordWork(loop), Outcomes(loop)
    let_go = threading.Event()

    def lookup() -> Steps[str]:
        if is_large:
            yield MEMORY
        while not let_go.is_set():
            yield TURN
        return "look-up"

    def batch() -> Steps[str]:
        yield MEMORY if is_large else TURN
        return "batch"

    for _ in range(4 * UNDER_WAY_MAX):
        work.look_up(lookup(), outcomes.add)
    for _ in range(10):
        work.submit(batch(), outcomes.add)
    outcomes.wait_for(10)
    assert {result for result, _ in outcomes.all} == {"batch"}
    let_go.set()
    outcomes.wait_for(4 * UNDER_WAY_MAX + 10)


def test_what_nobody_wants_any_longer_is_not_begun(loop: Loop) -> None:
    work, outcomes = RecordWork(loop), Outcomes(loop)
    let_go = threading.Event()
    begun: list[int] = []

    def lookup(number: int) -> Steps[None]:
        begun.append(number)
        while not let_go.is_set():
            yield TURN

    for number in range(3 * UNDER_WAY_MAX):
        work.look_up(lookup(number), outcomes.add, let_go.is_set)
    let_go.set()
    outcomes.wait_for(3 * UNDER_WAY_MAX)
    assert len(begun) <= UNDER_WAY_MAX // 2
    assert sum(isinstance(error, Unwanted) for _, error in outcomes.all) == 3 * UNDER_WAY_MAX - len(begun)
    assert not work.unfinished


@pytest.mark.parametrize("count", [0, 1, SLICE, SLICE + 1, 5 * SLICE])
def test_questions_are_put_in_turns(loop: Loop, count: int) -> None:
    put: list[int] = []
    done: list[list[int]] = []

    def ask(question: int, settle: object) -> None:
        put.append(question)
        settle(2 * question)  # type: ignore[operator]

    InTurns(loop, range(count), ask, done.append).start()
    while not done:
        before = len(put)
        loop.turn(0)
        assert len(put) - before <= SLICE
    assert done == [[2 * number for number in range(count)]]
    loop.turn(0)
    assert len(done) == 1


def test_only_a_few_questions_wait_at_a_time(loop: Loop) -> None:
    waiting: dict[int, object] = {}
    done: list[list[int]] = []
    InTurns(loop, range(3 * SLICE), lambda question, settle: waiting.update({question: settle}), done.append).start()
    answered = 0
    while not done:
        assert len(waiting) == min(OPEN_MAX, 3 * SLICE - answered)
        question = max(waiting)
        waiting.pop(question)(question)  # type: ignore[operator]
        answered += 1
        loop.turn(0)
    assert done == [list(range(3 * SLICE))]
