"""A worker's own door under bad clients: each is told and hung up on, and nobody else notices."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.config import NativeConfig
from kbroker.errors import InvalidRequest, MessageTooLarge, ThrottlingQuotaExceeded
from kbroker.testing import Broker
from kbroker.wire import codec
from kbroker.wire import messages as m
from kbroker.wire.endpoints import UNIX
from kbroker.wire.stream import ANSWER_LIMITS, MessageFramer, head
from kbroker.workers.local_door import LocalDoor, request_limits
from kbroker.workers.loop import Loop
from kbroker.workers.stream_connection import HALF_RECEIVED_BYTES_MAX, StreamConnection, Streams, dial

from .raw_client import RawClient, batch, direct


def door_of(broker: Broker) -> str:
    return direct(broker).removeprefix(UNIX)


def last_words(stream: socket.socket) -> None:
    """Raises the error with which the door hangs up."""
    framer = MessageFramer(ANSWER_LIMITS)
    framer.receive(memoryview(stream.recv(1 << 16)))
    frames = framer.next_message()
    assert frames is not None
    assert bytes(frames[0]) == b""
    with contextlib.suppress(ConnectionError):
        assert stream.recv(1) == b""
    codec.decode_answer(m.HelloAnswer, frames[1])


@pytest.fixture
def stream(broker: Broker) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(20)
        made.connect(door_of(broker))
        yield made


def test_only_owner_and_group_may_connect(broker: Broker) -> None:
    assert stat.S_IMODE(os.stat(door_of(broker)).st_mode) == 0o660


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", MessageTooLarge, "GET / HTTP"),
        (b"\xff\0\0\0\0\0\0\0\x01\x7f", MessageTooLarge, "is too large"),  # how ZeroMQ greets
        (b"\0\0\0\0", InvalidRequest, "cannot be"),
        (head([b"x"] * 300), MessageTooLarge, r"native\.frames\.max"),
        (b"\0\0\0\x08\0\0\0\1\0\0\0\7", InvalidRequest, "it says 8"),
    ],
)
def test_garbage_is_named_and_hung_up_on(
    broker: Broker, stream: socket.socket, data: bytes, error: type[Exception], words: str
) -> None:
    pid = broker.pid("worker-0")
    stream.sendall(data + bytes(300))
    with pytest.raises(error, match=words):
        last_words(stream)
    with RawClient(direct(broker)) as other:
        assert other.ask(m.HelloAnswer, m.Hello()).version == 1
    assert broker.pid("worker-0") == pid


def test_wrong_frames_are_named_and_the_client_stays(broker: Broker) -> None:
    with RawClient(direct(broker)) as client:
        for frames, words in (
            ([b"i" * 17, b"x"], "request id has 1 to 16 bytes"),
            ([b"only one"], "at least 2 frames"),
            ([b"id", b"\xc1"], "not msgpack"),
            ([b"id", b"\x81" * 1_050_000], r"native\.header\.bytes\.max"),
        ):
            client.socket.send_multipart(frames)
            with pytest.raises((InvalidRequest, MessageTooLarge), match=words):
                codec.decode_answer(m.HelloAnswer, client.take_any()[1][0])
        assert client.ask(m.HelloAnswer, m.Hello()).version == 1


def test_more_requests_in_flight_than_allowed_are_refused(broker: Broker, topic: str, client: RawClient) -> None:
    client.create(topic)
    fetch = m.Fetch([m.FetchPartition(topic, 0, 0)], max_wait_ms=60_000)
    owner = client.ask(m.MetadataAnswer, m.Metadata([topic])).topics[0].partitions[0].leader - 1
    with RawClient(direct(broker, owner)) as local:
        parked = [local.send(fetch) for _ in range(256)]
        with pytest.raises(ThrottlingQuotaExceeded, match=r"native\.requests\.in\.flight\.max"):
            local.ask(m.HelloAnswer, m.Hello())
        assert client.produce(topic, batch(1)).base_offset == 0
        for request_id in parked:
            assert len(local.take(request_id)) == 2
        assert local.ask(m.HelloAnswer, m.Hello()).version == 1


def test_more_clients_than_allowed_are_refused() -> None:
    with Broker({"native.clients.max": "2"}, workers=1) as broker, contextlib.ExitStack() as clients:
        several = [clients.enter_context(RawClient(direct(broker))) for _ in range(2)]
        for one in several:
            assert one.ask(m.HelloAnswer, m.Hello()).version == 1
        with socket.socket(socket.AF_UNIX) as third:
            third.settimeout(20)
            third.connect(door_of(broker))
            with pytest.raises(ThrottlingQuotaExceeded, match=r"native\.clients\.max"):
                last_words(third)
        several[0].close()
        is_served = False
        while not is_served:  # the worker may see the end of the first after this one's beginning
            with RawClient(direct(broker)) as again, contextlib.suppress(ThrottlingQuotaExceeded):
                is_served = again.ask(m.HelloAnswer, m.Hello()).version == 1


class DoorOnALoop:
    """A door alone, with a clock that the test turns."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 1000
        monkeypatch.setattr(Loop, "now_ms", lambda _self=None: self.now_ms)
        self.path = str(path / "door")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.setblocking(False)
        self.loop = Loop()
        self.streams = Streams(self.loop)
        self.loop.at_turn_end(self.streams.flush, self.streams.unsent)
        answer = bytes(1 << 20)
        self.door = LocalDoor(self.streams, self.listener, lambda asked: asked.answer(b"", [answer]), NativeConfig())
        self.door.listen()

    def turns(self) -> None:
        for _ in range(20):
            self.loop.turn(0)

    def pass_time(self, ms: int) -> None:
        for _ in range(ms // 500):
            self.now_ms += 500
            self.loop.turn(0)

    def close(self) -> None:
        self.door.close()
        self.loop.close()
        self.listener.close()


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DoorOnALoop]:
    made = DoorOnALoop(tmp_path, monkeypatch)
    yield made
    made.close()


