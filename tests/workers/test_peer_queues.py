"""What waits for another process of the broker is bounded, and is told of where it is full."""

from __future__ import annotations

import socket
import types
from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.catalog.catalog import Catalog
from kbroker.config import NativeConfig
from kbroker.errors import RequestTimedOut, ThrottlingQuotaExceeded, UnknownServerError
from kbroker.wire import codec
from kbroker.wire import messages as m
from kbroker.wire.control import CatalogAck, CatalogUpdate, Join, decode_control, encode_control, identity
from kbroker.wire.stream import ANSWER_LIMITS, MessageFramer
from kbroker.workers import front_link, members
from kbroker.workers.caller import NATIVE, Caller, pack_caller
from kbroker.workers.front import ANSWER_WITHIN_MS, OVERDUE_CHECK_MS, Front, Link
from kbroker.workers.front_link import FrontLink
from kbroker.workers.internal_door import introduce
from kbroker.workers.loop import Loop
from kbroker.workers.members import Members
from kbroker.workers.stream_connection import StreamConnection, Streams

SECRET = b"s" * 32


class Ends:
    """A loop with one end of a stream on it, and the other end in the test's hand."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.streams = Streams(self.loop)
        self.loop.at_turn_end(self.streams.flush, self.streams.unsent)
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX)
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self._framer = MessageFramer(ANSWER_LIMITS)

    def turns(self, count: int = 5) -> None:
        for _ in range(count):
            self.loop.turn(0)

    def heard(self) -> list[list[bytes]]:
        """All messages that come out of the other end."""
        found: list[list[bytes]] = []
        while True:
            self.turns()
            try:
                data = self.theirs.recv(1 << 20)
            except BlockingIOError:
                return found
            if not data:
                return found
            self._framer.receive(memoryview(data))
            while (frames := self._framer.next_message()) is not None:
                found.append([bytes(frame) for frame in frames])


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.theirs.close()
    made.loop.close()


def test_answers_that_the_front_does_not_take_are_refused_above_a_bound(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_link, "QUEUED_BYTES_MAX", 8 << 20)
    link = FrontLink(ends.streams, ends.ours, lambda _asked: None, NativeConfig(), lambda _link: None)
    records = bytes(1 << 20)
    for number in range(100):
        link.send(b"client", [b"%d" % number, codec.encode_answer(m.RecordsDeleted(0)), records])
        ends.turns(1)
        assert link.connection.queued_bytes < 10 << 20
    link.send(b"client", [b"small", codec.encode_answer(m.RecordsDeleted(7))])
    answers = {frames[1]: frames[2:] for frames in ends.heard()}
    assert len(answers) == 101
    assert answers[b"0"][1] == records
    with pytest.raises(ThrottlingQuotaExceeded, match="wait for the front"):
        codec.decode_answer(m.RecordsDeleted, answers[b"99"][0])
    assert codec.decode_answer(m.RecordsDeleted, answers[b"small"][0]).log_start_offset == 7


def test_the_front_says_who_has_gone(ends: Ends) -> None:
    link = FrontLink(ends.streams, ends.ours, lambda _asked: None, NativeConfig(), lambda _link: None)
    link.send(b"client", [b"id", codec.encode_answer(m.RecordsDeleted(0)), b"records"])
    assert link.sent_bytes == {b"client": 7}
    peer = StreamConnection(Streams(ends.loop), ends.theirs, ANSWER_LIMITS, lambda _f: None, lambda _c, _w: None)
    front: Any = types.SimpleNamespace(backend=types.SimpleNamespace(links={b"": Link(peer, b"worker-0:1:2")}))
    Front._client_gone(front, b"client")
    peer.flush()
    ends.turns()
    assert not link.sent_bytes
    link.connection.close()
    peer.close()


def test_the_front_says_who_asks_and_no_client_can(ends: Ends) -> None:
    callers = []
    link = FrontLink(
        ends.streams, ends.ours, lambda asked: callers.append(asked.caller), NativeConfig(), lambda _link: None
    )
    caller = Caller(NATIVE, "", 1000, "app")
    peer = StreamConnection(Streams(ends.loop), ends.theirs, ANSWER_LIMITS, lambda _f: None, lambda _c, _w: None)
    for frames in ([b"client", b"", pack_caller(caller), b"id", b"x"], [b"client", b"id", b"x", pack_caller(caller)]):
        peer.send(frames)
        peer.flush()
        ends.turns()
    assert callers == [caller, Caller(NATIVE)]
    link.connection.close()
    peer.close()


def test_a_request_at_which_the_process_fails_is_refused_and_told_once(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    def serve(_asked: object) -> None:
        raise ZeroDivisionError("nobody foresaw it")

    link = FrontLink(ends.streams, ends.ours, serve, NativeConfig(), lambda _link: None)
    for _ in range(10):
        link.take(b"client", [memoryview(b"id"), memoryview(b"header")])
    answers = ends.heard()
    assert len(answers) == 10
    with pytest.raises(UnknownServerError):
        codec.decode_answer(m.HelloAnswer, answers[0][2])
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert not link.connection.is_closed


class MembersOnALoop(Ends):
    """The coordinator's side, with one process that has joined."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.listener.setblocking(False)
        self.path = path
        child: Any = types.SimpleNamespace(
            listeners={"control": self.listener},
            secret=SECRET,
            incarnation=5,
            peers={"worker-0": types.SimpleNamespace(name="worker-0", incarnation=3)},
        )
        self.members = Members(child, self.streams, Catalog([1], 10, 10), lambda _epochs, _removed: None)
        self.members.listen()
        self.updates: list[CatalogUpdate] = []

    def join(self) -> StreamConnection:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        sock.setblocking(False)

        def received(frames: list[memoryview]) -> None:
            self.updates.append(decode_control(frames[0]))

        link = StreamConnection(self.streams, sock, ANSWER_LIMITS, received, lambda _c, _w: None, is_peer=True)
        introduce(link, identity("worker-0", 3, 5), SECRET)
        link.send([encode_control(Join(3, "worker-0", 1))])
        self.turns()
        return link


