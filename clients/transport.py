"""What a link stands on: one connection that carries messages of frames. Never blocks."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final, Protocol

import zmq

from kbroker.errors import RequestError
from kbroker.wire.endpoints import UNIX
from kbroker.wire.frames import receivable, receive, send
from kbroker.wire.stream import ANSWER_LIMITS, MessageFramer, head

Frames = Sequence[bytes | bytearray | memoryview]


class Transport(Protocol):
    """A connection on its way up, up, or over.

    `fds` are to be watched for input, and the first for room to write while `is_blocked` (`on_blocked` hears of each
    change). `is_connected`: messages may be sent. `ended`: why it is over; empty while it is not.
    """

    fds: tuple[int, ...]
    is_connected: bool
    is_blocked: bool
    ended: str
    on_blocked: Callable[[], None] | None

    def has_input(self) -> bool:
        """Whether something waits that a watched descriptor would not tell of."""
        ...

    def advance(self) -> bool:
        """Follow what the connection tells and send what waits. Whether anything happened."""
        ...

    def send(self, frames: Frames) -> bool:
        """Send a message. False: not now; the connection takes nothing at the moment, or has ended."""
        ...

    def receive(self) -> Sequence[memoryview] | None:
        """The frames of the next message; None: there is none."""
        ...

    def close(self) -> None:
        """Drop the connection and what it still holds."""
        ...


def transport_to(context: zmq.Context[Any], endpoint: str, timeout_ms: int) -> Transport:
    """The transport that an endpoint asks for: unix://PATH a stream, all others ZeroMQ."""
    if endpoint.startswith(UNIX):
        return StreamTransport(endpoint[len(UNIX) :])
    return ZmqTransport(context, endpoint, timeout_ms)


_SEND_BUFFER_BYTES: Final = 4 << 20
"""As much as the kernel allows of it: a batch of 1 MiB that does not fit costs a wake-up for each piece."""


class StreamTransport:
    """A unix stream. `send` hands the message to the kernel itself: no thread stands between."""

    _BUFFER_BYTES: Final = 256 << 10

    def __init__(self, path: str) -> None:
        self.is_connected = False
        self.is_blocked = False
        self.ended = ""
        self.on_blocked: Callable[[], None] | None = None
        self._framer = MessageFramer(ANSWER_LIMITS)
        self._buffer = memoryview(bytearray(self._BUFFER_BYTES))
        self._out: deque[bytes | bytearray | memoryview] = deque()
        self._has_more = False
        self._is_drained = False  # the kernel had less than we asked for: the descriptor tells when there is more
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._socket.setblocking(False)
        self.fds: tuple[int, ...] = (self._socket.fileno(),)
        try:
            self._socket.connect(path)
        except OSError as error:
            self.ended = f"does not accept connections ({error.strerror}): is the broker running there?"

    def has_input(self) -> bool:
        return not self.is_connected or self._has_more or bool(self.ended)

    def advance(self) -> bool:
        self._is_drained = False
        if self.is_blocked:
            self._flush()
        if self.is_connected or self.ended:
            return bool(self.ended)
        self.is_connected = True
        return True

    def send(self, frames: Frames) -> bool:
        if self.is_blocked or self.ended:
            return False
        self._out.extend((head(frames), *frames))
        self._flush()
        return True

    def receive(self) -> list[memoryview] | None:
        try:
            frames = self._framer.next_message()
            while frames is None and self._read():
                frames = self._framer.next_message()
        except RequestError as error:
            self.ended = self.ended or f"sent what is no message: {error}"
            return None
        self._has_more = frames is not None
        if frames is not None and frames[0].obj is self._buffer.obj:
            return [memoryview(bytes(frame)) for frame in frames]  # the buffer is used again
        return frames

    def close(self) -> None:
        self._socket.close()
        self._out.clear()

    def _read(self) -> bool:
        """Whether anything came."""
        if self._is_drained:
            return False
        room = self._framer.room()
        target = self._buffer if room is None else room
        try:
            count = self._socket.recv_into(target)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.ended = self.ended or f"has hung up: {error.strerror}"
            return False
        if not count:
            self.ended = self.ended or "has hung up"
            return False
        self._is_drained = count < len(target)
        if room is None:
            self._framer.receive(self._buffer[:count])
        else:
            self._framer.filled(count)
        return True

    def _flush(self) -> None:
        out = self._out
        is_blocked = False
        try:
            while out:
                count = self._socket.sendmsg(out)
                if count == sum(map(len, out)):
                    out.clear()
                    break
                while count >= len(out[0]):
                    count -= len(out.popleft())
                out[0] = memoryview(out[0])[count:]
        except (BlockingIOError, InterruptedError):
            is_blocked = True
        except OSError as error:
            # What the peer said before its end is still to be read: it says why.
            out.clear()
            self.ended = f"has hung up: {error.strerror}"
        if is_blocked != self.is_blocked:
            self.is_blocked = is_blocked
            if self.on_blocked is not None:
                self.on_blocked()


