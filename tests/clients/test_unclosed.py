"""Clients that nobody closes: nothing waits for them, nothing of them stays, and a ResourceWarning says so."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kbroker import Admin, Consumer, ConsumerRebalanceListener, Producer, TopicPartition, aio
from kbroker.testing import Broker
from tests.clients.conftest import make_topic

PATIENCE_S = 20


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not come"
        time.sleep(0.01)  # between two looks


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("kbroker")]


@contextlib.contextmanager
def nothing_stays() -> Iterator[None]:
    """Threads and descriptors are afterwards as many as before."""
    gc.collect()
    threads, descriptors = len(ours()), len(os.listdir("/proc/self/fd"))
    yield
    wait_until(lambda: len(ours()) <= threads)
    wait_until(lambda: gc.collect() >= 0 and len(os.listdir("/proc/self/fd")) <= descriptors)


@contextlib.contextmanager
def warned(text: str) -> Iterator[None]:
    """A ResourceWarning with this text comes, and nothing stays."""
    with nothing_stays(), pytest.warns(ResourceWarning, match=text):
        yield


def members(broker: Broker, group: str) -> int:
    with Admin(broker.server) as admin:
        return len(admin.describe_consumer_groups([group])[0].members)


@pytest.fixture(autouse=True)
def _context_of_the_process(broker: Broker) -> None:
    """ZeroMQ's threads and their descriptors come with the first client, and stay."""
    with Admin(broker.server) as admin:
        admin.list_topics()


class Holder:
    """A reference cycle around a client."""

    def __init__(self, client: object) -> None:
        self.client = client
        self.me = self


def test_an_admin(broker: Broker) -> None:
    with warned("an Admin was not closed"):
        Admin(broker.server)


@pytest.mark.parametrize("way", ["shm", "zmq"])
def test_a_consumer(broker: Broker, topic: str, way: str) -> None:
    with warned("a Consumer was not closed"):
        consumer = Consumer(topic, server=broker.server, transport=way)
        consumer.poll(0)
        del consumer  # without the garbage collector: it is in no cycle


def test_a_member_leaves_its_group(broker: Broker, topic: str) -> None:
    def join() -> Consumer:
        consumer = Consumer(topic, server=broker.server, group=topic)
        wait_until(lambda: consumer.poll(10) is not None and consumer.assignment())
        return consumer

    with nothing_stays():
        for _ in range(3):  # a notebook's cell that is run again
            with pytest.warns(ResourceWarning, match=f"a Consumer of group '{topic}' was not closed: it leaves"):
                join()
            wait_until(lambda: members(broker, topic) == 0)


def test_a_member_in_a_cycle_collected_by_another_thread(broker: Broker, topic: str) -> None:
    class Listener(ConsumerRebalanceListener):
        consumer: Consumer

    def join_in_cycles() -> None:
        consumer = Consumer(server=broker.server, group=topic)
        listener = Listener()
        listener.consumer = consumer
        consumer.subscribe([topic], listener=listener)
        wait_until(lambda: consumer.poll(10) is not None and consumer.assignment())
        Holder(consumer)

    with warned("a Consumer of group"):
        join_in_cycles()
        collector = threading.Thread(target=gc.collect)
        collector.start()
        collector.join(PATIENCE_S)
        assert not collector.is_alive()
        wait_until(lambda: members(broker, topic) == 0)


def test_a_producer_says_how_many_records_are_lost(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), warned("3 records not ack"):
        producer = Producer(broker.server, linger_ms=3_600_000)
        for _ in range(3):
            producer.send(topic, b"x")
        del producer
    assert "a producer was not closed: 3 records not acknowledged" in caplog.text
    place = TopicPartition(topic, 0)
    with Consumer(server=broker.server) as consumer:
        assert consumer.end_offsets([place]) == {place: 0}


def test_a_producer_without_records(broker: Broker, topic: str) -> None:
    with warned("no record was lost"):
        Producer(broker.server).send(topic, b"x").get(PATIENCE_S)


