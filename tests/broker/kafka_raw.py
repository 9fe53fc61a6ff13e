"""A Kafka client that sends whatever bytes a test wants."""

from __future__ import annotations

import contextlib
import socket
import struct

from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker

PATIENCE_S = 10


def port_of(broker: Broker, node: int) -> int:
    return int(broker.status()["listeners"][f"kafka-{node}"].rpartition(":")[2])


def dial(broker: Broker, node: int = 1, *, receive_bytes: int = 0) -> socket.socket:
    """A connection, with so small a buffer for what comes when `receive_bytes` says so."""
    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(PATIENCE_S)
    connection.connect(("127.0.0.1", port_of(broker, node)))
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
