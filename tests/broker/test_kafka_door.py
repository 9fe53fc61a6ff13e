"""What a Kafka door does with bytes that no sound client sends: that connection ends, all others go on."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker
from kbroker.workers.listeners import host_port

from .kafka_raw import asks, dial, frame, receive


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    settings = {"kafka.stall.max.ms": 500, "kafka.requests.in.flight.max": 4, "max.connections.per.ip": 40}
    with Broker(settings, workers=1, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


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


@pytest.mark.parametrize(
    ("what", "looks_like"),
    [
        (b"POST /topics HTTP/1.1\r\n\r\n", "look like HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "look like HTTP/2"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), "a TLS handshake"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "look like SSH"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "a proxy's PROXY line"),
        (b"*1\r\n$4\r\nPING\r\n", "look like Redis"),
    ],
)
def test_one_line_of_the_log_says_what_it_looks_like(broker: Broker, what: bytes, looks_like: str) -> None:
    before = len(broker.log)
    with dial(broker) as connection:
        address = host_port(*connection.getsockname())
        connection.sendall(what)
        assert receive(connection) == b""
    broker.wait_until(lambda: looks_like in broker.log[before:])
    (line,) = [line for line in broker.log[before:].splitlines() if address in line]
    assert looks_like in line


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
