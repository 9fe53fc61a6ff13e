"""Who is armed and who is woken, in a server whose loop the test runs by hand."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kbroker.config import LogConfig, ShmConfig
from kbroker.errors import UnknownTopicOrPartition
from kbroker.shm.control_page import CLOSED
from kbroker.shm.messages import Arm, FromReader, Hello, Open, Taken, Wake, decode_from_worker, encode
from kbroker.shm.server import DescriptorServer

from .batches import make_batch
from .small_worker import Shared

PLACE = ("t", 0)


class HandLoop:
    """Keeps the callbacks; time does not pass."""

    def __init__(self) -> None:
        self.callbacks: dict[int, Callable[[int], None]] = {}

    def add(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        del events
        self.callbacks[fd] = callback

    def remove(self, fd: int) -> None:
        del self.callbacks[fd]

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> HandLoop:
        del delay_ms, callback
        return self

    def cancel(self) -> None:
        pass


class Reader:
    """A raw reader, and the server's end of it."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(served.path)
        self.sock.setblocking(False)
        known = set(served.loop.callbacks)
        served.server.admit(served.listener.accept()[0])
        (self.fd,) = set(served.loop.callbacks) - known
        self.say(Hello())
        self.hear()

    def say(self, *messages: FromReader) -> None:
        for message in messages:
            self.sock.send(encode(message))
            self.served.loop.callbacks[self.fd](1)

    def hear(self) -> object:
        """The next message; None: there is none. Descriptors are dropped."""
        try:
            return decode_from_worker(self.sock.recv(1 << 16))
        except BlockingIOError:
            return None

    def open(self) -> None:
        self.say(Open(*PLACE, 0), Taken())
        self.hear()


class Served:
    """A server with one partition."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "shm.sock")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen()
        self.loop = HandLoop()
        self.shared = Shared(folder, *PLACE, b"t" * 16, LogConfig())
        self.is_there = True
        self.server = DescriptorServer(self.loop, self.lookup, ShmConfig())

    def lookup(self, topic: str, partition: int) -> Shared:
        if not self.is_there:
            raise UnknownTopicOrPartition(f"{topic}-{partition} is not here")
        return self.shared

    def append(self) -> None:
        self.shared.log.append(bytearray(make_batch(self.shared.log.next_offset, 1, 10)), 0, sync=False)
        self.shared.publish()
        self.server.published(PLACE, self.shared.control_page)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.server.close()
    made.listener.close()
    made.shared.log.abandon()


@pytest.fixture
def reader(served: Served) -> Iterator[Reader]:
    made = Reader(served)
    with made.sock:
        yield made


def test_an_armed_reader_is_woken_once(served: Served, reader: Reader) -> None:
    reader.open()
    reader.say(Arm([1], [0]))
    assert reader.hear() is None
    served.append()
    served.append()
    assert reader.hear() == Wake([1])
    assert reader.hear() is None
    assert not served.server._armed


def test_who_arms_again_waits_for_the_new_offset(served: Served, reader: Reader) -> None:
    reader.open()
    reader.say(Arm([1], [0]), Arm([1], [1]))
    served.append()
    assert reader.hear() is None
    served.append()
    assert reader.hear() == Wake([1])


def test_what_is_there_already_wakes_at_once_and_disarms(served: Served, reader: Reader) -> None:
    reader.open()
    reader.say(Arm([1], [1]))
    served.append()
    reader.say(Arm([1], [0]))
    assert reader.hear() == Wake([1])
    assert not served.server._armed
    served.append()
    assert reader.hear() is None


def test_an_arm_that_names_what_is_not_open_arms_nothing(served: Served, reader: Reader) -> None:
    reader.open()
    reader.say(Arm([1, 7], [0, 0]))
    assert "no partition is open as 7" in str(reader.hear())
    assert not served.server._armed


@pytest.mark.parametrize("forgotten", [False, True])
def test_who_is_gone_is_hung_up_on_with_all_that_he_waited_for(served: Served, reader: Reader, forgotten: bool) -> None:
    other = Reader(served)
    with other.sock:
        for one in (reader, other):
            one.open()
            one.open()
            one.say(Arm([1, 2], [0, 0]))
        reader.sock.close()
        if forgotten:
            served.is_there = False
            served.shared.control_page.close_page(CLOSED)
            served.server.forget(PLACE)
        else:
            served.append()
        assert {str(other.hear()), str(other.hear())} == {str(Wake([1])), str(Wake([2]))}
        assert served.server.connection_count == 1
        assert not served.server._armed


def test_who_takes_nothing_is_hung_up_on(served: Served, reader: Reader) -> None:
    reader.open()
    with contextlib.suppress(BrokenPipeError):
        for _ in range(100_000):
            reader.say(Arm([1], [served.shared.log.next_offset]))
            served.append()
    assert served.server.connection_count == 0
    assert not served.server._armed
