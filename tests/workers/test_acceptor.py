"""One acceptor for all doors: it pauses when descriptors run out, and keeps the last ones for the log."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.workers import acceptor
from kbroker.workers.acceptor import PAUSE_MS, TURN_ACCEPTS, Acceptor
from kbroker.workers.descriptors import KEPT_FOR_THE_LOG
from kbroker.workers.loop import Loop


class Listener:
    """A listening socket whose `accept` does what a test says; counts the calls."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.sock.setblocking(False)
        self.error: OSError | None = None
        self.calls = 0

    def fileno(self) -> int:
        return self.sock.fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.sock.accept()

    def dial(self) -> socket.socket:
        return socket.create_connection(self.sock.getsockname())


class FakeLoop(Loop):
    """Its clock goes on only when a test moves it."""

    time_ms = 1_000

    def now_ms(self) -> int:  # type: ignore[override]
        return self.time_ms


@pytest.fixture
def loop() -> Iterator[FakeLoop]:
    loop = FakeLoop()
    yield loop
    loop.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.sock.close()


class Door:
    def __init__(self, loop: Loop, listener: Listener, **kind: bool) -> None:
        self.admitted: list[socket.socket] = []
        self.acceptor = Acceptor(loop, [listener], self.admit, "guests", **kind)  # type: ignore[list-item]
        self.acceptor.start()

    def admit(self, connection: socket.socket, address: Any) -> None:
        assert not connection.getblocking()
        assert address[0] == "127.0.0.1"
        self.admitted.append(connection)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EMFILE, "Too many open files; this process may have .*LimitNOFILE.*ulimit -n"),
        (errno.ENFILE, "Too many open files in system; raise the host's fs.file-max"),
        (errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_it_pauses_when_there_is_nothing_left_and_never_spins(
    loop: FakeLoop, listener: Listener, number: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door(loop, listener)
    listener.error = OSError(number, os.strerror(number))
    with listener.dial(), caplog.at_level(logging.ERROR):
        for _ in range(1_000):
            loop.turn(timeout_ms=0)
        assert listener.calls == 1
        for _ in range(10):
            loop.time_ms += PAUSE_MS
            loop.turn(timeout_ms=0)
            loop.turn(timeout_ms=0)
        assert listener.calls == 11
        (line,) = caplog.messages  # not one for each pause
        assert line.startswith("no more guests can be taken: ")
        assert re.search(said, line)
        listener.error = None
        loop.time_ms += PAUSE_MS
        loop.turn(timeout_ms=0)
        loop.turn(timeout_ms=0)
    assert len(door.admitted) == 1


def test_it_takes_many_in_a_turn_but_not_all(loop: FakeLoop, listener: Listener) -> None:
    door = Door(loop, listener)
    dialled = [listener.dial() for _ in range(TURN_ACCEPTS + 5)]
    loop.turn(timeout_ms=0)
    assert len(door.admitted) == TURN_ACCEPTS
    loop.turn(timeout_ms=0)
    assert len(door.admitted) == TURN_ACCEPTS + 5
    for connection in (*dialled, *door.admitted):
        connection.close()


def test_who_is_gone_before_it_was_accepted_is_passed_over(loop: FakeLoop, listener: Listener) -> None:
    Door(loop, listener)
    listener.error = OSError(errno.ECONNABORTED, "gone")
    with listener.dial():
        loop.turn(timeout_ms=0)
    assert listener.calls == TURN_ACCEPTS


def test_a_stopped_one_accepts_nobody_not_even_after_a_pause(loop: FakeLoop, listener: Listener) -> None:
    door = Door(loop, listener)
    listener.error = OSError(errno.EMFILE, "none")
    with listener.dial():
        loop.turn(timeout_ms=0)
        door.acceptor.stop()
        listener.error = None
        loop.time_ms += 10 * PAUSE_MS
        loop.turn(timeout_ms=0)
        loop.turn(timeout_ms=0)
        assert not door.admitted
        door.acceptor.start()
        loop.turn(timeout_ms=0)
        assert len(door.admitted) == 1


def test_the_last_descriptors_are_for_the_log_and_for_processes_of_the_broker(
    loop: FakeLoop, listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor, "descriptor_limit", lambda: KEPT_FOR_THE_LOG)
    door = Door(loop, listener)
    with listener.dial() as connection, caplog.at_level(logging.ERROR):
        loop.turn(timeout_ms=0)
        connection.settimeout(5)
        assert connection.recv(1) == b""
    assert not door.admitted
    assert "kept for the log" in caplog.text
    assert "LimitNOFILE" in caplog.text
    door.acceptor.stop()
    internal = Door(loop, listener, is_internal=True)
    with listener.dial():
        loop.turn(timeout_ms=0)
    assert len(internal.admitted) == 1
