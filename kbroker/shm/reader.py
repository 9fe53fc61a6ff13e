"""The consumer's end: ShmConnection to one worker, and a ShmPartition for each partition that it reads there.

Not for use by several threads at once. A worker that dies is a ConnectionLost; what was published until then can still
be read from the partitions before they are closed. The usual turn of a consumer:

    batches = partition.read(max_bytes)         # no system call when there is nothing
    if not batches and connection.arm([partition]):
        poll on connection.fileno()             # sleep
    connection.dispatch()                       # takes wake-ups; notices a hang-up
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Iterable
from struct import Struct
from typing import Final, TypeVar

from kbroker.errors import (
    BrokerUnavailable,
    InvalidRequest,
    LogTruncated,
    OffsetOutOfRange,
    RequestError,
    error_for,
)
from kbroker.shm.buffers import Buffers
from kbroker.shm.control_page import ControlPageView
from kbroker.shm.errors import ConnectionLost, ShmRefused
from kbroker.shm.messages import (
    ARM_MAX,
    MESSAGE_BYTES_MAX,
    Arm,
    Close,
    Error,
    FromReader,
    FromWorker,
    Hello,
    NextSegment,
    Open,
    Opened,
    Segment,
    Taken,
    Wake,
    Welcome,
    decode_from_worker,
    encode,
)
from kbroker.shm.partition import ShmPartition
from kbroker.types import TopicPartition

A = TypeVar("A", Welcome, Opened, NextSegment)

_DESCRIPTORS_MAX: Final = 4
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_DESCRIPTORS_MAX * array.array("i").itemsize)
_SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_TIMEVAL: Final = Struct("@ll")
_RECEIVE_FLAGS: Final = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT


class ShmConnection:
    """A connection to the descriptor socket at `path`. `timeout_s` bounds each wait for the worker.

    Raises BrokerUnavailable (nobody listens there, or nobody answers), ShmRefused (this user may not, or too many are
    connected; the message names the setting). `mapped` False: read by pread only.
    """

    def __init__(self, path: str | os.PathLike[str], timeout_s: float = 5.0, *, mapped: bool = True) -> None:
        self.path = os.fspath(path)
        self.timeout_s = timeout_s
        self._mapped = mapped
        self._buffers = Buffers()
        self._partitions: dict[int, ShmPartition] = {}
        self._armed: dict[int, int] = {}  # handle to offset
        self._woken: set[int] = set()
        self._buffer = bytearray(MESSAGE_BYTES_MAX)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            self._connect()
        except BaseException:
            self._sock.close()
            raise

    def _connect(self) -> None:
        # Python's own timeout would not wait for room in the worker's backlog.
        seconds = int(self.timeout_s)
        wait = _TIMEVAL.pack(seconds, int((self.timeout_s - seconds) * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        try:
            self._sock.connect(self.path)
        except OSError as error:
            raise BrokerUnavailable(f"no worker answers at {self.path}: {error}") from None
        self._sock.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)
        try:
            with contextlib.suppress(ConnectionLost):  # refused at once: the reason waits to be read
                self._send(Hello("kbroker"))
            welcome, _ = self._answer(Welcome)
        except RequestError as error:
            raise ShmRefused(f"{self.path}: {error}") from None
        except ConnectionLost as error:
            raise BrokerUnavailable(f"{self.path}: {error}") from None
        self.open_max = welcome.open_max

    # What the consumer calls

    def open(
        self,
        topic: str,
        partition: int,
        offset: int,
        last_epoch: int = -1,
        *,
        topic_id: bytes = b"",
        committed: bool = False,
    ) -> ShmPartition:
        """Read a partition from `offset` on. `last_epoch`: leader epoch of the last record that was read, or -1.

        `committed` reads up to the last stable offset (read_committed), else up to the high watermark. Raises
        OffsetOutOfRange, LogTruncated, UnknownTopicOrPartition, UnknownTopicId, LeaderNotAvailable,
        ThrottlingQuotaExceeded (shm.open.max), KafkaStorageError, ConnectionLost.
        """
        self._send(Open(topic, partition, offset, last_epoch, topic_id))
        opened, descriptors = self._answer(Opened)
        where = TopicPartition(topic, partition)
        if opened.diverging_offset >= 0:
            _close_all(descriptors)
            raise LogTruncated(where, offset, opened.diverging_offset)
        if len(descriptors) < 2:
            _close_all(descriptors)
            raise InvalidRequest(f"{where}: two descriptors were to come, not {len(descriptors)}")
        page_fd, *files = descriptors
        try:
            view = ControlPageView(page_fd)
        except BaseException:
            _close_all(files)
            raise
        finally:
            os.close(page_fd)
        opened_partition = ShmPartition(
            self, where, opened, view, offset, committed=committed, mapped=self._mapped, buffers=self._buffers
        )
        self._partitions[opened.handle] = opened_partition
        try:
            opened_partition.take(opened, files)
        except BaseException:
            opened_partition.close()
            raise
        return opened_partition

    def fileno(self) -> int:
        """For poll(2): readable when `dispatch` has something to do."""
        return self._sock.fileno()

    def arm(self, partitions: Iterable[ShmPartition]) -> bool:
        """Ask to be woken once when any of these can be read on. False: do not sleep, there is something already.

        Cheap to call again: what is armed stays so until it wakes. A wake-up that came while another answer was
        awaited does not show on the socket any more; that there is something to read shows here. Raises
        ConnectionLost.
        """
        ready = False
        wanted: dict[bool, list[ShmPartition]] = {False: [], True: []}
        for partition in partitions:
            if partition.readable:
                ready = True
            elif self._armed.get(partition.handle) != partition.offset:
                wanted[partition.committed].append(partition)
        if ready:
            return False
        for committed, several in wanted.items():
            for start in range(0, len(several), ARM_MAX):
                part = several[start : start + ARM_MAX]
                self._send(Arm([p.handle for p in part], [p.offset for p in part], committed))
                self._armed.update((p.handle, p.offset) for p in part)
        return True

    def dispatch(self) -> list[ShmPartition]:
        """Take what has come, without waiting. Returns the partitions that woke since the last call.

        Raises ConnectionLost when the worker hung up.
        """
        try:
            self._take_wake(self._sock.recv_into(self._buffer, 0, socket.MSG_DONTWAIT))
            while self._poll.poll(0):
                self._take_wake(self._sock.recv_into(self._buffer, 0, socket.MSG_DONTWAIT))
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            raise ConnectionLost(f"the worker at {self.path} is gone: {error}") from None
        woken, self._woken = self._woken, set()
        return [self._partitions[handle] for handle in woken if handle in self._partitions]

    def close(self) -> None:
        """Close the connection and all its partitions. A second call does nothing."""
        self._sock.close()  # first: the worker then forgets the partitions all at once
        for partition in tuple(self._partitions.values()):
            partition.close()

    def __enter__(self) -> ShmConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What its partitions call

    def next_segment(self, handle: int, offset: int, held_base: int, generation: int) -> tuple[NextSegment, list[int]]:
        """The segment that has `offset`, and the descriptors that came with it. Raises as `open`."""
        self._send(Segment(handle, offset, held_base, generation))
        return self._answer(NextSegment)

    def forget(self, handle: int) -> None:
        """The partition is closed."""
        self._partitions.pop(handle, None)
        self._armed.pop(handle, None)
        self._woken.discard(handle)
        with contextlib.suppress(ConnectionLost):
            self._send(Close(handle))

    # Messages

    def _take_wake(self, size_bytes: int) -> None:
        if not size_bytes:
            raise ConnectionLost(f"the worker at {self.path} hung up: reconnect")
        self._note(decode_from_worker(memoryview(self._buffer)[:size_bytes]))

    def _note(self, message: FromWorker) -> None:
        if isinstance(message, Wake):
            for handle in message.handles:
                self._armed.pop(handle, None)
                self._woken.add(handle)
        elif isinstance(message, Error):
            raise _error_of(message)
        else:
            raise InvalidRequest(f"the worker sent {message.OP}, and nobody asked for it")

    def _answer(self, kind: type[A]) -> tuple[A, list[int]]:
        """Wait for the answer to the request under way; acknowledge descriptors. Wake-ups are kept for dispatch."""
        deadline_s = time.monotonic() + self.timeout_s
        while True:
            message, descriptors = self._receive()
            if isinstance(message, kind):
                if descriptors:
                    try:
                        self._send(Taken())
                    except BaseException:
                        _close_all(descriptors)
                        raise
                return message, descriptors
            _close_all(descriptors)
            if message is not None:
                self._note(message)
                continue
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                # A late answer would be taken for the next one's.
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)
                raise ConnectionLost(f"the worker at {self.path} has not answered within {self.timeout_s:g} s")
            self._poll.poll(max(1, int(left_s * 1000)))

    def _send(self, message: FromReader) -> None:
        data = encode(message)
        try:
            try:
                self._sock.send(data, _SEND_FLAGS)
            except BlockingIOError:
                # The worker is busy, and many messages wait for it already.
                self._await_room()
                self._sock.send(data, _SEND_FLAGS)
        except OSError as error:
            raise ConnectionLost(f"the worker at {self.path} is gone, or takes nothing more: {error}") from None

    def _await_room(self) -> None:
        room = select.poll()
        room.register(self._sock, select.POLLOUT)
        room.poll(int(self.timeout_s * 1000))

    def _receive(self) -> tuple[FromWorker | None, list[int]]:
        """The next message and its descriptors, which are the caller's; None when nothing has come."""
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(MESSAGE_BYTES_MAX, _ANCILLARY_BYTES, _RECEIVE_FLAGS)
        except (BlockingIOError, InterruptedError):
            return None, []
        except OSError as error:
            if error.errno == errno.ECONNRESET:
                return self._receive()  # the kernel tells of the hang-up first, and then gives what was sent before
            raise ConnectionLost(f"the worker at {self.path} is gone: {error}") from None
        descriptors = _descriptors_in(ancillary)
        try:
            if not data:
                raise ConnectionLost(f"the worker at {self.path} hung up: reconnect")
            if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
                raise ConnectionLost(
                    "what the worker handed out did not fit: this process has no file descriptor left (ulimit -n)"
                )
            return decode_from_worker(data), descriptors
        except BaseException:
            _close_all(descriptors)
            raise


def _error_of(message: Error) -> RequestError:
    if message.code == OffsetOutOfRange.code:
        return OffsetOutOfRange(message.message, earliest=message.earliest, next_offset=message.next_offset)
    return error_for(message.code, message.message)


def _descriptors_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