class ZmqTransport:
    """A DEALER socket, whose monitor tells when it is connected and when it has ended."""

    _EVENT: Final = Struct("=HI")
    _numbers: Final = itertools.count()
    _MONITORED: Final = (
        zmq.EVENT_HANDSHAKE_SUCCEEDED
        | zmq.EVENT_DISCONNECTED
        | zmq.EVENT_CLOSED
        | zmq.EVENT_CONNECT_RETRIED
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    )
    _HEARTBEAT_MS: Final = 5_000
    _HEARTBEAT_TIMEOUT_MS: Final = 15_000
    _MESSAGES_MAX: Final = 2048
    """High water mark of each direction; requests in flight are bounded far below by what the broker says."""
    _SHARE_FROM_BYTES: Final = 262_144
    """Smaller frames are copied. Sharing them costs more: pyzmq frees each from a thread of its own, which fights for
    the interpreter with the caller's (measured at 64 KiB: a quarter more CPU in all)."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, timeout_ms: int) -> None:
        self.is_connected = False
        self.is_blocked = False
        self.ended = ""
        self.on_blocked: Callable[[], None] | None = None
        self._is_followed = False
        self._is_drained = False  # nothing waited at the last look, nor was anything sent since: its descriptor tells
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.SNDHWM, self._MESSAGES_MAX)
        socket.setsockopt(zmq.RCVHWM, self._MESSAGES_MAX)
        if endpoint.startswith("tcp:"):
            socket.setsockopt(zmq.CONNECT_TIMEOUT, timeout_ms)
            socket.setsockopt(zmq.HEARTBEAT_IVL, self._HEARTBEAT_MS)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, self._HEARTBEAT_TIMEOUT_MS)
            socket.setsockopt(zmq.IPV6, 1)
        self._socket = socket
        # Named anew each time: pyzmq's own name is the number of a descriptor, which another socket of the context may
        # have had just before.
        place = f"inproc://monitor-{next(self._numbers)}"
        socket.monitor(place, self._MONITORED)
        self._monitor = context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.connect(place)
        self.fds: tuple[int, ...] = (int(socket.getsockopt(zmq.FD)), int(self._monitor.getsockopt(zmq.FD)))
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.ended = str(error)

    def has_input(self) -> bool:
        # `advance` leaves nothing in the monitor; but what comes before its first look, the descriptor does not tell.
        return not self._is_followed or (not self._is_drained and receivable(self._socket))

    def advance(self) -> bool:
        happened = False
        self._is_followed = True
        while not self.ended and receivable(self._monitor):
            happened = True
            event, _ = self._EVENT.unpack(receive(self._monitor)[0].bytes)
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.is_connected = True
            elif event in (zmq.EVENT_CLOSED, zmq.EVENT_CONNECT_RETRIED) and not self.is_connected:
                self.ended = "does not accept connections: is the broker running there?"
            else:
                self.ended = "has hung up"
        return happened

    def send(self, frames: Frames) -> bool:
        self._is_drained = False
        try:
            send(self._socket, frames, self._SHARE_FROM_BYTES)
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[memoryview] | None:
        self._is_drained = not receivable(self._socket)
        if self._is_drained:
            return None
        return [frame.buffer for frame in receive(self._socket)]

    def close(self) -> None:
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
