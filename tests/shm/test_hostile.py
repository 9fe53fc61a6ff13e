"""Readers that mean harm: what they do stays with them."""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import resource
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from kbroker.errors import StorageError
from kbroker.shm.errors import ShmRefused
from kbroker.shm.messages import (
    MESSAGE_BYTES_MAX,
    Arm,
    Close,
    Error,
    FromReader,
    Hello,
    Open,
    Opened,
    Segment,
    Taken,
    Wake,
    Welcome,
    decode_from_worker,
    encode,
)
from kbroker.shm.reader import ShmConnection
from tests.shm.batches import check_batches
from tests.shm.children import NOBODY, in_child, needs_root
from tests.shm.conftest import WorkerProcess


class RawReader:
    """A socket, and what comes out of it."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(30)
        self.sock.connect(path)
        self.descriptors: list[int] = []

    def say(self, message: FromReader | bytes) -> None:
        self.sock.send(message if isinstance(message, bytes) else encode(message))

    def hear(self) -> Any:
        """The next message; None when the worker hung up."""
        while True:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(MESSAGE_BYTES_MAX, 1024, socket.MSG_CMSG_CLOEXEC)
                break
            except ConnectionResetError:
                continue  # told once; what was sent before comes after
        for _, _, payload in ancillary:
            self.descriptors += array.array("i", payload)
        return decode_from_worker(data) if data else None

    def ask(self, message: FromReader | bytes) -> Any:
        self.say(message)
        return self.hear()

    def greet(self) -> RawReader:
        assert isinstance(self.ask(Hello("test")), Welcome)
        return self

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.sock.close()


Connect = Callable[[], RawReader]


@pytest.fixture
def connect(worker: WorkerProcess) -> Iterator[Connect]:
    made: list[RawReader] = []

    def new() -> RawReader:
        made.append(RawReader(worker.path))
        return made[-1]

    yield new
    for reader in made:
        reader.close()


@pytest.fixture(autouse=True)
def others_are_well(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever happened: somebody else reads, the worker appends, and it holds no more descriptors than before."""
    if "worker" not in request.fixturenames:
        yield
        return
    worker: WorkerProcess = request.getfixturevalue("worker")
    worker.append(topic="t", count=1)
    with ShmConnection(worker.path) as connection:
        partition = connection.open("t", 0, 0)
        assert check_batches(partition.read(), 0) == 1
        yield
        end = worker.append(topic="t", count=1)
        offset = 1
        while data := partition.read():
            offset = check_batches(data, offset)
        assert offset == end


def packed(**fields: Any) -> bytes:
    data: bytes = msgpack.packb(fields)
    return data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xc1garbage", "not msgpack"),
        (b"\x00", "must be a map"),
        (packed(op="hello"), "version None"),
        (packed(op="hello", v=2), "version 2"),
        (packed(op="hello", v=True), "version True"),
        (packed(op="dance", v=1), "unknown operation 'dance'; known are hello, open, segment, taken, arm, close"),
        (packed(op=["hello"], v=1), "unknown operation"),
        (packed(op="open", v=1, topic="t", partition=0), "open.offset is missing"),
        (packed(op="open", v=1, topic=7, partition=0, offset=0), "open.topic must be str, not int"),
        (packed(op="open", v=1, topic="t", partition=0, offset=2**63), "open.offset must be a 64-bit integer"),
        (packed(op="arm", v=1, handles=[1, "x"], offsets=[]), "arm.handles must be a 64-bit integer, not str"),
        (packed(op="arm", v=1, handles=[1], offsets=[]), "as many handles as offsets"),
        (packed(op="arm", v=1, handles=[9], offsets=[9]), "no partition is open as 9"),
        (encode(Segment(9, 0)), "no partition is open as 9"),
        (encode(Hello()), "hello comes once"),
        (encode(Open("none", 0, 0)), "none-0 is not here"),
        (encode(Open("t", -1, 0)), "t--1 is not here"),
        (encode(Open("t", 0, -1)), "offset -1 is not in"),
        (encode(Open("t", 0, 2**62)), "is not in"),
        (encode(Open("t", 0, 0, topic_id=b"other")), "deleted and made again"),
        (b"x" * (MESSAGE_BYTES_MAX + 1), "bytes at most"),
        (b"x" * 100_000, "bytes at most"),
        (b"\x91" * MESSAGE_BYTES_MAX, "not msgpack"),
    ],
)
def test_a_wrong_message_gets_an_error_that_says_what_is_wrong(connect: Connect, data: bytes, said: str) -> None:
    answer = connect().greet().ask(data)
    assert isinstance(answer, Error)
    assert said in answer.message
    assert answer.code != 0


