"""Who hangs up is not waited for: on every protocol, at every door."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import psutil
import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker
from kbroker.wire import messages as m

from .kafka_client import KafkaClient
from .kafka_raw import dial, receive
from .raw_client import RawClient, batch, direct

LONG_MS = 60_000
TYPES = codec.request_types(ApiKey.FETCH)


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    settings = {"group.initial.rebalance.delay.ms": 30_000}
    with Broker(settings, workers=1, listeners="PLAINTEXT://127.0.0.1:0") as running:
        with KafkaClient(running, 0) as client:
            client.create("t")
        yield running


def waiting(broker: Broker) -> int:
    """Fetches that wait in the worker, as it has told last."""
    (facts,) = [p["facts"] for p in broker.status()["processes"] if p["name"] == "worker-0"]
    return int(facts["waiting_fetches"])


def fetch(count: int) -> bytes:
    """Fetches that wait for more than there will be."""
    place = TYPES.FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1 << 20)
    request = TYPES.FetchRequest(
        replica_id=-1, max_wait_ms=LONG_MS, min_bytes=1 << 20, max_bytes=1 << 20,
        topics=[TYPES.FetchTopic(topic="t", partitions=[place])],
    )  # fmt: skip
    return b"".join(b"".join(codec.write_request(ApiKey.FETCH, 11, number, None, request)) for number in range(count))


def end_orderly(connection: socket.socket) -> None:
    connection.close()


def end_rudely(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_fetches_of_kafka_clients(broker: Broker) -> None:
    broker.wait_until(lambda: waiting(broker) == 0)
    held = []
    for count in (1, 3, 200):  # 4 may wait: with so many it is not read from
        for end in (end_orderly, end_rudely):
            for _ in range(5):
                held.append((dial(broker), end))
                held[-1][0].sendall(fetch(count))
    broker.wait_until(lambda: waiting(broker) == 10 * (1 + 3 + 4))
    for connection, end in held:
        end(connection)
    broker.wait_until(lambda: waiting(broker) == 0)


@pytest.mark.slow
def test_many_gone_clients_leave_nothing_behind(broker: Broker) -> None:
    worker = psutil.Process(broker.pid("worker-0"))
    asked = fetch(60)
    with KafkaClient(broker, 1) as producer:
        producer.produce("t", 0, b"x")
        facts = worker.memory_info()
        before = facts.rss - facts.shared
        for _ in range(500):
            with dial(broker) as connection:
                connection.sendall(asked)
        began = time.monotonic()
        producer.produce("t", 0, b"x")
        assert time.monotonic() - began < 1
        broker.wait_until(lambda: waiting(broker) == 0)
        facts = worker.memory_info()
        assert facts.rss - facts.shared - before < 32 << 20


@pytest.mark.parametrize("way", ["local", "front"])
def test_fetches_of_native_clients(broker: Broker, way: str) -> None:
    broker.wait_until(lambda: waiting(broker) == 0)
    endpoint = direct(broker) if way == "local" else broker.server
    clients = [RawClient(endpoint) for _ in range(10)]
    for client in clients:
        for _ in range(20):
            client.send(m.Fetch([m.FetchPartition("t", 0, 0)], max_wait_ms=LONG_MS, min_bytes=1 << 20))
    broker.wait_until(lambda: waiting(broker) == 200)
    with RawClient(endpoint) as other:  # others are served, and theirs wait on
        other.produce("t", batch(1))
        other.send(m.Fetch([m.FetchPartition("t", 0, 0)], max_wait_ms=LONG_MS, min_bytes=1 << 20))
        for client in clients:
            client.close()
        broker.wait_until(lambda: waiting(broker) == 1)
    broker.wait_until(lambda: waiting(broker) == 0)


def test_a_member_that_waits_for_its_group_and_hangs_up(broker: Broker) -> None:
    """The coordinator goes on, and others are served; the member stays until its session ends, as in Kafka."""
    types = codec.request_types(ApiKey.JOIN_GROUP)
    join = types.JoinGroupRequest(
        group_id="g", session_timeout_ms=6_000, rebalance_timeout_ms=60_000, member_id="", protocol_type="consumer",
        protocols=[types.JoinGroupRequestProtocol(name="range", metadata=b"")],
    )  # fmt: skip
    request = b"".join(codec.write_request(ApiKey.JOIN_GROUP, 2, 1, None, join))
    pid = broker.pid("coordinator")
    for end in (end_orderly, end_rudely):
        connection = dial(broker, 0)
        connection.sendall(request)
        end(connection)
    with dial(broker, 0) as other:
        other.sendall(struct.pack(">ihhih", 10, ApiKey.API_VERSIONS, 0, 7, -1))
        assert receive(other)
    assert broker.pid("coordinator") == pid
    assert "Traceback" not in broker.log


def test_forwarded_requests_are_forgotten(broker: Broker) -> None:
    """A worker hands them to the coordinator; the answer for a client that has gone is nobody's."""
    pid = broker.pid("worker-0")
    types = codec.request_types(ApiKey.CREATE_TOPICS)
    for number in range(20):
        new = types.CreatableTopic(name=f"forwarded-{number}", num_partitions=1, replication_factor=1)
        request = types.CreateTopicsRequest(topics=[new], timeout_ms=10_000)
        with dial(broker) as connection:
            connection.sendall(b"".join(codec.write_request(ApiKey.CREATE_TOPICS, 4, 1, None, request)))
    with KafkaClient(broker, 1) as client:
        broker.wait_until(lambda: "forwarded-19" in client.metadata())
    assert broker.pid("worker-0") == pid
    assert "Traceback" not in broker.log
