"""Clients and fork(): in the child they fail loudly, touch nothing of the parent's, and let the child end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kbroker.testing import Broker

pytestmark = pytest.mark.slow

SCRIPT = """
import os, sys
from kbroker import Admin, Consumer, Producer
from kbroker.errors import ForkedClient

server, topic = sys.argv[1:]
producer = Producer(server, linger_ms=3_600_000)
consumer = Consumer(topic, server=server)
admin = Admin(server)
by_zmq = Consumer(topic, server=server, transport="zmq")
by_zmq.poll(0)
future = producer.send(topic, b"queued by the parent")
child = os.fork()
if not child:
    calls = {
        "send": lambda: producer.send(topic, b"from the child"),
        "flush": producer.flush,
        "get": lambda: future.get(1),
        "metrics": producer.metrics,
        "poll": consumer.poll,
        "poll by zmq": by_zmq.poll,
        "iterate": lambda: next(iter(consumer)),
        "end": lambda: consumer.end_offsets(consumer.assignment()),
        "admin": admin.list_topics,
    }
    for name, call in calls.items():
        try:
            call()
        except ForkedClient as error:
            assert "make a new one" in str(error)
        else:
            raise AssertionError(f"{name} did not raise")
    for client in (producer, consumer, by_zmq, admin):
        client.close()
    del producer, consumer, by_zmq, admin, future, client, calls, call
    with Producer(server) as own:
        own.send(topic, b"from a new one in the child").get(10)
    sys.exit(0)
pid, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert admin.list_topics() == [topic]
producer.close()
assert future.get(0).offset == 1
for reader in (consumer, by_zmq):
    values = []
    while len(values) < 2:
        for records in reader.poll(10_000).values():
            values += [record.value for record in records]
    assert values == [b"from a new one in the child", b"queued by the parent"], values
print("done")
"""


def test_clients_across_a_fork() -> None:
    with Broker() as broker:
        from kbroker import Admin

        with Admin(broker.server) as admin:
            admin.create_topic("t", 1)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, broker.server, "t"], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


def test_a_program_that_forgets_to_close_still_sends_and_ends() -> None:
    script = """
import sys
from kbroker import Producer, Consumer
producer = Producer(sys.argv[1], linger_ms=3_600_000)
consumer = Consumer("t", server=sys.argv[1])
producer.send("t", b"x")
"""
    with Broker() as broker:
        done = subprocess.run(
            [sys.executable, "-c", script, broker.server], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        from kbroker import Consumer, TopicPartition

        with Consumer(server=broker.server) as consumer:
            assert consumer.end_offsets([TopicPartition("t", 0)]) == {TopicPartition("t", 0): 1}
