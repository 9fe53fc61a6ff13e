"""The producer's core against a model of the broker: nothing lost, doubled or reordered, whatever the network does."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbroker.clients.accumulator import Accumulator, Batch
from kbroker.clients.producer_core import (
    BatchDone,
    Effect,
    NeedMetadata,
    NeedProducerId,
    ProducerCore,
    ProducerSettings,
    SendBatch,
)
from kbroker.errors import (
    DuplicateSequence,
    MessageTooLarge,
    NetworkError,
    NotLeaderOrFollower,
    OutOfOrderSequence,
    RequestTimedOut,
    UnknownProducerId,
)
from kbroker.records.batch import read_header
from kbroker.records.codec import decode_list
from kbroker.types import TopicPartition

TP = TopicPartition("t", 0)


def make_core(**changes: Any) -> ProducerCore:
    return ProducerCore(ProducerSettings(**changes), Accumulator(200, 1 << 20, 0))


def put(
    core: ProducerCore, value: bytes, now_ms: int = 0, tp: TopicPartition = TP, *, own_batch: bool = False
) -> Batch:
    batch = core.accumulator.open_batch(tp)
    if batch is None or own_batch or not core.accumulator.append(batch, now_ms, None, value, ()):
        batch = core.accumulator.new_batch(tp, now_ms)
        assert core.accumulator.append(batch, now_ms, None, value, ())
        core.opened(batch)
    return batch


def sends(effects: list[Effect]) -> list[SendBatch]:
    return [effect for effect in effects if isinstance(effect, SendBatch)]


def drain(core: ProducerCore, now_ms: int) -> list[SendBatch]:
    return sends(core.drain(now_ms, lambda _tp: True))


def confirmed_core(**changes: Any) -> ProducerCore:
    """A core whose first batch was acknowledged, so that five may fly."""
    core = make_core(linger_ms=0, **changes)
    core.identified(7, 0)
    batch = put(core, b"first", own_batch=True)
    (send,) = drain(core, 0)
    core.acknowledged(batch, send.attempt, 0, -1, 0)
    return core


class TestBatching:
    def test_a_batch_waits_for_linger(self) -> None:
        core = make_core(linger_ms=5)
        core.identified(1, 0)
        batch = put(core, b"a")
        assert drain(core, 4) == []
        assert core.next_due_ms() == 5
        assert drain(core, 5) == [SendBatch(batch, 1)]

    def test_a_full_batch_does_not_wait(self) -> None:
        core = make_core(linger_ms=1000)
        core.identified(1, 0)
        first = put(core, b"x" * 100)
        second = put(core, b"y" * 100)
        assert first is not second
        assert [s.batch for s in drain(core, 0)] == [first]

    def test_nothing_is_sent_without_a_producer_id(self) -> None:
        core = make_core(linger_ms=0)
        put(core, b"a")
        assert core.drain(0, lambda _tp: True) == [NeedProducerId()]
        assert core.drain(0, lambda _tp: True) == []
        core.identity_failed()
        assert core.drain(0, lambda _tp: True) == [NeedProducerId()]

    def test_an_unreachable_owner_asks_for_metadata(self) -> None:
        core = make_core(linger_ms=0)
        core.identified(1, 0)
        put(core, b"a")
        assert core.drain(0, lambda _tp: False) == [NeedMetadata("t")]

    def test_the_buffer_is_given_back(self) -> None:
        core = make_core(linger_ms=0)
        core.identified(1, 0)
        batch = put(core, b"a" * 50)
        assert core.accumulator.free_bytes < 1 << 20
        (send,) = drain(core, 0)
        assert core.acknowledged(batch, send.attempt, 9, -1, 1) == [BatchDone(batch)]
        assert core.accumulator.free_bytes == 1 << 20
        assert batch.outcome is not None
        assert batch.outcome.base_offset == 9


class TestInFlight:
    def test_one_until_the_first_is_acknowledged_then_five(self) -> None:
        core = make_core(linger_ms=0)
        core.identified(1, 0)
        batches = [put(core, b"%d" % n, own_batch=True) for n in range(10)]
        (send,) = drain(core, 0)
        core.acknowledged(batches[0], send.attempt, 0, -1, 0)
        assert [s.batch for s in drain(core, 0)] == batches[1:6]

    def test_one_again_after_a_long_silence(self) -> None:
        core = confirmed_core()
        for n in range(3):
            put(core, b"%d" % n, 700_000, own_batch=True)
        assert len(drain(core, 700_000)) == 1

    def test_without_idempotence_no_sequence(self) -> None:
        core = make_core(linger_ms=0, idempotent=False)
        put(core, b"a")
        (send,) = drain(core, 0)
        assert send.batch.payload is not None
        assert read_header(send.batch.payload).producer_id == -1

    def test_sequences_count_records(self) -> None:
        core = confirmed_core()
        first = put(core, b"a", own_batch=True)
        put(core, b"b")
        second = put(core, b"c", own_batch=True)
        drain(core, 0)
        assert (first.sequence, second.sequence) == (1, 3)

    def test_a_link_that_is_given_up_by_the_question_loses_no_batch(self) -> None:
        """Whether an owner can be reached is asked in the middle; to answer, the link to its dead predecessor is given
        up, and what was in flight there fails. Batches of an early close were lost so, and in the log nevertheless."""
        core = confirmed_core()
        batches = [put(core, b"%d" % number, own_batch=True) for number in range(3)]
        (flying,) = drain(core, 1)[:1]
        assert flying.batch is batches[0]
        more = [put(core, b"more %d" % number, own_batch=True) for number in range(2)]
        in_flight = {batch: batch.attempts for batch in batches}

        def sendable(_tp: TopicPartition) -> bool:
            for batch, attempt in tuple(in_flight.items()):
                core.failed(batch, attempt, NetworkError("node 1 was restarted"), 2)
            in_flight.clear()
            return True

        sent = sends(core.drain(2, sendable))
        unfinished = list(core.batches())
        assert sorted(unfinished, key=id) == sorted([*batches, *more], key=id)
        while unfinished:
            for send in sent:
                core.acknowledged(send.batch, send.attempt, 0, -1, 5_000)
            unfinished = list(core.batches())
            sent = drain(core, 5_000)
        assert all(batch.done for batch in (*batches, *more))


class TestRetries:
    def test_a_lost_batch_goes_before_those_behind_it(self) -> None:
        core = confirmed_core()
        batches = [put(core, b"%d" % n, own_batch=True) for n in range(5)]
        flying = drain(core, 0)
        for send in flying:
            core.failed(send.batch, send.attempt, NotLeaderOrFollower("moved"), 0)
        assert drain(core, 0) == []
        assert [s.batch for s in drain(core, 20)] == batches

    def test_out_of_order_behind_a_lost_one_is_retried(self) -> None:
        core = confirmed_core()
        put(core, b"0", own_batch=True)
        put(core, b"1", own_batch=True)
        one, two = drain(core, 0)
        core.failed(one.batch, one.attempt, RequestTimedOut("lost"), 0)
        assert core.failed(two.batch, two.attempt, OutOfOrderSequence("gap"), 0) == []
        assert [s.batch for s in drain(core, 20)] == [one.batch, two.batch]

    def test_out_of_order_at_the_first_is_told_to_the_caller(self) -> None:
        core = confirmed_core()
        put(core, b"0", own_batch=True)
        (send,) = drain(core, 0)
        assert core.failed(send.batch, send.attempt, OutOfOrderSequence("lost state"), 0) == [BatchDone(send.batch)]
        assert send.batch.outcome is not None
        assert isinstance(send.batch.outcome.error, OutOfOrderSequence)

    def test_after_a_gap_the_partition_starts_over_with_a_new_id(self) -> None:
        core = confirmed_core()
        for n in range(3):
            put(core, b"%d" % n, own_batch=True)
        one, two, three = drain(core, 0)
        core.failed(one.batch, one.attempt, MessageTooLarge("too large"), 0)
        core.failed(two.batch, two.attempt, OutOfOrderSequence("gap"), 0)
        core.failed(three.batch, three.attempt, OutOfOrderSequence("gap"), 0)
        again = drain(core, 20)
        assert [s.batch for s in again] == [two.batch, three.batch]
        core.failed(two.batch, 2, OutOfOrderSequence("gap"), 20)
        core.failed(three.batch, 2, OutOfOrderSequence("gap"), 20)
        assert core.drain(100, lambda _tp: True) == [NeedProducerId()]
        core.identified(8, 0)
        (send,) = drain(core, 100)
        assert send.batch is two.batch
        assert send.batch.payload is not None
        header = read_header(send.batch.payload)
        assert (header.producer_id, header.base_sequence) == (8, 0)
        core.acknowledged(send.batch, send.attempt, 5, -1, 100)
        assert [s.batch for s in drain(core, 100)] == [three.batch]

    def test_a_forgotten_producer_starts_over(self) -> None:
        core = confirmed_core()
        put(core, b"0", own_batch=True)
        (send,) = drain(core, 0)
        assert core.failed(send.batch, send.attempt, UnknownProducerId("expired"), 0) == []
        assert core.drain(20, lambda _tp: True) == [NeedProducerId()]

    def test_a_repeat_that_the_broker_no_longer_remembers_counts_as_written(self) -> None:
        core = confirmed_core()
        put(core, b"0", own_batch=True)
        (send,) = drain(core, 0)
        core.failed(send.batch, send.attempt, DuplicateSequence("old"), 0)
        assert send.batch.outcome is not None
        assert (send.batch.outcome.error, send.batch.outcome.base_offset) == (None, -1)

    def test_the_delivery_time_out_ends_it(self) -> None:
        core = confirmed_core(delivery_timeout_ms=1000)
        put(core, b"0", own_batch=True)
        (send,) = drain(core, 0)
        assert core.tick(999) == []
        assert core.tick(1000) == [BatchDone(send.batch)]
        assert core.acknowledged(send.batch, send.attempt, 0, -1, 1001) == []

    def test_an_answer_to_an_earlier_attempt_is_ignored(self) -> None:
        core = confirmed_core()
        put(core, b"0", own_batch=True)
        (send,) = drain(core, 0)
        core.failed(send.batch, 1, RequestTimedOut("lost"), 0)
        drain(core, 20)
        assert core.failed(send.batch, 1, MessageTooLarge("late"), 21) == []
        assert not send.batch.done

    def test_abort_ends_everything(self) -> None:
        core = confirmed_core()
        batches = [put(core, b"%d" % n, own_batch=True) for n in range(7)]
        drain(core, 0)
        assert {e.batch for e in core.abort(RequestTimedOut("closed")) if isinstance(e, BatchDone)} == set(batches)
        assert core.accumulator.free_bytes == 1 << 20


def leaf(batch: Batch, index: int) -> tuple[Batch, int]:
    """The batch that carried a record at last, and where in it."""
    while batch.halves is not None:
        first, second = batch.halves
        batch, index = (first, index) if index < first.record_count else (second, index - first.record_count)
    return batch, index


class TestTooLarge:
    """A batch that the broker finds too large is sent in halves, until it is a single record that is too large."""

    def play(self, core: ProducerCore, values: int, limit: int) -> tuple[Batch, list[list[bytes]], list[int]]:
        """`values` records in one batch, to a broker that takes `limit` in a batch and never value 3."""
        first, *_ = [put(core, b"%d" % number) for number in range(values)]
        log: list[list[bytes]] = []
        sequences: list[int] = []
        todo = drain(core, 100)
        while todo:
            send = todo.pop(0)
            assert send.batch.payload is not None
            found = [value for _, _, _, _, value, _ in decode_list(send.batch.payload)]
            if len(found) > limit or b"3" in found:
                core.failed(send.batch, send.attempt, MessageTooLarge("too large"), 100)
            else:
                log.append([value or b"" for value in found])
                sequences.append(read_header(send.batch.payload).base_sequence)
                core.acknowledged(send.batch, send.attempt, len(log), -1, 100)
            if core.identity is not None and not todo:
                core.identified(core.identity.producer_id + 1, 0)
            todo += drain(core, 100_000)
        return first, log, sequences

    def test_halves_take_its_place_and_its_sequences(self) -> None:
        batch, log, sequences = self.play(confirmed_core(), 3, 2)
        assert log == [[b"0"], [b"1", b"2"]]
        assert sequences == [1, 2]
        assert batch.done

    def test_only_the_record_that_is_too_large_fails(self) -> None:
        batch, log, _ = self.play(confirmed_core(), 6, 6)
        assert sorted(value for values in log for value in values) == [b"0", b"1", b"2", b"4", b"5"]
        errors = [leaf(batch, index)[0].outcome for index in range(6)]
        assert [isinstance(outcome.error, MessageTooLarge) for outcome in errors if outcome] == [
            index == 3 for index in range(6)
        ]

    def test_the_buffer_is_given_back(self) -> None:
        core = confirmed_core()
        self.play(core, 10, 2)
        assert core.accumulator.free_bytes == 1 << 20
        assert not core.waiting_topics()


class ModelBroker:
    """One partition: a log, and of each producer the last five batches, as a worker keeps them."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.kept: dict[int, list[tuple[int, int, int]]] = {}

    def append(self, payload: bytes | bytearray) -> int:
        header = read_header(payload)
        values = [value or b"" for _, _, _, _, value, _ in decode_list(payload)]
        kept = self.kept.setdefault(header.producer_id, [])
        first, count = header.base_sequence, header.record_count
        for known_first, known_count, offset in kept:
            if (known_first, known_count) == (first, count):
                return offset
        if kept and first != kept[-1][0] + kept[-1][1]:
            if first < kept[-1][0]:
                raise DuplicateSequence("old")
            raise OutOfOrderSequence("gap")
        offset = len(self.log)
        self.log += values
        kept.append((first, count, offset))
        del kept[:-5]
        return offset