def test_a_process_that_takes_nothing_is_hung_up_on_and_joins_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ends = MembersOnALoop(str(tmp_path_factory.mktemp("m") / "c"))
    monkeypatch.setattr(members, "MEMBER_QUEUED_BYTES_MAX", 4 << 20)
    link = ends.join()
    assert [update.full for update in ends.updates] == [True]
    link.send([encode_control(CatalogAck(3, ends.updates[0].version))])
    ends.turns()
    ends.loop.modify(link._socket.fileno(), 0)  # it reads no more
    ends.members.internal_topics["t"] = m.TopicInfo("t", settings={"x": "y" * (1 << 20)})
    outcome: list[object] = []
    for _ in range(40):
        ends.members.announce_internal("t")
        ends.turns(1)
        (member,) = ends.members._members.values()
        assert member.connection.queued_bytes < 6 << 20
    assert member.connection.is_closed
    ends.members.internal_topics.clear()
    # A change that it could not be told of waits for it, as long as it lives.
    ends.members._version += 1
    waiting = ends.members._waiting[ends.members._version] = members.Waiting(outcome.append, {"worker-0"})
    link.close()
    ends.updates.clear()
    again = ends.join()
    assert outcome == []
    assert [update.full for update in ends.updates] == [True]
    again.send([encode_control(CatalogAck(3, ends.updates[0].version))])
    ends.turns()
    assert outcome == [None]
    assert not waiting.missing
    again.close()
    ends.members.close()
    ends.listener.close()
    ends.loop.close()


def test_a_request_that_is_never_answered_is_refused_in_the_end() -> None:
    sent: list[tuple[bytes, list[bytes]]] = []
    front: Any = types.SimpleNamespace(
        on_the_way={}, _checks=0, door=types.SimpleNamespace(send=lambda client, frames: sent.append((client, frames)))
    )
    link: Any = Link(None, b"worker-0:1:2")  # type: ignore[arg-type]  # nothing is sent on it
    link.bytes_on_the_way = 700
    front.on_the_way[b"client", b"id"] = (link, 700, 0)
    for _ in range(ANSWER_WITHIN_MS // OVERDUE_CHECK_MS - 1):
        Front._refuse_overdue(front)
    assert not sent
    Front._refuse_overdue(front)
    ((client, frames),) = sent
    assert (client, frames[0], link.bytes_on_the_way) == (b"client", b"id", 0)
    with pytest.raises(RequestTimedOut, match="worker-0 has not answered"):
        codec.decode_answer(m.HelloAnswer, frames[1])