def test_hello_comes_first(connect: Connect) -> None:
    assert "must be hello" in connect().ask(Open("t", 0, 0)).message


def test_an_unknown_version_is_hung_up_on(connect: Connect) -> None:
    reader = connect()
    assert "version 7" in reader.ask(packed(op="hello", v=7)).message
    assert reader.hear() is None


def test_an_empty_message_is_a_hang_up(connect: Connect) -> None:
    reader = connect().greet()
    reader.sock.send(b"")
    assert reader.hear() is None


def test_descriptors_are_not_taken(worker: WorkerProcess, connect: Connect) -> None:
    reader = connect().greet()
    before = worker.facts()["descriptors"]
    null = os.open(os.devnull, os.O_RDONLY)
    stuffing = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 200))]
    try:
        for _ in range(50):
            try:
                reader.sock.sendmsg([encode(Taken())], stuffing)
            except PermissionError:
                break  # Linux 6.16: the socket says so by itself
            assert "descriptors are not taken" in reader.hear().message
    finally:
        os.close(null)
    assert worker.facts()["descriptors"] == before


def test_a_second_hand_over_waits_for_the_first_to_be_acknowledged(connect: Connect) -> None:
    reader = connect().greet()
    opened = reader.ask(Open("t", 0, 0))
    assert isinstance(opened, Opened)
    for request in (Open("t", 0, 0), Segment(opened.handle, 0)):
        assert "acknowledged by taken" in reader.ask(request).message
    reader.say(Taken())
    assert isinstance(reader.ask(Open("t", 0, 0)), Opened)


def test_who_does_not_acknowledge_is_hung_up_on(make_worker: Callable[..., WorkerProcess]) -> None:
    worker = make_worker({"shm.handover.timeout.ms": "100"})
    worker.create(topic="t")
    silent, hoarder = RawReader(worker.path), RawReader(worker.path).greet()
    assert isinstance(hoarder.ask(Open("t", 0, 0)), Opened)
    assert "hello comes once" in hoarder.ask(Hello()).message  # and does not stop the clock
    assert hoarder.hear() is None
    assert silent.hear() is None
    assert worker.facts()["connections"] == 0
    silent.close()
    hoarder.close()


def test_hoarders_of_descriptors_do_not_shut_others_out(worker: WorkerProcess, connect: Connect) -> None:
    hoarders = []
    for _ in range(300):
        hoarders.append(connect().greet())
        assert isinstance(hoarders[-1].ask(Open("t", 0, 0)), Opened)
    assert worker.facts()["handovers"] == 256
    assert hoarders[0].hear() is None
    with ShmConnection(worker.path) as connection:
        assert connection.open("t", 0, 0).read()


def test_who_does_not_read_is_hung_up_on(worker: WorkerProcess, connect: Connect) -> None:
    reader = connect().greet()
    assert isinstance(reader.ask(Open("t", 0, 0)), Opened)
    reader.say(Taken())
    before = worker.facts()["connections"]
    # Each of these is answered at once, and no answer is read.
    arm = encode(Arm([1], [0]))

    def send_for_ever() -> None:
        while True:
            reader.sock.send(arm)

    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        send_for_ever()
    assert worker.facts()["connections"] == before - 1


