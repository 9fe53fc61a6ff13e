"""Who may use the front's socket is not one of the broker's processes, whatever it says."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.testing import Broker
from kbroker.wire import endpoints
from kbroker.wire import messages as m
from kbroker.wire.control import Join, encode_control, identity
from kbroker.wire.stream import head
from kbroker.workers.complaints import LINES_MAX
from kbroker.workers.internal_door import INTRODUCTION_MS, SECRET_BYTES, STRANGERS_MAX, InternalDoor, dial_internal
from kbroker.workers.listeners import bind_unix
from kbroker.workers.loop import Loop
from kbroker.workers.stream_connection import StreamConnection, Streams, dial

from .raw_client import RawClient, batch

DOORS = (endpoints.BACKEND, endpoints.CONTROL)


def message(*frames: bytes) -> bytes:
    return head(frames) + b"".join(frames)


def say(path: Path, data: bytes) -> bytes:
    """Dial, say that, and hear what is answered until the broker hangs up."""
    heard = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            while more := connection.recv(1 << 16):
                heard += more
    return heard


def present(broker: Broker, name: str) -> bytes:
    """The identity of a process that runs, at the one that it dials."""
    processes = broker.processes()
    dialled = processes["coordinator" if name == "front" else "front"]
    return identity(name, processes[name]["incarnation"], dialled["incarnation"])


@pytest.mark.parametrize("door", DOORS)
def test_a_frame_of_a_stranger_ends_nobody(broker: Broker, client: RawClient, topic: str, door: str) -> None:
    client.create(topic)
    before = {name: process["pid"] for name, process in broker.processes().items()}
    path = broker.runtime_dir / door
    forged = present(broker, "worker-0")
    for data in (
        message(),
        message(b""),
        message(b"one frame"),
        message(forged),
        message(forged, b""),
        message(forged, bytes(SECRET_BYTES)) + message(b""),
        message(forged, bytes(SECRET_BYTES), b"more"),
        message(b"x" * 400, b"y" * 400),
        b"\xff" * 100,
        b"GET / HTTP/1.1\r\n\r\n",
    ):
        say(path, data)
    assert f"refused at {path}: " in broker.log
    assert client.produce(topic, batch(1)).base_offset == 0
    assert {name: process["pid"] for name, process in broker.processes().items()} == before


def test_a_forged_join_is_refused_with_a_bounded_number_of_warnings(client: RawClient, broker: Broker) -> None:
    known = client.ask(m.MetadataAnswer, m.Metadata([])).nodes
    path = broker.runtime_dir / endpoints.CONTROL
    worker = broker.processes()["worker-0"]
    join = Join(worker["incarnation"] + 1, "worker-0", 1, "unix:///tmp/trap", "/tmp/trap")
    name = identity("worker-0", join.incarnation, broker.processes()["coordinator"]["incarnation"])
    lines, begun = broker.log.count("does not know the secret of this start"), time.monotonic()
    for _ in range(4 * LINES_MAX):
        say(path, message(name, bytes(SECRET_BYTES)) + message(encode_control(join)))
    assert client.ask(m.MetadataAnswer, m.Metadata([])).nodes == known
    told = broker.log.count("does not know the secret of this start") - lines
    assert 0 < told <= LINES_MAX * (2 + int(time.monotonic() - begun))
    assert broker.log.count(f" {path}: process {os.getpid()} does not know") > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("door", DOORS)
def test_another_user_does_not_get_there(broker: Broker, door: str) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setuid(65534)
            dial(str(broker.runtime_dir / door))
        except OSError as error:
            os.write(writer, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as said:
        assert said.read() == b"PermissionError"


class DoorOnALoop:
    """A door alone, with a clock that the test turns."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 1000
        monkeypatch.setattr(Loop, "now_ms", lambda _self=None: self.now_ms)
        self.path = folder / "door"
        self.listener = bind_unix(self.path, socket.SOCK_STREAM, is_internal=True)
        self.loop = Loop()
        self.welcomed: list[tuple[StreamConnection, bytes]] = []
        self.door = InternalDoor(
            Streams(self.loop), self.listener, b"s" * SECRET_BYTES, lambda *who: self.welcomed.append(who)
        )
        self.door.listen()

    def turns(self) -> None:
        for _ in range(2 * STRANGERS_MAX):
            self.loop.turn(0)

    def close(self) -> None:
        self.door.close()
        for connection, _ in self.welcomed:
            connection.close()
        self.loop.close()
        self.listener.close()


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DoorOnALoop]:
    made = DoorOnALoop(tmp_path, monkeypatch)
    yield made
    made.close()


def is_hung_up_on(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_who_knows_the_secret_is_let_in_and_may_say_more(alone: DoorOnALoop) -> None:
    with dial_internal(alone.path) as process:
        large = bytes(1 << 20)
        process.setblocking(True)
        process.sendall(message(b"worker-0:1:2", b"s" * SECRET_BYTES))
        alone.turns()
        ((connection, name),) = alone.welcomed
        assert name == b"worker-0:1:2"
        sizes: list[int] = []
        connection.on_message = lambda frames: sizes.extend(map(len, frames))
        process.setblocking(False)
        rest = memoryview(message(large))
        while rest:
            rest = rest[process.send(rest) :]
            alone.turns()
        assert sizes == [len(large)]


def test_another_users_process_is_refused_on_both_ends(
    alone: DoorOnALoop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with dial(str(alone.path)) as stranger:
        monkeypatch.setattr("os.geteuid", lambda: 12345)
        alone.turns()
        assert is_hung_up_on(stranger)
        assert "is not the broker's" in caplog.text
        with pytest.raises(PermissionError, match="belongs to user"):
            dial_internal(alone.path)


def test_who_says_nothing_is_hung_up_on(alone: DoorOnALoop, caplog: pytest.LogCaptureFixture) -> None:
    with dial(str(alone.path)) as silent:
        alone.turns()
        alone.now_ms += INTRODUCTION_MS - 1
        alone.turns()
        assert not is_hung_up_on(silent)
        alone.now_ms += 1
        alone.turns()
        assert is_hung_up_on(silent)
        assert "did not say who it is" in caplog.text


def test_strangers_are_bounded(alone: DoorOnALoop) -> None:
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(dial(str(alone.path))) for _ in range(STRANGERS_MAX + 1)]
        alone.turns()
        assert [is_hung_up_on(one) for one in strangers] == [True] + [False] * STRANGERS_MAX
