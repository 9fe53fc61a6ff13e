"""No loop without a wait: whatever does not come, clients sleep between two looks, and say it once."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kbroker import Admin, BrokerUnavailable, Consumer, Producer, TopicPartition
from kbroker.clients import cluster, heartbeats, producer_loop
from kbroker.clients.cluster import Cluster
from kbroker.clients.consumer_core import ConsumerCore
from kbroker.clients.consumer_options import ConsumerOptions
from kbroker.clients.group_membership import Membership
from kbroker.clients.group_session import GroupOptions, GroupSession
from kbroker.clients.link import NotSent, Reply
from kbroker.clients.reader import Reader
from kbroker.clients.seldom import PERIOD_MS, Seldom
from kbroker.clients.wakeup import Wakeup
from kbroker.errors import GroupMaxSizeReached, OffsetOutOfRange, RequestError
from kbroker.testing import Broker

PATIENCE_S = 20


class Counter:
    """How often a method was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.count = 0
        method = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            return method(*arguments, **named)

        monkeypatch.setattr(owner, name, counted)

    def in_a_second(self, pause: Callable[[float], object] = time.sleep) -> int:
        before = self.count
        pause(1)
        return self.count - before


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not come"
        time.sleep(0.01)  # between two looks


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """One that may be killed."""
    with Broker(workers=1) as running:
        with Admin(running.server) as admin:
            admin.create_topic("t", 1)
        yield running


def member(broker: Broker, **options: Any) -> Consumer:
    consumer = Consumer("t", server=broker.server, group="g", max_poll_interval_ms=300, **options)
    wait_until(lambda: consumer.poll(10) is not None and consumer.assignment())
    return consumer