def test_a_reader_that_sleeps_for_ever_costs_one_wake(worker: WorkerProcess, connect: Connect) -> None:
    reader = connect().greet()
    opened = reader.ask(Open("t", 0, 0))
    reader.say(Taken())
    reader.say(Arm([opened.handle], [1]))
    reader.say(Close(99))
    worker.append(topic="t", count=1, batches=1000)
    assert reader.hear() == Wake([opened.handle])
    reader.say(Close(opened.handle))
    assert "no partition is open" in reader.ask(Segment(opened.handle, 0)).message
    assert worker.facts()["armed"] == 0


def test_limits_are_named(make_worker: Callable[..., WorkerProcess]) -> None:
    worker = make_worker({"shm.connections.max": "2", "shm.open.max": "1"})
    worker.create(topic="t")
    with ShmConnection(worker.path) as first, ShmConnection(worker.path):
        with pytest.raises(ShmRefused, match=r"shm\.connections\.max"):
            ShmConnection(worker.path)
        first.open("t", 0, 0)
        with pytest.raises(Exception, match=r"shm\.open\.max"):
            first.open("t", 0, 0)


def test_a_worker_without_descriptors_says_so_and_recovers(worker: WorkerProcess, connect: Connect) -> None:
    reader = connect().greet()
    worker.limit_descriptors(limited=True)
    answer = reader.ask(Open("t", 0, 0))
    assert isinstance(answer, Error)
    assert answer.code == StorageError.code
    assert "cannot hand out descriptors" in answer.message
    late = connect()
    late.say(Hello())
    worker.append(topic="t", count=1)
    worker.limit_descriptors(limited=False)
    assert isinstance(late.hear(), Welcome)
    assert isinstance(reader.ask(Open("t", 0, 0)), Opened)


def test_two_thousand_connections(worker: WorkerProcess, connect: Connect) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4000:
        pytest.skip("this process may not have that many descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4000), hard))
    readers = [connect() for _ in range(2000)]
    answers = [reader.hear() if number >= 1023 else reader.ask(Hello()) for number, reader in enumerate(readers)]
    assert all(isinstance(answer, Welcome) for answer in answers[:1023])
    assert all("shm.connections.max" in answer.message for answer in answers[1023:])
    assert all(reader.hear() is None for reader in readers[1023:])
    assert worker.facts()["connections"] == 1024
    for reader in readers:
        reader.close()
    readers.clear()
    with ShmConnection(worker.path) as connection:
        assert connection.open("t", 0, 0).read()


def test_flags_of_a_descriptor_are_the_readers_own(connect: Connect) -> None:
    readers = [connect().greet() for _ in range(2)]
    for reader in readers:
        assert isinstance(reader.ask(Open("t", 0, 0)), Opened)
    hostile, other = readers
    for descriptor in hostile.descriptors:
        for flag in (os.O_DIRECT, os.O_APPEND, os.O_NONBLOCK, os.O_NOATIME):
            try:
                fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | flag)
            except OSError:
                continue
        os.lseek(descriptor, 40, os.SEEK_SET)
    for descriptor in other.descriptors:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        assert not flags & (os.O_DIRECT | os.O_APPEND | os.O_NONBLOCK | os.O_NOATIME)
        assert flags & os.O_ACCMODE == os.O_RDONLY
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0


