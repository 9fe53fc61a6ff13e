"""Exceptions in the middle of a producer's calls, as Ctrl-C and signals' handlers raise them: nothing is lost or
doubled, every future completes, and the producer goes on."""

from __future__ import annotations

import contextlib
import dis
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import pytest

from kbroker import Consumer, Producer, TopicPartition
from kbroker.clients.futures import RecordFuture
from kbroker.testing import Broker

# Those that come while something is being freed, of which the interpreter cannot rid itself but by a warning.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# After these the interpreter looks for signals (CPython 3.11 to 3.13).
LOOKS_AFTER = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME"}
OURS = (f"{os.sep}kbroker{os.sep}", threading.__file__)


class Interruption(BaseException):
    """What is raised in the middle."""


class InterruptedAt:
    """A context in which the `place`-th chance to interrupt this thread is taken. `is_over`: there were not so many."""

    def __init__(self, place: int) -> None:
        self._left = place
        self._before: dict[FrameType, str] = {}
        self._names: dict[CodeType, list[str]] = {}
        self.is_over = True

    def __enter__(self) -> InterruptedAt:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        code = frame.f_code
        if not any(part in code.co_filename for part in OURS):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            names = self._names.get(code)
            if names is None:
                names = self._names[code] = [dis.opname[op] for op in code.co_code[::2]]
            before, self._before[frame] = self._before.get(frame), names[frame.f_lasti // 2]
            if before in LOOKS_AFTER:
                self._left -= 1
                if not self._left:
                    self.is_over = False
                    sys.settrace(None)
                    raise Interruption
        return self._trace


def values_of(broker: Broker, topic: str) -> list[bytes]:
    """The values of all records in the topic's only partition."""
    place = TopicPartition(topic, 0)
    found: list[bytes] = []
    with Consumer(server=broker.server) as consumer:
        consumer.assign([place])
        consumer.seek_to_beginning()
        end = consumer.end_offsets([place])[place]
        while consumer.position(place) < end:
            for records in consumer.poll(10_000).values():
                found += [record.value for record in records]
    return found


class Sent:
    """Numbered records: those whose `send` returned, and those where nobody knows."""

    def __init__(self, producer: Producer, topic: str, size: int = 0) -> None:
        self.producer = producer
        self.topic = topic
        self.size = size
        self.futures: dict[bytes, RecordFuture] = {}
        self.unknown: set[bytes] = set()
        self._number = 0

    def send(self) -> RecordFuture:
        value = b"%d" % self._number + bytes(self.size)
        self._number += 1
        self.unknown.add(value)
        future = self.futures[value] = self.producer.send(self.topic, value)
        self.unknown.remove(value)
        return future

    def check(self, broker: Broker) -> None:
        self.producer.flush(60)
        self.send().get(60)
        failed = {value: future.exception for value, future in self.futures.items() if not future.succeeded()}
        assert failed == {}
        found = values_of(broker, self.topic)
        doubled = [value for value, count in Counter(found).items() if count > 1]
        assert doubled == []
        assert set(self.futures) - self.unknown <= set(found) <= set(self.futures) | self.unknown
        numbers = [int(value.rstrip(b"\0")) for value in found]
        assert numbers == sorted(numbers)


def everywhere(step: Callable[[], object], after: Callable[[], object]) -> int:
    """Interrupt `step` at its first chance, then anew at its second, until it ends before; `after` each."""
    for place in range(1, 100_000):
        try:
            with InterruptedAt(place) as interrupted:
                step()
        except Interruption:
            after()
            continue
        if interrupted.is_over:
            return place
    raise AssertionError("it never ends")


@pytest.fixture(params=[True, False], ids=["direct", "front"])
def producer(broker: Broker, request: pytest.FixtureRequest) -> Iterator[Producer]:
    with Producer(broker.server, direct=request.param, linger_ms=0, batch_size=2_000, retry_backoff_ms=1) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1_500], ids=["small", "filling"])
def test_send_may_be_interrupted_anywhere(broker: Broker, topic: str, producer: Producer, size: int) -> None:
    sent = Sent(producer, topic, size)
    sent.send().get(30)
    places = everywhere(sent.send, lambda: sent.send().get(30))
    assert places > 100
    sent.check(broker)


