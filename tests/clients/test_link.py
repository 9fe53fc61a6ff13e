"""One link against a peer in this process: answers matched, limits kept, death noticed and nothing passed on."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from kbroker.clients.cluster import now_ms
from kbroker.clients.link import Link, LinkState, NotSent, Reply
from kbroker.errors import InvalidRequest, NetworkError, UnknownTopicOrPartition
from kbroker.wire.codec import decode_request, encode_answer, encode_error, unpack_request
from kbroker.wire.endpoints import unix
from kbroker.wire.messages import Hello, HelloAnswer, InitProducerId, Metadata, MetadataAnswer, ProducerIdAnswer
from kbroker.wire.stream import ANSWER_LIMITS, MessageFramer, head

LIMITS = HelloAnswer(1, -1, 7, "cluster", "boot", 1 << 20, 16, 2, 1 << 20)
FAR_MS = 3_600_000


class Peer:
    """A process of the broker, played by the test."""

    endpoint: str

    def __init__(self, hello: HelloAnswer | None) -> None:
        self.hello = hello
        self.is_dead = False
        self.asked: list[tuple[Any, bytes, Any]] = []

    def take(self) -> None:
        for client, request_id, header in self.requests():
            request = decode_request(unpack_request(header))
            if isinstance(request, Hello):
                if self.hello is not None:
                    self.send(client, request_id, encode_answer(self.hello))
            else:
                self.asked.append((client, request_id, request))

    def answer(self, answer: Any, *payload: bytes) -> None:
        client, request_id, _ = self.asked.pop(0)
        header = encode_error(answer) if isinstance(answer, Exception) else encode_answer(answer)
        self.send(client, request_id, header, *payload)

    def requests(self) -> Iterator[tuple[Any, bytes, bytes]]:
        raise NotImplementedError

    def send(self, client: Any, *frames: bytes) -> None:
        raise NotImplementedError

    def die(self) -> None:
        self.is_dead = True


class ZmqPeer(Peer):
    def __init__(self, path: Path, hello: HelloAnswer | None = LIMITS) -> None:
        super().__init__(hello)
        self.context: zmq.Context[Any] = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.endpoint = f"ipc://{path}"
        self.socket.bind(self.endpoint)

    def requests(self) -> Iterator[tuple[Any, bytes, bytes]]:
        while self.socket.poll(0):
            client, request_id, header = self.socket.recv_multipart()[:3]
            yield client, request_id, header

    def send(self, client: Any, *frames: bytes) -> None:
        self.socket.send_multipart([client, *frames])

    def die(self) -> None:
        super().die()
        self.socket.close(linger=0)
        self.context.term()


class StreamPeer(Peer):
    def __init__(self, path: Path, hello: HelloAnswer | None = LIMITS) -> None:
        super().__init__(hello)
        self.endpoint = unix(path)
        path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.listener.setblocking(False)
        self.streams: dict[socket.socket, MessageFramer] = {}

    def requests(self) -> Iterator[tuple[Any, bytes, bytes]]:
        with contextlib.suppress(BlockingIOError):
            stream, _ = self.listener.accept()
            stream.setblocking(False)
            self.streams[stream] = MessageFramer(ANSWER_LIMITS)
        for stream, framer in self.streams.items():
            with contextlib.suppress(BlockingIOError):
                framer.receive(memoryview(stream.recv(1 << 16)))
                while (frames := framer.next_message()) is not None:
                    yield stream, bytes(frames[0]), bytes(frames[1])

    def send(self, client: Any, *frames: bytes) -> None:
        client.sendall(head(frames) + b"".join(frames))

    def die(self) -> None:
        super().die()
        for one in (self.listener, *self.streams):
            one.close()


@pytest.fixture(params=[ZmqPeer, StreamPeer])
def kind(request: pytest.FixtureRequest) -> type[ZmqPeer] | type[StreamPeer]:
    found: type[ZmqPeer] | type[StreamPeer] = request.param
    return found


Kind = type[ZmqPeer] | type[StreamPeer]


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    made: zmq.Context[Any] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def peer(kind: Kind, tmp_path: Path) -> Iterator[Peer]:
    made = kind(tmp_path / "p")
    yield made
    if not made.is_dead:
        made.die()


def make_link(context: zmq.Context[Any], endpoint: str, greeting_timeout_ms: int = FAR_MS) -> Link:
    return Link(context, endpoint, "test", now_ms=now_ms(), greeting_timeout_ms=greeting_timeout_ms)


def turn(link: Link, peer: Peer | None = None, now: int | None = None) -> None:
    """Let both sides do what they can, and wait a moment for what is under way in ZeroMQ's threads."""
    if peer is not None and not peer.is_dead:
        peer.take()
    link.serve(now_ms() if now is None else now)
    if link.alive and not link.has_input():
        select.select(link.transport.fds, (), (), 0.01)
        link.serve(now_ms() if now is None else now)