def test_callbacks_are_told_what_became_of_their_records(broker: Broker, topic: str) -> None:
    told: list[object] = []
    with warned("1 record not ack"):
        producer = Producer(broker.server, linger_ms=3_600_000)
        producer.send(topic, b"x").add_errback(told.append)
        Holder(producer)
        del producer
        gc.collect()
        wait_until(lambda: told)
    assert "nobody had closed it" in str(told[0])


def test_a_future_keeps_its_producer(broker: Broker, topic: str) -> None:
    def send() -> Any:
        return Producer(broker.server, linger_ms=100).send(topic, b"x")

    future = send()
    gc.collect()
    assert future.get(PATIENCE_S).offset == 0
    with pytest.warns(ResourceWarning, match="a Producer was not closed"):
        del future


def test_the_asyncio_clients(broker: Broker) -> None:
    topic = make_topic(broker, 1)

    async def use() -> None:
        consumer, producer, admin = (
            aio.Consumer(topic, server=broker.server, group=topic),
            aio.Producer(broker.server, linger_ms=3_600_000),
            aio.Admin(broker.server),
        )
        await consumer.start()
        await producer.start()
        await admin.start()
        await producer.send(topic, b"x")
        while not consumer.assignment():
            await consumer.poll(10)

    with warned("a Consumer of group"), warned("a Producer was not closed: 1 record"), warned("an Admin"):
        asyncio.run(use())
        gc.collect()
        wait_until(lambda: members(broker, topic) == 0)


def test_one_that_is_not_started_owes_nothing(broker: Broker, recwarn: pytest.WarningsRecorder) -> None:
    with nothing_stays():
        aio.Consumer("t", server=broker.server)
        aio.Admin(broker.server)
        with pytest.raises(Exception, match="transport"):
            Consumer("t", server=broker.server, transport="pigeon")
        gc.collect()
    assert [str(warning.message) for warning in recwarn if "not closed" in str(warning.message)] == []


AT_EXIT = """
import sys, threading, time
from kbroker import Admin, Consumer, Producer
server, topic = sys.argv[1:]
consumer = Consumer(topic, server=server, group=topic)
while not consumer.assignment():
    consumer.poll(10)
admin = Admin(server)
producer = Producer(server, linger_ms=3_600_000)
producer.send(topic, b"sent at the end")
print(time.monotonic(), flush=True)
"""

AFTER_FORK = """
import gc, os, sys
from kbroker import Admin, Consumer, Producer
server, topic = sys.argv[1:]
clients = [Consumer(topic, server=server, group=topic), Admin(server), Producer(server, linger_ms=3_600_000)]
while not clients[0].assignment():
    clients[0].poll(10)
by_zmq = Consumer(topic, server=server, transport="zmq")
by_zmq.poll(0)
clients[2].send(topic, b"x")
if not os.fork():
    del clients, by_zmq
    gc.collect()
    own = Admin(server)
    assert topic in own.list_topics()
    own = None
    gc.collect()
    sys.exit(0)
_, status = os.wait()
assert os.waitstatus_to_exitcode(status) == 0, status
for client in clients + [by_zmq]:
    client.close()
"""


def _script(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "default::ResourceWarning", "-c", text, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_at_the_interpreters_end(broker: Broker, topic: str) -> None:
    done = _script(AT_EXIT, broker.server, topic)
    assert time.monotonic() - float(done.stdout) < 4
    assert done.returncode == 0
    for words in ("a Consumer of group", "an Admin was", "a Producer was not closed: no record was lost"):
        assert done.stderr.count(words) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert members(broker, topic) == 0
    with Consumer(topic, server=broker.server, auto_offset_reset="earliest") as consumer:
        (records,) = consumer.poll(PATIENCE_S * 1000).values()
        assert records[0].value == b"sent at the end"


def test_a_child_leaves_what_is_its_parents_alone(broker: Broker, topic: str) -> None:
    done = _script(AFTER_FORK, broker.server, topic)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("was not closed") == 1, done.stderr  # the child's own