def test_a_descriptor_cannot_be_written_through(connect: Connect) -> None:
    reader = connect().greet()
    assert isinstance(reader.ask(Open("t", 0, 0)), Opened)
    page, segment = reader.descriptors
    for descriptor in (page, segment):
        assert not os.get_inheritable(descriptor)
        for attempt in (
            lambda fd: os.write(fd, b"x"),
            lambda fd: os.pwrite(fd, b"x", 0),
            lambda fd: os.ftruncate(fd, 0),
            lambda fd: os.posix_fallocate(fd, 0, 1 << 20),
            lambda fd: mmap.mmap(fd, 100, prot=mmap.PROT_WRITE | mmap.PROT_READ),
        ):
            with pytest.raises(OSError):  # noqa: PT011  # each with its own number
                attempt(descriptor)
    with pytest.raises(PermissionError):
        fcntl.fcntl(page, 1033, 0x08)  # F_ADD_SEALS, F_SEAL_WRITE: would stop the worker's own writing
    # Even root, opening the page anew, cannot write it or change its size.
    if os.geteuid() == 0:
        again = os.open(f"/proc/self/fd/{page}", os.O_RDWR)
        try:
            for attempt in (
                lambda fd: os.write(fd, b"x"),
                lambda fd: os.ftruncate(fd, 0),
                lambda fd: os.ftruncate(fd, 1 << 20),
                lambda fd: mmap.mmap(fd, 100, prot=mmap.PROT_WRITE | mmap.PROT_READ),
            ):
                with pytest.raises(OSError):  # noqa: PT011
                    attempt(again)
        finally:
            os.close(again)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@needs_root
@pytest.mark.root
def test_another_user_cannot_open_what_it_was_handed_for_writing(
    make_worker: Callable[..., WorkerProcess], open_folder: Path
) -> None:
    worker = make_worker({"shm.allowed.users": str(NOBODY)}, open_folder)
    worker.create(topic="t")
    worker.append(topic="t", count=1)

    def attack() -> list[str]:
        assert os.getresuid() == (NOBODY, NOBODY, NOBODY)
        with ShmConnection(worker.path) as connection:
            assert connection.open("t", 0, 0).read()
        reader = RawReader(worker.path).greet()
        assert isinstance(reader.ask(Open("t", 0, 0)), Opened)
        done = []
        for descriptor in reader.descriptors:
            path = f"/proc/self/fd/{descriptor}"
            for name, attempt in (
                ("reopen to write", lambda path=path: os.open(path, os.O_WRONLY)),
                ("reopen to read and write", lambda path=path: os.open(path, os.O_RDWR)),
                ("truncate", lambda path=path: os.truncate(path, 0)),
                ("chmod", lambda path=path: os.chmod(path, 0o666)),
                ("fchmod", lambda fd=descriptor: os.fchmod(fd, 0o666)),
                ("map to write", lambda fd=descriptor: mmap.mmap(fd, 100, prot=mmap.PROT_WRITE)),
                ("seal", lambda fd=descriptor: fcntl.fcntl(fd, 1033, 0x08)),
                ("write lock", lambda fd=descriptor: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)),
                ("lease", lambda fd=descriptor: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)),
            ):
                try:
                    attempt()
                except OSError:
                    continue
                done.append(f"{name} {os.readlink(path)}")
        return done

    assert in_child(attack, uid=NOBODY) == []


@needs_root
@pytest.mark.root
def test_who_is_not_allowed_is_told_the_setting(make_worker: Callable[..., WorkerProcess], open_folder: Path) -> None:
    worker = make_worker({}, open_folder)

    def connect_as() -> str:
        try:
            ShmConnection(worker.path).close()
        except ShmRefused as error:
            return str(error)
        return ""

    refused = in_child(connect_as, uid=NOBODY)
    assert f"user {NOBODY}" in refused
    assert "shm.allowed.users" in refused
    assert "shm.allowed.group" in refused
    assert worker.facts()["connections"] == 0


@needs_root
@pytest.mark.root
@pytest.mark.parametrize(("gids", "allowed"), [((4711,), True), ((), False), ((4712,), False)])
def test_members_of_the_allowed_group_may_read(
    make_worker: Callable[..., WorkerProcess], open_folder: Path, gids: tuple[int, ...], allowed: bool
) -> None:
    worker = make_worker({"shm.allowed.group": "4711"}, open_folder)

    def connects() -> bool:
        try:
            ShmConnection(worker.path).close()
        except ShmRefused:
            return False
        return True

    assert in_child(connects, uid=NOBODY, gids=gids) is allowed
