"""What a Kafka door does with bytes that no sound client sends: that connection ends, all others go on."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker

PATIENCE_S = 10


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    settings = {"kafka.stall.max.ms": 500, "kafka.requests.in.flight.max": 4, "max.connections.per.ip": 40}
    with Broker(settings, workers=1, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


def port_of(broker: Broker, node: int) -> int:
    return int(broker.status()["listeners"][f"kafka-{node}"].rpartition(":")[2])


def dial(broker: Broker, node: int = 1) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port_of(broker, node)))
    connection.settimeout(PATIENCE_S)
    return connection


def frame(api_key: int, version: int, correlation_id: int, body: bytes = b"", flexible: bool = False) -> bytes:
    head = struct.pack(">hhih", api_key, version, correlation_id, -1) + (b"\0" if flexible else b"")
    return struct.pack(">i", len(head) + len(body)) + head + body


def receive(connection: socket.socket) -> bytes:
    """One answer without its size; empty: the broker has hung up."""
    with contextlib.suppress(ConnectionResetError):
        head = receive_exactly(connection, 4)
        if head:
            return receive_exactly(connection, struct.unpack(">i", head)[0])
    return b""


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes; empty when the broker hangs up before."""
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            return b""
        data += chunk
    return data


def asks(broker: Broker, node: int = 1) -> bool:
    """Whether a sound client is served."""
    with dial(broker, node) as connection:
        connection.sendall(frame(ApiKey.API_VERSIONS, 0, 7))
        return receive(connection)[:6] == struct.pack(">ih", 7, 0)


NONSENSE = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "zeros": bytes(64),
    "negative size": struct.pack(">i", -5) + b"x" * 20,
    "huge size": struct.pack(">i", 2**31 - 1) + b"x" * 20,
    "unknown api": frame(999, 0, 1),
    "unknown version": frame(ApiKey.METADATA, 99, 1),
    "client id beyond the frame": struct.pack(">ihhih", 10, 3, 1, 1, 30_000),
    "count of 2^31-1": frame(ApiKey.METADATA, 1, 1, struct.pack(">i", 2**31 - 1)),
    "half a body": frame(ApiKey.PRODUCE, 7, 1, b"\xff\xff\0\1"),
    "random": os.urandom(200),
}


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_ends_its_own_connection_only(broker: Broker, what: str, node: int) -> None:
    with dial(broker, node) as other, dial(broker, node) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(NONSENSE[what])
            connection.shutdown(socket.SHUT_WR)
        assert receive(connection) == b""
        other.sendall(frame(ApiKey.API_VERSIONS, 0, 1))
        assert receive(other)
    assert asks(broker, node)


def test_the_log_says_what_it_looks_like(broker: Broker) -> None:
    with dial(broker) as connection:
        connection.sendall(NONSENSE["http"])
        assert receive(connection) == b""
    broker.wait_until(lambda: "look like HTTP" in broker.log)


def test_an_api_versions_of_the_future_is_answered_in_version_0(broker: Broker) -> None:
    with dial(broker) as connection:
        connection.sendall(frame(ApiKey.API_VERSIONS, 99, 3, b"\0\1\2\3"))
        correlation_id, error_code, count = struct.unpack_from(">ihi", receive(connection))
    assert (correlation_id, error_code) == (3, 35)
    assert count > 10


def test_answers_keep_the_order_of_requests(broker: Broker) -> None:
    with dial(broker) as connection:
        types = codec.request_types(ApiKey.METADATA)
        every = codec.write_request(ApiKey.METADATA, 1, 0, None, types.MetadataRequest(topics=None))
        body = b"".join(every)[14:]
        sent = b""
        for number in range(40):  # more than may be in flight; every other one is answered by the coordinator
            forwarded = number % 2
            api = frame(ApiKey.FIND_COORDINATOR, 0, number, b"\0\1g") if forwarded else frame(3, 1, number, body)
            sent += api
        connection.sendall(sent)
        got = [struct.unpack_from(">i", receive(connection))[0] for _ in range(40)]
    assert got == list(range(40))


def test_more_requests_than_may_be_in_flight_and_more_bytes_than_are_received_at_once(broker: Broker) -> None:
    count = 20_000  # of 17 bytes: some come while others wait; the coordinator answers, so that they do wait
    with dial(broker) as connection:
        requests = b"".join(frame(ApiKey.FIND_COORDINATOR, 0, number, b"\0\1g") for number in range(count))
        sender = threading.Thread(target=connection.sendall, args=(requests,))
        sender.start()
        got = [struct.unpack_from(">i", receive(connection))[0] for _ in range(count)]
        sender.join()
    assert got == list(range(count))


def test_a_request_byte_by_byte(broker: Broker) -> None:
    with dial(broker) as connection:
        for byte in frame(ApiKey.API_VERSIONS, 0, 9):
            connection.sendall(bytes((byte,)))
            time.sleep(0.002)  # so that bytes arrive one by one; together they would pass as well
        assert receive(connection)[:4] == struct.pack(">i", 9)


def test_half_a_request_is_given_up_after_a_while(broker: Broker) -> None:
    with dial(broker) as connection:
        connection.sendall(frame(ApiKey.API_VERSIONS, 0, 9)[:9])
        started = time.monotonic()
        assert receive(connection) == b""
        assert time.monotonic() - started < 5
    assert asks(broker)


def test_connections_of_one_address_are_bounded(broker: Broker) -> None:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(dial(broker)) for _ in range(60)]
        refused = 0
        for connection in held:
            with contextlib.suppress(OSError):
                connection.sendall(frame(ApiKey.API_VERSIONS, 0, 1))
            with contextlib.suppress(OSError):
                refused += receive(connection) == b""
    assert refused == 20
    broker.wait_until(lambda: asks(broker))