class World:
    """The core, a first-in-first-out link and the model broker; `step` lets one thing happen."""

    def __init__(self, delivery_timeout_ms: int) -> None:
        self.core = make_core(linger_ms=0, delivery_timeout_ms=delivery_timeout_ms)
        self.broker = ModelBroker()
        self.to_broker: deque[tuple[Batch, int, bytes]] = deque()
        self.to_client: deque[tuple[Batch, int, int | Exception]] = deque()
        self.now_ms = 0
        self.sent: list[tuple[bytes, Batch, int]] = []
        self.next_id = 0
        self.wants_id = False
        self.refuse = 0

    def send(self, own_batch: bool) -> None:
        value = b"%06d" % len(self.sent)
        batch = put(self.core, value, self.now_ms, own_batch=own_batch)
        self.sent.append((value, batch, batch.record_count - 1))

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendBatch):
                assert effect.batch.payload is not None
                self.to_broker.append((effect.batch, effect.attempt, bytes(effect.batch.payload)))
            elif isinstance(effect, NeedProducerId):
                self.wants_id = True

    def drain(self) -> None:
        self.perform(self.core.drain(self.now_ms, lambda _tp: True))

    def broker_takes(self) -> None:
        if self.to_broker:
            batch, attempt, payload = self.to_broker.popleft()
            answer: int | Exception
            if self.refuse:
                self.refuse -= 1
                answer = NotLeaderOrFollower("restarting")
            else:
                try:
                    answer = self.broker.append(payload)
                except (OutOfOrderSequence, DuplicateSequence) as error:
                    answer = error
            self.to_client.append((batch, attempt, answer))

    def client_hears(self) -> None:
        if self.to_client:
            batch, attempt, answer = self.to_client.popleft()
            if isinstance(answer, Exception):
                self.perform(self.core.failed(batch, attempt, answer, self.now_ms))
            else:
                self.perform(self.core.acknowledged(batch, attempt, answer, -1, self.now_ms))

    def link_dies(self) -> None:
        lost = [(b, a) for b, a, _ in self.to_client] + [(b, a) for b, a, _ in self.to_broker]
        self.to_client.clear()
        self.to_broker.clear()
        for batch, attempt in lost:
            self.perform(self.core.failed(batch, attempt, RequestTimedOut("the link died"), self.now_ms))

    def interrupted(self, arrives: bool) -> None:
        """A caller is torn out of a drain: what it was to send is not sent; of what was, nobody hears any more."""
        self.core.drain(self.now_ms, lambda _tp: True)
        while arrives and self.to_broker:
            self.broker_takes()
        self.to_client.clear()
        self.to_broker.clear()
        self.wants_id = False
        self.perform(self.core.recover(self.now_ms))

    def poison(self) -> None:
        """The broker refuses the next one for good."""
        if self.to_broker:
            batch, attempt, _ = self.to_broker.popleft()
            self.to_client.append((batch, attempt, MessageTooLarge("poison")))

    def identify(self) -> None:
        if self.wants_id:
            self.wants_id = False
            self.next_id += 1
            self.core.identified(self.next_id, 0)

    def pass_time(self, ms: int) -> None:
        self.now_ms += ms
        self.perform(self.core.tick(self.now_ms))

    def settle(self) -> None:
        for _ in range(10_000):
            self.identify()
            self.drain()
            self.broker_takes()
            self.client_hears()
            self.drain()  # as the loop around the core does after every event
            if not self.core.waiting_topics() and not self.to_broker and not self.to_client:
                return
            if not self.to_broker and not self.to_client and not self.wants_id:
                due = self.core.next_due_ms()
                assert due is not None, "something waits, and nothing would ever wake it"
                self.pass_time(max(0, due - self.now_ms))
        raise AssertionError("does not come to rest")

    def check(self) -> None:
        assert all(batch.done for _, batch, _ in self.sent)
        sent = [(value, *leaf(batch, index)) for value, batch, index in self.sent]
        written = [value for value, batch, _ in sent if batch.outcome is not None and batch.outcome.error is None]
        failed = {value for value, batch, _ in sent if batch.outcome is not None and batch.outcome.error is not None}
        assert len(self.broker.log) == len(set(self.broker.log)), "a record is there twice"
        # What failed may have been written all the same (nobody knows), but what was acknowledged is there in order.
        assert [value for value in self.broker.log if value not in failed] == written
        for value, batch, index in sent:
            outcome = batch.outcome
            if outcome is not None and outcome.error is None and outcome.base_offset >= 0:
                assert self.broker.log[outcome.base_offset + index] == value
        assert self.core.accumulator.free_bytes == 1 << 20