def until(link: Link, peer: Peer | None, condition: Any) -> None:
    while not condition():
        turn(link, peer)


def submit(link: Link, request: Any, answer_class: type, deadline_ms: int | None = None) -> list[Reply]:
    replies: list[Reply] = []
    deadline = now_ms() + FAR_MS if deadline_ms is None else deadline_ms
    link.submit(request, answer_class, replies.append, deadline_ms=deadline)
    return replies


def test_requests_wait_for_the_greeting_and_get_their_own_answers(context: zmq.Context[Any], peer: Peer) -> None:
    link = make_link(context, peer.endpoint)
    first = submit(link, Metadata(["a"]), MetadataAnswer)
    second = submit(link, InitProducerId(), ProducerIdAnswer)
    until(link, peer, lambda: len(peer.asked) == 2)
    assert link.state is LinkState.READY
    peer.asked.reverse()
    peer.answer(ProducerIdAnswer(5, 0), b"payload")
    peer.answer(UnknownTopicOrPartition("no a"))
    until(link, peer, lambda: first and second)
    assert second[0].answer == ProducerIdAnswer(5, 0)
    assert [bytes(frame) for frame in second[0].payload] == [b"payload"]
    assert isinstance(first[0].error, UnknownTopicOrPartition)


def test_no_more_in_flight_than_the_peer_allows(context: zmq.Context[Any], peer: Peer) -> None:
    link = make_link(context, peer.endpoint)
    replies = [submit(link, InitProducerId(), ProducerIdAnswer) for _ in range(5)]
    until(link, peer, lambda: len(peer.asked) == LIMITS.requests_in_flight_max)
    turn(link, peer)
    assert len(peer.asked) == LIMITS.requests_in_flight_max
    for number in range(5):
        until(link, peer, lambda: peer.asked)
        peer.answer(ProducerIdAnswer(number, 0))
    until(link, peer, lambda: all(replies))
    assert [reply[0].answer.producer_id for reply in replies] == [0, 1, 2, 3, 4]


def test_a_dead_peer_fails_everything_at_once_and_its_successor_gets_nothing(
    context: zmq.Context[Any], kind: Kind, peer: Peer, tmp_path: Path
) -> None:
    link = make_link(context, peer.endpoint)
    replies = [submit(link, InitProducerId(), ProducerIdAnswer) for _ in range(4)]
    until(link, peer, lambda: len(peer.asked) == 2)
    peer.die()
    until(link, None, lambda: not link.alive)
    kinds = [type(reply[0].error) for reply in replies]
    assert kinds == [NetworkError, NetworkError, NotSent, NotSent]
    successor = kind(tmp_path / "p")
    again = make_link(context, successor.endpoint)
    until(again, successor, lambda: again.state is LinkState.READY)
    assert successor.asked == []
    successor.die()


@pytest.mark.parametrize("scheme", ["ipc://", "unix://"])
def test_nobody_there(context: zmq.Context[Any], tmp_path: Path, scheme: str) -> None:
    link = make_link(context, f"{scheme}{tmp_path / 'nobody'}")
    replies = submit(link, InitProducerId(), ProducerIdAnswer)
    until(link, None, lambda: not link.alive)
    assert isinstance(replies[0].error, NotSent)
    assert "nobody" in str(replies[0].error)


def test_a_peer_that_does_not_greet(context: zmq.Context[Any], kind: Kind, tmp_path: Path) -> None:
    mute = kind(tmp_path / "m", hello=None)
    link = make_link(context, mute.endpoint, greeting_timeout_ms=1000)
    due = link.next_due_ms()
    assert due is not None
    link.serve(due - 1)
    assert link.alive
    link.serve(due)
    assert link.state is LinkState.DEAD
    assert "greet" in str(link.error)
    mute.die()