def test_who_takes_no_answers_is_read_no_more_and_hung_up_on(alone: DoorOnALoop) -> None:
    request = head([b"id", b"x"]) + b"idx"
    with dial(alone.path) as slow, dial(alone.path) as good:
        for _ in range(50):
            with contextlib.suppress(BlockingIOError):
                slow.sendall(request)
            alone.turns()
        (connection,) = [one.connection for one in alone.door.clients if one.connection.blocked_ms]
        # One answer's worth, not one for each request that was sent.
        assert connection.queued_bytes == alone.streams.untaken_bytes <= 2 << 20
        alone.pass_time(590_000)
        assert len(alone.door.clients) == 2  # it has asked for data, and that costs little
        alone.pass_time(20_000)
        assert len(alone.door.clients) == 1
        assert alone.streams.untaken_bytes == 0
        good.send(request)
        alone.turns()
        assert len(good.recv(1 << 16)) > 0


def test_who_takes_no_answers_has_less_time_once_many_bytes_wait(alone: DoorOnALoop) -> None:
    request = head([b"id", b"x"]) + b"idx"
    with dial(alone.path) as slow, dial(alone.path):
        slow.sendall(request)
        alone.turns()
        alone.streams.untaken_bytes += 129 << 20  # others'
        alone.pass_time(32_000)
        assert len(alone.door.clients) == 1


def test_answers_that_wait_to_be_taken_are_bounded_together(alone: DoorOnALoop) -> None:
    request = head([b"id", b"x"]) + b"idx"
    with dial(alone.path) as client:
        alone.turns()
        alone.streams.untaken_bytes += (256 << 20) + 1  # others'
        client.sendall(request)
        alone.turns()
        framer = MessageFramer(ANSWER_LIMITS)
        framer.receive(memoryview(client.recv(1 << 16)))
        frames = framer.next_message()
        assert frames is not None
        assert bytes(frames[0]) == b"id"
        with pytest.raises(ThrottlingQuotaExceeded, match=r"native\.queued\.answer\.max\.bytes"):
            codec.decode_answer(m.HelloAnswer, frames[1])


def test_who_does_not_end_a_request_is_hung_up_on(alone: DoorOnALoop) -> None:
    with dial(alone.path) as slow, dial(alone.path):
        slow.sendall((1 << 20).to_bytes(4, "big") + bytes(1000))
        alone.turns()
        assert alone.streams.half_received_bytes > 0
        alone.pass_time(29_000)
        assert len(alone.door.clients) == 2
        alone.pass_time(3_000)
        assert len(alone.door.clients) == 1
    assert alone.streams.half_received_bytes == 0


def test_half_received_requests_are_bounded_together(alone: DoorOnALoop) -> None:
    with dial(alone.path) as greedy, dial(alone.path):
        alone.turns()
        alone.streams.half_received_bytes = HALF_RECEIVED_BYTES_MAX
        greedy.sendall((1 << 20).to_bytes(4, "big") + bytes(1000))
        alone.turns()
        greedy.setblocking(True)
        with pytest.raises(ThrottlingQuotaExceeded, match="half-received"):
            last_words(greedy)
        assert alone.streams.half_received_bytes == HALF_RECEIVED_BYTES_MAX


def test_an_answer_waits_for_the_end_of_the_turn_and_goes_with_the_others(alone: DoorOnALoop) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    ours.setblocking(False)
    ended: list[str] = []
    connection = StreamConnection(
        alone.streams, ours, request_limits(NativeConfig()), lambda _f: None, lambda _c, why: ended.append(why)
    )
    with theirs:
        connection.send([b"one"])
        connection.send([b"two"])
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(100)
        alone.turns()
        assert theirs.recv(100) == head([b"one"]) + b"one" + head([b"two"]) + b"two"
    alone.turns()
    assert ended == [""]
    connection.send([b"nobody hears it"])