@pytest.mark.slow
def test_waiting_may_be_interrupted_anywhere(broker: Broker, topic: str) -> None:
    with Producer(broker.server, linger_ms=1000, retry_backoff_ms=1) as producer:
        sent = Sent(producer, topic)
        sent.send().get(30)
        futures = [sent.send()]

        def again() -> None:
            futures[0].get(30)
            futures.insert(0, sent.send())

        everywhere(lambda: futures[0].get(30), again)

        def flush() -> None:
            sent.send()
            producer.flush(30)

        everywhere(flush, lambda: producer.flush(30))
        sent.check(broker)


@pytest.mark.slow
def test_closing_may_be_interrupted_anywhere(broker: Broker, topic: str) -> None:
    futures: list[RecordFuture] = []

    def ready() -> Producer:
        producer = Producer(broker.server, linger_ms=1000)
        futures.append(producer.send(topic, b"x"))
        return producer

    producers = [ready()]

    def close(producer: Producer) -> None:
        producer.close()

    def again() -> None:
        close(producers[0])
        assert futures[-1].is_done
        producers.insert(0, ready())

    everywhere(lambda: close(producers[0]), again)
    assert all(future.is_done for future in futures)


class Callbacks:
    """Counts how often each record's callback was called."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def called(self, number: int, _metadata: object) -> None:
        self.counts[number] += 1


@pytest.mark.slow
def test_callbacks_are_called_once(broker: Broker, topic: str, producer: Producer) -> None:
    sent, callbacks = Sent(producer, topic), Callbacks()
    sent.send().get(30)
    numbers = iter(range(10_000))
    expected = []

    def step() -> None:
        number = next(numbers)
        future = sent.send()
        future.add_callback(callbacks.called, number)
        expected.append(number)

    everywhere(step, lambda: sent.send().get(30))
    sent.check(broker)
    assert set(callbacks.counts.values()) == {1}
    producer.close()
    assert set(expected) <= set(callbacks.counts)


SIGNALS = """
import os, random, signal, sys, time
while os.getppid() == int(sys.argv[1]):
    time.sleep(random.random() * 0.004)
    os.kill(int(sys.argv[1]), signal.SIGUSR1)
"""


@contextlib.contextmanager
def signals() -> Iterator[Callable[[Callable[[], object]], bool]]:
    """Inside, SIGUSR1 comes at random; the function calls another one, and says whether it was interrupted."""
    is_inside = False

    def interrupt(*_: object) -> None:
        nonlocal is_inside
        if is_inside:
            is_inside = False
            raise Interruption

    def interrupted(step: Callable[[], object]) -> bool:
        nonlocal is_inside
        try:
            is_inside = True
            step()
            is_inside = False
        except Interruption:
            return True
        return False

    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = subprocess.Popen([sys.executable, "-c", SIGNALS, str(os.getpid())])
    try:
        yield interrupted
    finally:
        is_inside = False
        sender.kill()
        sender.wait()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.slow
@pytest.mark.parametrize("linger_ms", [0, 5])
def test_signals_in_the_middle_of_many_sends(broker: Broker, topic: str, linger_ms: int) -> None:
    with Producer(broker.server, linger_ms=linger_ms, batch_size=4_000, retry_backoff_ms=1) as producer:
        sent = Sent(producer, topic, size=500)
        sent.send().get(30)
        count = 0
        with signals() as interrupted:
            while count < 150:
                count += interrupted(sent.send)
        sent.check(broker)


@pytest.mark.slow
def test_other_threads_go_on_while_one_is_interrupted(broker: Broker, topic: str) -> None:
    with Producer(broker.server, linger_ms=1, batch_size=4_000, retry_backoff_ms=1) as producer:
        mine = Sent(producer, topic, size=100)
        mine.send().get(30)
        others: list[RecordFuture] = []
        is_over = threading.Event()

        def send(name: int) -> None:
            number = 0
            while not is_over.is_set():
                others.append(producer.send(topic, b"other %d %d" % (name, number)))
                number += 1

        threads = [threading.Thread(target=send, args=(name,)) for name in range(2)]
        for thread in threads:
            thread.start()
        count = 0
        with signals() as interrupted:
            while count < 100:
                count += interrupted(mine.send)
        is_over.set()
        for thread in threads:
            thread.join()
        producer.flush(60)
        assert all(future.succeeded() for future in (*mine.futures.values(), *others))
    values = Counter(values_of(broker, topic))
    assert set(values.values()) == {1}
    assert sum(value.startswith(b"other") for value in values) == len(others)