def test_what_is_overdue_ends_the_link(context: zmq.Context[Any], peer: Peer) -> None:
    link = make_link(context, peer.endpoint)
    until(link, peer, lambda: link.state is LinkState.READY)
    deadline = now_ms() + 1_000_000
    replies = submit(link, InitProducerId(), ProducerIdAnswer, deadline_ms=deadline)
    assert link.next_due_ms() == deadline
    link.serve(deadline)
    assert not link.alive
    assert "in time" in str(replies[0].error)


@pytest.mark.parametrize("frames", [[b"x"], [b"\0" * 8, b"garbage"]])
def test_garbage_is_not_taken_for_an_answer(context: zmq.Context[Any], peer: Peer, frames: list[bytes]) -> None:
    link = make_link(context, peer.endpoint)
    replies = submit(link, InitProducerId(), ProducerIdAnswer)
    until(link, peer, lambda: peer.asked)
    client, request_id, _ = peer.asked[0]
    peer.send(client, *frames)
    peer.send(client, request_id, b"\xc1not msgpack")
    until(link, peer, lambda: replies)
    assert isinstance(replies[0].error, (NetworkError, InvalidRequest))


def test_impossible_limits_are_refused(context: zmq.Context[Any], kind: Kind, tmp_path: Path) -> None:
    broken = kind(tmp_path / "b", HelloAnswer(1, -1, 7, "", "", 0, 0, 0, 0))
    link = make_link(context, broken.endpoint)
    until(link, broken, lambda: not link.alive)
    assert "impossible" in str(link.error)
    broken.die()


class OneStream:
    """A stream peer whose client has been greeted."""

    def __init__(self, context: zmq.Context[Any], path: Path) -> None:
        self.peer = StreamPeer(path)
        self.link = make_link(context, self.peer.endpoint)
        until(self.link, self.peer, lambda: self.link.state is LinkState.READY)
        (self.stream,) = self.peer.streams


@pytest.fixture
def one(context: zmq.Context[Any], tmp_path: Path) -> Iterator[OneStream]:
    made = OneStream(context, tmp_path / "s")
    yield made
    made.link.close()
    if not made.peer.is_dead:
        made.peer.die()


def test_a_request_larger_than_the_socket_takes_goes_in_pieces(one: OneStream) -> None:
    told: list[bool] = []
    one.link.transport.on_blocked = lambda: told.append(one.link.transport.is_blocked)
    payload = bytes(range(256)) * 40_000
    replies: list[Reply] = []
    one.link.submit(
        InitProducerId(), ProducerIdAnswer, replies.append, deadline_ms=now_ms() + FAR_MS, payload=(payload,)
    )
    assert told == [True]
    second = submit(one.link, InitProducerId(), ProducerIdAnswer)
    framer = one.peer.streams[one.stream]
    found: list[list[bytes]] = []
    while len(found) < 2:
        one.link.serve(now_ms())
        with contextlib.suppress(BlockingIOError):
            framer.receive(memoryview(one.stream.recv(1 << 20)))
        while (frames := framer.next_message()) is not None:
            found.append([bytes(frame) for frame in frames])
    assert told == [True, False]
    assert found[0][2] == payload
    for frames_ in found:
        one.peer.send(one.stream, frames_[0], encode_answer(ProducerIdAnswer(1, 0)))
    until(one.link, None, lambda: replies and second)
    assert replies[0].error is second[0].error is None


def test_why_the_peer_hangs_up_is_told(one: OneStream) -> None:
    replies = submit(one.link, InitProducerId(), ProducerIdAnswer)
    one.peer.send(one.stream, b"", encode_error(InvalidRequest("that was nonsense")))
    until(one.link, None, lambda: not one.link.alive)
    assert type(replies[0].error) is NetworkError
    assert "that was nonsense" in str(replies[0].error)


def test_a_stream_of_garbage_ends_the_link(one: OneStream) -> None:
    replies = submit(one.link, InitProducerId(), ProducerIdAnswer)
    one.stream.sendall(b"\xff" * 100)
    until(one.link, None, lambda: not one.link.alive)
    assert type(replies[0].error) is NetworkError
