"""The front under good and bad clients: what it answers, and that nobody else notices."""

from __future__ import annotations

import os
import signal
import socket
import struct

import msgpack
import pytest
import zmq

from kbroker.errors import (
    InvalidRequest,
    LeaderNotAvailable,
    MessageTooLarge,
    NotLeaderOrFollower,
    ThrottlingQuotaExceeded,
    UnknownTopicOrPartition,
    UnsupportedVersion,
)
from kbroker.testing import Broker
from kbroker.wire import codec
from kbroker.wire import messages as m

from .raw_client import RawClient, batch, direct

MORE, LONG, COMMAND = 1, 2, 4  # flags of a ZMTP 3 frame (RFC 23)


def shake_hands(connection: socket.socket) -> None:
    """ZMTP 3.0, mechanism NULL, as a DEALER: libzmq itself sends no part of a message before the last one is there."""
    connection.sendall(b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    ready = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
    connection.sendall(bytes([COMMAND, len(ready)]) + ready)
    received = b""
    while len(received) < 66 or len(received) < 66 + received[65]:
        received += connection.recv(4096)


def pour(connection: socket.socket, frame: bytes, count: int) -> None:
    for _ in range(count):
        connection.sendall(frame)


def refusal(client: RawClient, request_id: bytes) -> None:
    codec.decode_answer(m.HelloAnswer, client.take(request_id)[0])


def test_hello_names_the_host_and_the_limits(broker: Broker, client: RawClient) -> None:
    answer = client.ask(m.HelloAnswer, m.Hello("test"))
    with open("/proc/sys/kernel/random/boot_id") as boot_id:
        assert answer.boot_id == boot_id.read().strip()
    assert answer.cluster_id == broker.status()["cluster_id"]
    assert answer.frame_bytes_max == 32 << 20


def test_the_same_broker_answers_by_ipc_and_by_tcp(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic)
    with RawClient(broker.tcp_server) as by_tcp:
        assert by_tcp.produce(topic, batch(3)).base_offset == 0
    assert len(client.records(topic)) == 3


@pytest.mark.parametrize(
    ("header", "error", "words"),
    [
        (b"GET / HTTP/1.1\r\n", InvalidRequest, "not msgpack"),
        (b"\xc1garbage", InvalidRequest, "not msgpack"),
        (b"", InvalidRequest, "not msgpack"),
        (msgpack.packb({"op": "hello", "v": 2}), UnsupportedVersion, "protocol version 2"),
        (msgpack.packb({"op": "hello"}), UnsupportedVersion, "protocol version None"),
        (msgpack.packb({"op": "explode", "v": 1}), InvalidRequest, "unknown operation 'explode'"),
        (msgpack.packb({"op": "produce", "v": 1, "topic": 1, "partition": 0}), InvalidRequest, "topic"),
        (msgpack.packb({"op": "fetch", "v": 1, "partitions": []}), InvalidRequest, "at least one"),
        (msgpack.packb({"op": "metadata", "v": 1, "topics": "t"}), InvalidRequest, "must be a list"),
        (msgpack.packb({"op": "create_topics", "v": 1, "topics": [{"name": 5}]}), InvalidRequest, "name must be str"),
        (b"\x81" * 2_000_000, MessageTooLarge, r"native\.header\.bytes\.max"),
    ],
)
def test_a_bad_header_is_named(client: RawClient, header: bytes, error: type[Exception], words: str) -> None:
    request_id = client.send_header(header)
    with pytest.raises(error, match=words):
        refusal(client, request_id)
    assert client.ask(m.HelloAnswer, m.Hello()).version == 1


def test_wrong_frames_are_named(client: RawClient) -> None:
    for frames, words in (
        ([b""], "at least 2 frames"),
        ([b"only one"], "at least 2 frames"),
        ([b"", b"x"], "request id has 1 to 16 bytes"),
        ([b"i" * 17, b"x"], "request id has 1 to 16 bytes"),
        ([b"id", b"x", *[b"p"] * 300], r"native\.frames\.max"),
    ):
        client.socket.send_multipart(frames)
        with pytest.raises((InvalidRequest, MessageTooLarge), match=words):
            codec.decode_answer(m.HelloAnswer, client.take_any()[1][0])


def test_a_frame_over_the_limit_ends_that_connection_only(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic)
    with RawClient(broker.tcp_server) as bad:
        bad.ask(m.HelloAnswer, m.Hello())
        monitor = bad.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        monitor.setsockopt(zmq.RCVTIMEO, 20_000)
        bad.send(m.Produce(topic, 0), bytes(33 << 20))
        try:
            monitor.recv_multipart()
        finally:
            bad.socket.disable_monitor()
            monitor.close()
    assert client.produce(topic, batch(1)).base_offset == 0


def test_unknown_topics_and_partitions_are_named(client: RawClient, topic: str) -> None:
    client.create(topic, 2)
    for name, partition in (("nobody", 0), (topic, 2), (topic, -1)):
        with pytest.raises(UnknownTopicOrPartition, match=f"{name}-{partition}"):
            client.ask(m.ProduceAnswer, m.Produce(name, partition), batch(1))


def test_more_requests_in_flight_than_allowed_are_refused(client: RawClient, topic: str) -> None:
    client.create(topic)
    fetch = m.Fetch([m.FetchPartition(topic, 0, 0)], max_wait_ms=60_000)
    parked = [client.send(fetch) for _ in range(256)]
    with pytest.raises(ThrottlingQuotaExceeded, match=r"native\.requests\.in\.flight\.max"):
        client.ask(m.HelloAnswer, m.Hello())
    with RawClient(client.socket.getsockopt_string(zmq.LAST_ENDPOINT)) as other:
        assert other.produce(topic, batch(1)).base_offset == 0
    for request_id in parked:
        assert len(client.take(request_id)) == 2
    assert client.ask(m.HelloAnswer, m.Hello()).version == 1


def test_a_request_id_in_use_is_refused(client: RawClient, topic: str) -> None:
    client.create(topic)
    fetch = codec.encode_request(m.Fetch([m.FetchPartition(topic, 0, 0)], max_wait_ms=60_000))
    client.socket.send_multipart([b"same", fetch])
    client.socket.send_multipart([b"same", fetch])
    with pytest.raises(InvalidRequest, match="in use"):
        refusal(client, b"same")


def test_requests_of_a_worker_that_dies_are_answered_at_once(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic)
    owner = client.ask(m.MetadataAnswer, m.Metadata([topic])).topics[0].partitions[0].leader - 1
    parked = client.send(m.Fetch([m.FetchPartition(topic, 0, 0)], max_wait_ms=3_600_000))
    client.ask(m.HelloAnswer, m.Hello())
    broker.kill(f"worker-{owner}")
    with pytest.raises((NotLeaderOrFollower, LeaderNotAvailable)):
        codec.decode_answer(m.FetchAnswer, client.take(parked)[0])
    assert client.produce(topic, batch(1)).base_offset == 0


def test_a_front_that_is_killed_is_back_and_its_clients_go_on(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic)
    client.produce(topic, batch(2))
    broker.kill_and_wait("front")
    assert client.produce(topic, batch(2)).base_offset == 2
    assert len(client.records(topic)) == 4


def test_a_client_that_vanishes_in_the_middle_leaves_nothing_behind(
    broker: Broker, client: RawClient, topic: str
) -> None:
    client.create(topic)
    for _ in range(300):
        with RawClient(broker.server) as fleeting:
            fleeting.send(m.Fetch([m.FetchPartition(topic, 0, 0)], max_wait_ms=1))
            fleeting.send(m.Produce(topic, 0, acks=1), batch(1))
    assert client.produce(topic, batch(1)).base_offset >= 0
    assert broker.is_ready("front")


@pytest.mark.slow
def test_a_client_that_does_not_read_its_answers_costs_no_memory(topic: str) -> None:
    with Broker({"native.bytes.in.flight.max": "4194304"}) as broker, RawClient(broker.server) as client:
        client.create(topic)
        big = batch([os.urandom(900_000)])
        for _ in range(20):
            client.produce(topic, big)
        with RawClient(broker.server) as greedy, RawClient(direct(broker)) as greedy_too:
            fetch = m.Fetch([m.FetchPartition(topic, 0, 0, max_bytes=1 << 23)], max_wait_ms=0)
            for one in (greedy, greedy_too):
                # It takes what comes but never says so, which is the same to the broker as not taking it.
                errors = [msgpack.unpackb(one.take(one.send(fetch))[0])["error"] for _ in range(60)]
                assert 0 in errors
                assert errors[-1] == ThrottlingQuotaExceeded.code
        assert len(client.records(topic)) == 20
        for name in ("front", "worker-0"):
            assert broker.processes()[name]["rss_anon_bytes"] < 150 << 20
        assert broker.processes()["front"]["restarts"] == 0


@pytest.mark.slow
def test_an_endless_message_ends_the_front_not_the_broker(topic: str) -> None:
    with Broker({"front.memory.max.bytes": str(128 << 20)}, tcp=True) as broker, RawClient(broker.server) as client:
        client.create(topic)
        client.produce(topic, batch(5))
        pid = broker.pid("worker-0")
        host, port = broker.tcp_server.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as endless:
            shake_hands(endless)
            frame = bytes([MORE | LONG]) + struct.pack(">Q", 1 << 20) + bytes(1 << 20)
            with pytest.raises(ConnectionError):
                pour(endless, frame, 4096)  # 4 GiB, all of them parts of one message
        broker.wait_until(lambda: broker.processes()["front"]["restarts"] == 1 and broker.is_ready("front"))
        assert "front.memory.max.bytes" in broker.log
        assert client.produce(topic, batch(5)).base_offset == 5
        assert broker.pid("worker-0") == pid


@pytest.mark.slow
def test_a_front_that_hangs_is_replaced(topic: str) -> None:
    with Broker({"process.heartbeat.timeout.ms": "500"}) as broker, RawClient(broker.server) as client:
        client.create(topic)
        broker.kill("front", signal.SIGSTOP)
        broker.wait_until(lambda: broker.processes()["front"]["restarts"] >= 1 and broker.is_ready("front"))
        assert client.produce(topic, batch(1)).base_offset == 0
