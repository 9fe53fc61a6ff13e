"""What the measured Kafka clients do: confluent-kafka as its users write it, and a bare socket with ready-made frames.

Each function here is the whole life of a client in a process of its own (see `driven.py`).
"""

from __future__ import annotations

import os
import resource
import socket
import time
from multiprocessing.connection import Connection
from struct import Struct
from typing import Any

import confluent_kafka

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from perf.batches import batch_of

WAIT_S = 30.0
CONSUME_RECORDS = 10_000
PRODUCE_VERSION = 9
FETCH_VERSION = 11
PIPELINED = 32
"""Requests that are under way at a time: half of what the broker takes of one connection."""
_SIZE = Struct(">i")


def produce(steps: Connection, servers: str, topic: str, acks: str, batch_bytes: int, record_bytes: int) -> None:
    """Sends as many records as it is told, again and again, and says when the last one was acknowledged."""
    failed: list[Any] = []
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": servers,
            "acks": acks,
            "batch.size": batch_bytes,
            "batch.num.messages": 1_000_000,
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
            "delivery.report.only.error": True,
            "on_delivery": lambda error, _message: failed.append(error),
        }
    )
    value = os.urandom(record_bytes)
    send = producer.produce
    steps.send("ready")
    while True:
        for _ in range(steps.recv()):
            try:
                send(topic, value, partition=0)
            except BufferError:
                producer.poll(0.01)
                send(topic, value, partition=0)
        assert producer.flush(WAIT_S) == 0, "the last records were not acknowledged in time"
        assert not failed, str(failed[0])
        steps.send("done")


def _consumer(servers: str) -> Any:
    return confluent_kafka.Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "nobody",
            "enable.auto.commit": False,
            # By default a client that has enough in hand does not fetch for a second.
            "fetch.queue.backoff.ms": 1,
        }
    )


def consume(steps: Connection, servers: str, topic: str, count: int) -> None:
    """Reads the topic's `count` records from the first on, each time it is told."""
    consumer = _consumer(servers)
    steps.send("ready")
    while True:
        steps.recv()
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
        seen = 0
        while seen < count:
            found = consumer.consume(min(CONSUME_RECORDS, count - seen), WAIT_S)
            assert found, f"nothing more after {seen} of {count} records"
            assert found[0].error() is None, str(found[0].error())
            seen += len(found)
        steps.send("done")


def send_steadily(steps: Connection, servers: str, topic: str, count: int, per_second: int) -> None:
    """Sends `count` records at a steady rate once it is told. A value begins with the time of its call."""
    producer = confluent_kafka.Producer({"bootstrap.servers": servers, "acks": 1, "linger.ms": 0})
    rest = bytes(92)
    steps.send("ready")
    steps.recv()
    due = time.monotonic()
    for _ in range(count):
        due += 1 / per_second
        pause = due - time.monotonic()
        if pause > 0:
            time.sleep(pause)  # the rate
        producer.produce(topic, time.monotonic_ns().to_bytes(8, "big") + rest, partition=0)
        producer.poll(0)
    assert producer.flush(WAIT_S) == 0, "the last records were not acknowledged in time"
    steps.send("done")


def receive_times(steps: Connection, servers: str, topic: str, count: int) -> None:
    """Reads what `send_steadily` sends to an empty topic, and says how many µs each record took."""
    consumer = _consumer(servers)
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    consumer.poll(1.0)
    steps.send("ready")
    found_us: list[float] = []
    while len(found_us) < count:
        message = consumer.poll(WAIT_S)
        assert message is not None, f"nothing more after {len(found_us)} of {count} records"
        assert message.error() is None, str(message.error())
        found_us.append((time.monotonic_ns() - int.from_bytes(message.value()[:8], "big")) / 1e3)
    steps.send(found_us)


def pipeline(steps: Connection, address: str, topic: str, record_bytes: int) -> None:
    """Sends as many requests of one record as it is told by a bare socket, PIPELINED of them at a time."""
    request = produce_frame(topic, batch_of(record_bytes, record_bytes)[0])
    with dial(address) as connection:
        connection.sendall(request)
        answer_bytes = len(receive_frame(connection))
        answers = bytearray(PIPELINED * answer_bytes)
        steps.send("ready")
        while True:
            for _ in range(steps.recv() // PIPELINED):
                connection.sendall(request * PIPELINED)
                receive_into(connection, answers)
                for number in range(PIPELINED):
                    check_produced(memoryview(answers)[number * answer_bytes :])
            steps.send("done")


def wait_idly(steps: Connection, address: str, topic: str, count: int, parked: int, wait_ms: int) -> None:
    """Holds `count` connections, each of which has asked for the versions; on `parked` of them a fetch waits for what
    never comes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    versions = versions_frame()
    connections = []
    for _ in range(count):
        connections.append(dial(address))
        connections[-1].sendall(versions)
    for connection in connections:
        receive_frame(connection)
    request = fetch_frame(topic, wait_ms)
    for connection in connections[:parked]:
        connection.sendall(request)
    steps.send("ready")
    steps.recv()


# --- frames and bare sockets ---


def dial(address: str) -> socket.socket:
    """Connect to a Kafka listener, `host:port`."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), WAIT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def versions_frame() -> bytes:
    """A whole ApiVersions request."""
    request = codec.request_types(ApiKey.API_VERSIONS).ApiVersionsRequest()
    return b"".join(codec.write_request(ApiKey.API_VERSIONS, 0, 1, "perf", request))


def produce_frame(topic: str, batches: bytes) -> bytes:
    """A whole Produce request for partition 0, acks=1."""
    types = codec.request_types(ApiKey.PRODUCE)
    partition = types.PartitionProduceData(index=0, records=batches)
    topics = [types.TopicProduceData(name=topic, partition_data=[partition])]
    request = types.ProduceRequest(acks=1, timeout_ms=1000, topic_data=topics)
    return b"".join(codec.write_request(ApiKey.PRODUCE, PRODUCE_VERSION, 1, "perf", request))


def check_produced(answer: memoryview) -> None:
    """That partition 0 of one topic was taken, says this whole answer."""
    found = codec.read_response(ApiKey.PRODUCE, PRODUCE_VERSION, answer[9:])
    assert found.responses[0].partition_responses[0].error_code == 0


def fetch_frame(topic: str, wait_ms: int) -> bytes:
    """A whole Fetch request for partition 0 from its beginning."""
    types = codec.request_types(ApiKey.FETCH)
    partition = types.FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1 << 20)
    topics = [types.FetchTopic(topic=topic, partitions=[partition])]
    request = types.FetchRequest(max_wait_ms=wait_ms, min_bytes=1, max_bytes=1 << 20, topics=topics)
    return b"".join(codec.write_request(ApiKey.FETCH, FETCH_VERSION, 1, "perf", request))


def receive_frame(connection: socket.socket) -> bytes:
    """The next answer, its size included."""
    head = bytearray(_SIZE.size)
    receive_into(connection, head)
    body = bytearray(_SIZE.unpack(head)[0])
    receive_into(connection, body)
    return bytes(head + body)


def receive_into(connection: socket.socket, buffer: bytearray) -> None:
    """Fill a buffer."""
    room = memoryview(buffer)
    while room:
        count = connection.recv_into(room)
        assert count, "the broker has hung up"
        room = room[count:]