STEP = st.one_of(
    st.tuples(st.just("send"), st.booleans()),
    st.tuples(st.just("drain"), st.none()),
    st.tuples(st.just("broker_takes"), st.none()),
    st.tuples(st.just("client_hears"), st.none()),
    st.tuples(st.just("link_dies"), st.none()),
    st.tuples(st.just("interrupted"), st.booleans()),
    st.tuples(st.just("identify"), st.none()),
    st.tuples(st.just("pass_time"), st.integers(1, 60)),
    st.tuples(st.just("refuse"), st.integers(1, 3)),
    st.tuples(st.just("poison"), st.none()),
)


def play(world: World, steps: list[tuple[str, Any]]) -> None:
    for name, argument in steps:
        if name == "refuse":
            world.refuse = argument
        elif argument is None:
            getattr(world, name)()
        else:
            getattr(world, name)(argument)
    world.settle()
    world.check()


class TestAgainstTheModel:
    @settings(max_examples=300, deadline=None)
    @given(st.lists(STEP.filter(lambda s: s[0] != "poison"), max_size=80))
    def test_nothing_is_lost_doubled_or_reordered(self, steps: list[tuple[str, Any]]) -> None:
        world = World(delivery_timeout_ms=10**9)
        play(world, steps)
        assert all(batch.outcome is not None and batch.outcome.error is None for _, batch, _ in world.sent)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(STEP, max_size=80))
    def test_with_failures_for_good_the_rest_keeps_its_order(self, steps: list[tuple[str, Any]]) -> None:
        play(World(delivery_timeout_ms=10**9), steps)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(STEP, max_size=80))
    def test_with_delivery_time_outs_too(self, steps: list[tuple[str, Any]]) -> None:
        play(World(delivery_timeout_ms=150), steps)


@pytest.mark.parametrize("attempts", [1, 5, 50])
def test_back_off_is_bounded(attempts: int) -> None:
    core = confirmed_core(retry_backoff_ms=20, retry_backoff_max_ms=1000)
    put(core, b"0", own_batch=True)
    now_ms = 0
    for _ in range(attempts):
        (send,) = drain(core, now_ms)
        core.failed(send.batch, send.attempt, RequestTimedOut("lost"), now_ms)
        due = core.next_due_ms()
        assert due is not None
        assert 20 <= due - now_ms <= 1000
        now_ms = due
