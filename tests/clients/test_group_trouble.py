"""Consumer(group=…) when something is wrong: listeners that raise, a fork, a coordinator that is away, a name twice."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator

import pytest

from kbroker import Admin, Consumer, ConsumerRebalanceListener, TopicPartition
from kbroker.clients.records import NewTopic
from kbroker.errors import FencedInstanceId
from kbroker.testing import Broker
from kbroker.wire import codec
from kbroker.wire import group_messages as m
from tests.broker.raw_client import RawClient

from .test_groups import PATIENCE_S, SETTINGS, fill, partitions, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Its processes may be stopped for a while."""
    with Broker(SETTINGS | {"process.heartbeat.timeout.ms": 60_000}, workers=1) as running:
        yield running


@pytest.fixture
def name(broker: Broker, request: pytest.FixtureRequest) -> str:
    name: str = request.node.name
    with Admin(broker.server) as admin:
        admin.create_topics([NewTopic(name, 6)])
    return name


def settle(consumer: Consumer, wanted: set[TopicPartition]) -> None:
    wait_until(lambda: consumer.poll(10) is not None and consumer.assignment() == wanted)


class Raising(ConsumerRebalanceListener):
    """Raises the first time that it is told of something of this kind."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.told: list[str] = []

    def _tell(self, what: str) -> None:
        self.told.append(what)
        if what == self.what and self.told.count(what) == 1:
            raise ZeroDivisionError(what)

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:  # noqa: ARG002
        self._tell("revoked")

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:  # noqa: ARG002
        self._tell("assigned")


class TestListenersThatRaise:
    """It comes out of the call that told them; the group goes on."""

    def test_on_assigned(self, broker: Broker, name: str) -> None:
        fill(broker, name, 12)
        with Consumer(server=broker.server, group=name, auto_offset_reset="earliest") as consumer:
            consumer.subscribe([name], listener=Raising("assigned"))
            with pytest.raises(ZeroDivisionError):
                wait_until(lambda: consumer.poll(10) is None)
            assert consumer.assignment() == partitions(name), "they are its own all the same"
            seen: list[int] = []
            while len(seen) < 12:
                found = consumer.poll(PATIENCE_S * 1000)
                assert found
                seen += [int(record.value) for records in found.values() for record in records]
            assert sorted(seen) == list(range(12))

    def test_on_revoked(self, broker: Broker, name: str) -> None:
        with (
            Consumer(server=broker.server, group=name) as first,
            Consumer(server=broker.server, group=name) as second,
        ):
            first.subscribe([name], listener=Raising("revoked"))
            settle(first, partitions(name))
            second.subscribe([name])
            with pytest.raises(ZeroDivisionError):
                wait_until(lambda: first.poll(10) is None)
            # What was to be given up is, or nobody could read it.
            wait_until(lambda: (first.poll(10), second.poll(10)) and len(second.assignment()) == 3)
            assert first.assignment() | second.assignment() == partitions(name)
            assert not first.assignment() & second.assignment()

    def test_at_close(self, broker: Broker, name: str) -> None:
        consumer = Consumer(server=broker.server, group=name)
        consumer.subscribe([name], listener=Raising("revoked"))
        settle(consumer, partitions(name))
        with pytest.raises(ZeroDivisionError):
            consumer.close()
        consumer.close()
        with Admin(broker.server) as admin:
            wait_until(lambda: not admin.describe_consumer_groups([name])[0].members)


FORK = """
import os, sys, time
from kbroker import Admin, Consumer, TopicPartition
from kbroker.errors import ForkedClient

server, name = sys.argv[1:]
consumer = Consumer(name, server=server, group=name)
while len(consumer.assignment()) < 6:
    consumer.poll(100)
place = TopicPartition(name, 0)
child = os.fork()
if not child:
    calls = (
        consumer.poll, consumer.commit, lambda: consumer.committed(place), lambda: consumer.subscribe([name]),
        lambda: consumer.commit_async({place: 1}), consumer.unsubscribe,
    )
    for number, call in enumerate(calls):
        try:
            call()
        except ForkedClient as error:
            assert "make a new one" in str(error)
        else:
            raise AssertionError(f"call {number} did not raise")
    consumer.close()
    del consumer, calls, call
    sys.exit(0)
pid, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
with Admin(server) as admin:
    (member,) = admin.describe_consumer_groups([name])[0].members
    assert member.member_id == consumer.member_id
consumer.poll(0)
consumer.commit({place: 0})
assert len(consumer.assignment()) == 6
consumer.close()
print("done")
"""


def test_a_fork_leaves_the_parents_membership_alone(broker: Broker, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, broker.server, name], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


class TestCoordinatorAway:
    def test_close_does_not_wait_for_it_without_end(self, broker: Broker, name: str) -> None:
        consumer = Consumer(name, server=broker.server, group=name, api_timeout_ms=1_000)
        settle(consumer, partitions(name))
        pid = broker.pid("coordinator")
        closing = threading.Thread(target=consumer.close, daemon=True)
        os.kill(pid, signal.SIGSTOP)
        try:
            closing.start()
            closing.join(PATIENCE_S)
            assert not closing.is_alive()
        finally:
            os.kill(pid, signal.SIGCONT)

    def test_a_commit_waits_for_its_successor(self, broker: Broker, name: str) -> None:
        place = TopicPartition(name, 0)
        with Consumer(name, server=broker.server, group=name, enable_auto_commit=False) as consumer:
            settle(consumer, partitions(name))
            told: list[object] = []
            for offset in range(1, 4):
                broker.kill("coordinator")
                consumer.commit_async({place: 100}, lambda _, error: told.append(error))
                consumer.commit({place: offset})
                found = consumer.committed(place)
                assert found is not None
                assert found.offset in (offset, 100)
            wait_until(lambda: consumer.poll(10) is not None and len(told) == 3)
            assert consumer.assignment() == partitions(name)


class TestTheSameInstanceTwice:
    def test_the_second_says_so_and_waits_for_the_first(
        self, broker: Broker, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = Consumer(name, server=broker.server, group=name, group_instance_id="one")
        with first, Consumer(server=broker.server, group=name, group_instance_id="one") as second:
            settle(first, partitions(name))
            with caplog.at_level(logging.WARNING, "kbroker"):
                second.subscribe([name])
                wait_until(lambda: second.poll(10) is not None and "two consumers have the same" in caplog.text)
            assert caplog.text.count("two consumers have the same") == 1
            assert first.member_id in caplog.text
            assert second.assignment() == set()
            first.close()
            settle(second, partitions(name))

    def test_who_was_replaced_is_fenced(self, broker: Broker, name: str) -> None:
        with (
            Consumer(name, server=broker.server, group=name, group_instance_id="one") as consumer,
            RawClient(broker.server) as raw,
        ):
            settle(consumer, partitions(name))
            # In one go, so that no heartbeat comes between: the instance goes for a while, and comes back as another.
            leaving = raw.send(m.GroupHeartbeat(name, consumer.member_id, -2, "one"))
            joining = raw.send(m.GroupHeartbeat(name, "another", 0, "one", 30_000, [name], "", None, []))
            codec.decode_answer(m.GroupHeartbeatAnswer, raw.take(leaving)[0])
            codec.decode_answer(m.GroupHeartbeatAnswer, raw.take(joining)[0])
            with pytest.raises(FencedInstanceId, match="instance id one belongs to another now"):
                wait_until(lambda: consumer.poll(10) is None)
            assert consumer.assignment() == set()
