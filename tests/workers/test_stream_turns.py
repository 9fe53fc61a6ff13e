"""How much of a stream is served in a turn of the loop: less when it takes long."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator

import pytest

from kbroker.wire.stream import ANSWER_LIMITS, head
from kbroker.workers.loop import Loop
from kbroker.workers.stream_connection import BUFFER_BYTES, RECEIVE_BYTES_MIN, TURN_MS_MAX, StreamConnection, Streams

MESSAGE = [b"id", bytes(1000)]
SENT = head(MESSAGE) + b"".join(MESSAGE)
COUNT = BUFFER_BYTES // len(SENT) // 2


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def test_what_takes_long_is_received_less_of(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, TURN_MS_MAX + 1)  # each look at it is so much later
    monkeypatch.setattr(loop, "now_ms", lambda: next(clock))
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BUFFER_BYTES)
    ours.setblocking(False)
    served: list[int] = []
    connection = StreamConnection(Streams(loop), ours, ANSWER_LIMITS, lambda _: served.append(1), lambda *_: None)

    def most_in_a_turn() -> int:
        """Of so many messages as would come in one turn."""
        theirs.sendall(SENT * COUNT)
        counts: list[int] = []
        while sum(counts) < COUNT:
            loop.turn(1000)
            counts.append(len(served))
            served.clear()
        return max(counts)

    slow = [most_in_a_turn() for _ in range(6)]
    assert slow[0] == COUNT
    assert slow[-1] <= RECEIVE_BYTES_MIN // len(SENT) + 1
    monkeypatch.setattr(loop, "now_ms", lambda: 0)
    assert [most_in_a_turn() for _ in range(3)][-1] == COUNT, "what takes no time is received as before"
    connection.close()
    theirs.close()