class TestPollIntervalPassed:
    """The caller has not polled for `max_poll_interval_ms`."""

    def test_one_warning_and_no_spin(
        self, own_broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        turns = Counter(monkeypatch, heartbeats.Heartbeats, "_pause_ms")
        with caplog.at_level(logging.WARNING, "kbroker"), member(own_broker) as consumer:
            wait_until(lambda: "nothing was polled for 300 ms" in caplog.text)
            assert turns.in_a_second() < 20
            assert len(caplog.records) == 1
            wait_until(lambda: consumer.poll(10) is not None and consumer.assignment())

    def test_nor_when_the_broker_is_dead(
        self, own_broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        turns = Counter(monkeypatch, heartbeats.Heartbeats, "_pause_ms")
        with caplog.at_level(logging.WARNING, "kbroker"):
            consumer = member(own_broker, api_timeout_ms=500)
            own_broker.kill_all()
            wait_until(lambda: "nothing was polled for 300 ms" in caplog.text)
            assert turns.in_a_second() < 50
            assert len(caplog.records) < 5
            assert caplog.text.count("nothing was polled") == 1
            consumer.close()

    def test_a_member_without_partitions_comes_back_as_well(
        self, own_broker: Broker, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "kbroker"), member(own_broker) as first:
            second = Consumer("t", server=own_broker.server, group="g", max_poll_interval_ms=300)
            with second:
                wait_until(lambda: first.poll(10) is not None and "nothing was polled" in caplog.text)
                first.close()
                wait_until(lambda: second.poll(10) is not None and second.assignment())


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[str]:
    """Where connections are taken and nothing is ever said."""
    path = f"/tmp/kb-mute-{tmp_path.name[-20:]}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        try:
            yield f"ipc://{path}"
        finally:
            Path(path).unlink()


def test_connecting_to_one_who_says_nothing(mute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Counter(monkeypatch, cluster.Cluster, "serve")
    with pytest.raises(BrokerUnavailable):
        Admin(mute, api_timeout_ms=1_000)
    assert turns.count < 20


def test_metadata_that_are_too_old_and_do_not_come(own_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    with Producer(own_broker.server, metadata_max_age_ms=100, delivery_timeout_ms=3_000) as producer:
        producer.send("t", b"x").get(PATIENCE_S)
        turns = Counter(monkeypatch, producer_loop.ProducerLoop, "_turn")
        own_broker.kill_all()
        producer.send("t", b"y")
        assert turns.in_a_second() < 100
        producer.close(0)


def test_a_consumer_without_its_broker(own_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    for way in ("shm", "zmq"):
        with Consumer("t", server=own_broker.server, transport=way, metadata_max_age_ms=100) as consumer:
            consumer.poll(0)
            if way == "zmq":
                own_broker.kill_all()
                turns = Counter(monkeypatch, cluster.Cluster, "serve")
                assert turns.in_a_second(lambda seconds: consumer.poll(int(seconds * 1000))) < 200


class StubCluster(Cluster):
    """Answers every request at once with an error."""

    def __init__(self, error: RequestError) -> None:
        super().__init__("ipc:///nowhere", cluster.ClusterSettings())
        self.error = error
        self.asked = 0

    def ask_front(self, request: Any, answer_class: type, on_reply: Any, *, timeout_ms: int | None = None) -> None:  # noqa: ARG002
        self.asked += 1
        on_reply(Reply(None, [], self.error))


class StubHeart:
    """A membership that has been given a partition."""

    def __init__(self, membership: Membership) -> None:
        self.lock = threading.Lock()
        self.attention = True
        self.expelled = False
        self.changed = Wakeup()
        membership.wanted = frozenset({TopicPartition("t", 0)})

    def noticed(self) -> None:
        self.attention = False

    def wake(self) -> None:
        pass


@pytest.mark.parametrize("error", [NotSent("nobody is there"), GroupMaxSizeReached("no")])
def test_committed_offsets_that_cannot_be_had(error: RequestError) -> None:
    stub = StubCluster(error)
    options = GroupOptions("g", None, None, 1000, None, 1000, "me")
    heart: Any = StubHeart
    session = GroupSession(options, stub, ConsumerCore(), "m", heart, lambda _cursor, _at: None, lambda: None)
    session.subscribe(["t"], "", None)
    raised = 0
    end = time.monotonic() + 1
    while time.monotonic() < end:
        if session.attention:
            try:
                stub.run(session.follow())
            except GroupMaxSizeReached:
                raised += 1
        else:
            time.sleep(session.rest_ms(100) / 1000)
    assert 2 <= stub.asked < 10
    assert raised in ({0} if isinstance(error, NotSent) else range(1, stub.asked + 1))
    stub.close()


def test_a_position_that_is_out_of_the_log_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    stub = StubCluster(NotSent("nobody is there"))
    core = ConsumerCore()
    (cursor,) = core.assign([TopicPartition("t", 0)])
    reader = Reader(stub, core, ConsumerOptions(auto_offset_reset="earliest", transport="zmq"))
    pauses = []
    for offset in range(10):
        cursor.move(offset)
        reader._failed(cursor, OffsetOutOfRange(f"offset {offset}"))
        pauses.append(max(0, cursor.retry_at_ms - cluster.now_ms()))
    assert pauses[0] == 0
    assert pauses[-1] > 500
    assert len(caplog.records) == 1
    stub.close()


def test_the_next_retry_is_not_hidden_by_one_that_is_over() -> None:
    core = ConsumerCore()
    one, two = core.assign([TopicPartition("t", 0), TopicPartition("t", 1)])
    one.retry_at_ms, two.retry_at_ms = 10, 500
    assert core.next_retry_ms(100) == 500
    assert core.next_retry_ms(500) is None


def test_lines_come_seldom(caplog: pytest.LogCaptureFixture) -> None:
    seldom = Seldom(logging.getLogger("kbroker.test"))
    for now_ms in range(PERIOD_MS):
        seldom.warn("a", now_ms, f"at {now_ms}")
    seldom.warn("b", 5, "another")
    seldom.warn("a", PERIOD_MS, "again")
    seldom.warn("a", PERIOD_MS, "again")
    seldom.tell_rest()
    assert [record.getMessage() for record in caplog.records] == [
        "at 0",
        "another",
        f"again (and {PERIOD_MS - 1} more like it before)",
        "a: 1 more warnings like the last one were left out",
    ]
