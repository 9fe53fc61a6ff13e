"""One connected reader, in the worker: its socket, which is never waited for, and what it has open."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import Final, Protocol

from kbroker.errors import InvalidRequest, ThrottlingQuotaExceeded
from kbroker.shm.access import Peer
from kbroker.shm.messages import MESSAGE_BYTES_MAX, FromReader, FromWorker, Wake, decode_from_reader, encode

SEND_BUFFER_BYTES: Final = 16 * 1024
"""What the kernel keeps for a reader that does not read; it doubles the number. Above it, the reader is hung up on."""

_SO_PASSRIGHTS: Final = 83  # asm-generic/socket.h; Linux 6.16
_SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_RECEIVE_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
# Plain integers: each look at flags of the enum makes another enum.
_MSG_CTRUNC: Final = int(socket.MSG_CTRUNC)
_MSG_TRUNC: Final = int(socket.MSG_TRUNC)


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None: ...


class EventLoop(Protocol):
    """What this part needs of the worker's loop. Events are those of epoll."""

    def add(self, fd: int, events: int, callback: Callable[[int], None]) -> None: ...

    def remove(self, fd: int) -> None: ...

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Timer: ...


class HungUp(Exception):
    """The peer is gone, or takes nothing more: forget it."""


class Handle:
    """A partition that a reader has open, and while it sleeps, until there is a record at which offset.

    `wake` is made beforehand, and once: appends wait for it.
    """

    __slots__ = ("committed", "connection", "is_armed", "number", "offset", "place", "topic_id", "wake")

    def __init__(self, connection: Connection, place: tuple[str, int], topic_id: bytes) -> None:
        self.connection = connection
        self.place = place
        self.topic_id = topic_id
        connection.handles_made += 1
        self.number = connection.handles_made
        self.wake = encode(Wake([self.number]))
        self.is_armed = False
        self.offset = -1
        self.committed = False


def refuse_descriptors(sock: socket.socket) -> None:
    """Ask the kernel to let nobody send descriptors to this socket, and to those that it accepts.

    Older kernels do not know this. There they are dropped unseen when a message is received; but dropping the last
    reference to somebody's lingering TCP socket may take its time.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


class Connection:
    """Sends and receives messages, and holds what the rules of the protocol need to be kept."""

    __slots__ = ("_buffer", "deadline", "greeted", "handles", "handles_made", "is_closed", "peer", "sock")

    def __init__(self, sock: socket.socket, peer: Peer, buffer: bytearray) -> None:
        self.sock = sock
        self.peer = peer
        self.greeted = False
        self.is_closed = False
        self.handles: dict[int, Handle] = {}
        self.handles_made = 0
        """Their numbers are not used again."""
        self.deadline: Timer | None = None
        """Set while a hello or the acknowledgement of descriptors is awaited."""
        self._buffer = buffer
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        refuse_descriptors(sock)

    def fileno(self) -> int:
        return self.sock.fileno()

    def receive(self) -> FromReader | None:
        """The next message, or None: nothing has come.

        Raises HungUp; InvalidRequest or UnsupportedVersion for what is no message. `_buffer` is shared by all
        connections of a loop and holds one byte more than a message may have.
        """
        try:
            # No room for ancillary data: descriptors that a hostile peer sends never enter this process.
            size_bytes, _, flags, _ = self.sock.recvmsg_into([self._buffer], 0, _RECEIVE_FLAGS)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise HungUp(str(error)) from None
        if flags & _MSG_CTRUNC:
            raise InvalidRequest("descriptors are not taken from a reader")
        if flags & _MSG_TRUNC or size_bytes > MESSAGE_BYTES_MAX:
            raise InvalidRequest(f"a message may have {MESSAGE_BYTES_MAX} bytes at most")
        if not size_bytes:
            raise HungUp("end of stream")
        return decode_from_reader(memoryview(self._buffer)[:size_bytes])

    def send(self, message: FromWorker, descriptors: list[int] | None = None) -> None:
        """Send now or not at all; the caller keeps its descriptors.

        Raises HungUp when the peer is gone or its socket is full; ThrottlingQuotaExceeded when the kernel takes no
        more descriptors that nobody has received yet.
        """
        if not descriptors:
            self.send_encoded(encode(message))
            return
        try:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            self.sock.sendmsg([encode(message)], ancillary, _SEND_FLAGS)
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                raise ThrottlingQuotaExceeded("too many descriptors are on their way to other readers") from None
            raise _hung_up(error) from None

    def send_encoded(self, data: bytes) -> None:
        """`send` for a message that is bytes already. Raises HungUp."""
        try:
            self.sock.send(data, _SEND_FLAGS)
        except OSError as error:
            raise _hung_up(error) from None

    def met_deadline(self) -> None:
        """What was awaited has come."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def close(self) -> None:
        self.is_closed = True
        self.met_deadline()
        self.sock.close()


def _hung_up(error: OSError) -> HungUp:
    return HungUp("it does not read its socket" if error.errno == errno.EAGAIN else os.strerror(error.errno or 0))
