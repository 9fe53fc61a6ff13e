"""What a client sends first, on a connection on which it has not introduced itself: as much as at any time."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator

import psutil
import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import APIS, ApiKey
from kbroker.kafka.framing import FrameLimits, RequestFramer
from kbroker.testing import Broker

from .kafka_client import KafkaClient, batch, produce_request
from .kafka_raw import asks, dial, frame, receive

MIB = 1 << 20


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(workers=1, listeners="PLAINTEXT://127.0.0.1:0") as running:
        with KafkaClient(running, 0) as client:
            client.create("t")
        yield running


def produce(size_bytes: int, version: int = 7) -> bytes:
    """A Produce request with one record, as clients send it that have asked nothing before."""
    request = produce_request("t", 0, batch(os.urandom(size_bytes)), -1)
    return b"".join(codec.write_request(ApiKey.PRODUCE, version, 1, "first", request))


def answered(broker: Broker, request: bytes) -> int:
    """The error code of a Produce on a new connection; -2: hung up."""
    with dial(broker) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request)
        answer = receive(connection)
    if not answer:
        return -2
    read = codec.read_response(ApiKey.PRODUCE, 7, memoryview(answer)[4:])
    return int(read.responses[0].partition_responses[0].error_code)


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_the_first_frame_of_each_api_is_bounded_as_any_other(api: object) -> None:
    limits = FrameLimits()
    key = api.key  # type: ignore[attr-defined]
    most = limits.produce_bytes if key == ApiKey.PRODUCE else limits.other_bytes
    for size_bytes in (limits.stranger_bytes + 1, most):
        framer = RequestFramer(limits)
        framer.receive(struct.pack(">ihhih", size_bytes, key, api.max_version, 1, -1))  # type: ignore[attr-defined]
        assert framer.next_request() is None


@pytest.mark.parametrize("size_bytes", [60_000, 70_000, 200_000, 900_000])
def test_a_large_produce_comes_first(broker: Broker, size_bytes: int) -> None:
    assert answered(broker, produce(size_bytes)) == 0


@pytest.mark.parametrize("node", [0, 1])
def test_a_large_metadata_comes_first(broker: Broker, node: int) -> None:
    names = b"".join(struct.pack(">h", 200) + b"%0200d" % number for number in range(1_000))
    with dial(broker, node) as connection:
        connection.sendall(frame(ApiKey.METADATA, 4, 1, struct.pack(">i", 1_000) + names + b"\0"))
        assert len(receive(connection)) > 200_000


def test_a_large_produce_comes_first_after_a_restart(broker: Broker) -> None:
    old = broker.pid("worker-0")
    os.kill(old, signal.SIGKILL)
    broker.wait_until(lambda: broker.pid("worker-0") not in (0, old) and asks(broker))
    broker.wait_until(lambda: answered(broker, produce(70_000)) == 0)


def test_a_client_id_that_is_not_utf_8(broker: Broker) -> None:
    for version, tags in ((0, b""), (3, b"\0" + b"\x02a\x02b\0")):
        head = struct.pack(">hhih", ApiKey.API_VERSIONS, version, 9, 3) + b"a\xff\xfe" + tags
        with dial(broker) as connection:
            connection.sendall(struct.pack(">i", len(head)) + head)
            assert receive(connection)[:6] == struct.pack(">ih", 9, 0)


@pytest.fixture(scope="module")
def tight() -> Iterator[Broker]:
    settings = {"queued.max.request.bytes": 8 * MIB, "kafka.stall.max.ms": 3_000, "message.max.bytes": 16 * MIB}
    with Broker(settings, workers=1, listeners="PLAINTEXT://127.0.0.1:0") as running:
        with KafkaClient(running, 0) as client:
            client.create("t")
        yield running


def half_a_produce(size_bytes: int) -> bytes:
    return struct.pack(">ihhih", size_bytes, ApiKey.PRODUCE, 7, 1, -1) + bytes(size_bytes // 2)


@pytest.mark.slow
def test_half_requests_are_bounded_in_all_and_others_are_served(tight: Broker) -> None:
    worker = psutil.Process(tight.pid("worker-0"))

    def own_bytes() -> int:
        facts = worker.memory_info()
        return int(facts.rss - facts.shared)

    before = own_bytes()
    with contextlib.ExitStack() as stack:
        hostile = [stack.enter_context(dial(tight)) for _ in range(60)]
        for connection in hostile:
            connection.setblocking(False)
        unsent = {connection: half_a_produce(4 * MIB) for connection in hostile}
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            for connection, rest in list(unsent.items()):
                with contextlib.suppress(OSError):  # full, or hung up on
                    unsent[connection] = rest[connection.send(rest[:65_536]) :]
            assert asks(tight)  # small requests do not wait
            assert own_bytes() - before < 24 * MIB
        # A large one waits for its turn, and gets it: those who do not go on are hung up on.
        with dial(tight) as good:
            good.settimeout(60)
            good.sendall(produce(6 * MIB))
            assert receive(good)[:4] == struct.pack(">i", 1)
    assert "queued.max.request.bytes" in tight.log
    tight.wait_until(lambda: all(c.status != psutil.CONN_ESTABLISHED for c in worker.net_connections("tcp")))


def test_a_request_larger_than_all_that_may_be_queued_is_taken(tight: Broker) -> None:
    assert answered(tight, produce(12 * MIB)) == 0


def test_several_large_requests_at_once_all_come_in(tight: Broker) -> None:
    requests = [produce(5 * MIB) for _ in range(6)]
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(dial(tight)) for _ in requests]
        unsent = dict(zip(held, requests, strict=True))
        for connection in held:
            connection.setblocking(False)
        deadline = time.monotonic() + 20
        while unsent and time.monotonic() < deadline:
            for connection, rest in list(unsent.items()):
                with contextlib.suppress(BlockingIOError):
                    unsent[connection] = rest = rest[connection.send(rest[:262_144]) :]
                if not rest:
                    del unsent[connection]
        assert not unsent
        for connection in held:
            connection.settimeout(20)
            answer = codec.read_response(ApiKey.PRODUCE, 7, memoryview(receive(connection))[4:])
            assert answer.responses[0].partition_responses[0].error_code == 0


def test_who_has_asked_for_data_may_take_its_time_as_long_as_that_costs_little() -> None:
    """`kafka.stall.max.ms` is for half requests; an answer may lie untaken for connections.max.idle.ms."""
    settings = {"kafka.stall.max.ms": 400, "connections.max.idle.ms": 600_000}
    with Broker(settings, workers=1, listeners="PLAINTEXT://127.0.0.1:0") as broker:
        with KafkaClient(broker, 1) as client:
            client.create("wide", 200)
        count = 400  # of 5 KB each: more than a socket holds
        with dial(broker, receive_bytes=4_096) as slow, dial(broker) as half:
            slow.sendall(b"".join(frame(ApiKey.METADATA, 1, n, struct.pack(">i", -1)) for n in range(count)))
            # The door looks after both once a second: when it has hung up on this one it has seen the other.
            half.sendall(frame(ApiKey.API_VERSIONS, 0, 9)[:9])
            assert receive(half) == b""
            with dial(broker) as again:
                again.sendall(frame(ApiKey.API_VERSIONS, 0, 9)[:9])
                assert receive(again) == b""
            for number in range(count):
                assert struct.unpack_from(">i", receive(slow))[0] == number
        assert "took nothing of its answers" not in broker.log


def test_who_closes_while_it_is_not_read_from_is_noticed(broker: Broker) -> None:
    """With as many requests unanswered as may be a connection is not read from; its end is seen all the same."""
    types = codec.request_types(ApiKey.FETCH)
    partition = types.FetchPartition(partition=0, fetch_offset=1 << 40, partition_max_bytes=MIB)
    del partition
    worker = psutil.Process(broker.pid("worker-0"))
    with KafkaClient(broker, 1) as client:
        end = client.produce("t", 0, b"x").base_offset + 1
    item = types.FetchPartition(partition=0, fetch_offset=end, partition_max_bytes=MIB)
    request = types.FetchRequest(
        replica_id=-1, max_wait_ms=60_000, min_bytes=MIB, max_bytes=MIB,
        topics=[types.FetchTopic(topic="t", partitions=[item])],
    )  # fmt: skip
    asked = b"".join(codec.write_request(ApiKey.FETCH, 11, 1, None, request))
    connection = dial(broker)
    port = connection.getsockname()[1]
    connection.sendall(200 * asked)
    connection.shutdown(socket.SHUT_WR)

    def is_there() -> bool:
        return any(c.raddr and c.raddr.port == port for c in worker.net_connections("tcp"))

    broker.wait_until(lambda: not is_there())
    connection.close()
