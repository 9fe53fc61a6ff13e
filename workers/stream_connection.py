"""One end of a unix stream that carries messages of frames: in, whole messages to whoever serves them; out, at the end
of the loop's turn, all that the turn has brought with one system call."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from kbroker.errors import RequestError, ThrottlingQuotaExceeded
from kbroker.shm.access import peer_of
from kbroker.shm.buffers import Buffers
from kbroker.wire import codec
from kbroker.wire.stream import MessageFramer, MessageLimits, head
from kbroker.workers.loop import HANGUP, READ, WRITE, Loop

BUFFER_BYTES: Final = 256 << 10
RECEIVE_BYTES_MIN: Final = 16 << 10
TURN_MS_MAX: Final = 2
"""Whose requests take longer in a turn of the loop is received less of in the next, down to the least."""
KEPT_MESSAGE_BYTES: Final = 17 << 16
"""Room for a message of the usual greatest size, a batch of 1 MiB and its head."""
KEPT_MESSAGES: Final = 4
"""So many unfinished messages get such room, which is used again and again: new memory has to be zeroed, and mapped."""
_PARTS_MAX: Final = 512  # of one sendmsg; the kernel takes 1024
HALF_RECEIVED_BYTES_MAX: Final = 256 << 20
"""What unfinished messages of all clients may hold in memory; a client that goes past it is hung up on."""

Frames = Sequence[bytes | bytearray | memoryview]


class Streams:
    """What the connections of one loop share: the buffer they receive into, and the turn's end at which they send."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.half_received_bytes = 0
        self.untaken_bytes = 0
        """Of answers to clients that the kernel has not taken yet, of all connections but those to our processes."""
        self.unsent: list[StreamConnection] = []
        self._kept = Buffers()

    def allocate(self, size_bytes: int) -> bytearray:
        """Memory for a message that comes in pieces."""
        if size_bytes <= KEPT_MESSAGE_BYTES and self.half_received_bytes < KEPT_MESSAGES * KEPT_MESSAGE_BYTES:
            return self._kept.take(KEPT_MESSAGE_BYTES)
        return bytearray(size_bytes)

    def flush(self) -> None:
        """Send what the turn has brought. To be called at each turn's end, after whatever answers there."""
        unsent = self.unsent
        for connection in unsent:  # the end of one may give others something to send
            connection.flush()
        unsent.clear()

    def lasting(self, frame: memoryview) -> bytes | memoryview:
        """A received frame that may be used after the call that served it."""
        return bytes(frame) if frame.obj is self.buffer.obj else frame


PEER_BUFFER_BYTES: Final = 4 << 20
"""What the kernel holds for another process of ours; clients get what is usual, there may be many."""


class StreamConnection:
    """Receives, frames, serves; queues and sends. Never blocks.

    `on_message(frames)`: the frames are valid until it returns. `on_end(connection, why)`: called once,
    when the connection was closed; `why` is empty unless the peer has broken the protocol. From a client that takes no
    answers nothing more is read. `is_peer`: another process of the broker, whose messages are bounded otherwise; it may
    be as full as we are, so it is always read from. Both callbacks may be replaced.
    """

    __slots__ = (
        "_framer", "_half_received", "_is_in_unsent", "_is_peer", "_out", "_receive_bytes", "_socket", "_streams",
        "blocked_ms", "is_closed", "on_end", "on_message", "partial_ms", "queued_bytes",
    )  # fmt: skip

    def __init__(
        self,
        streams: Streams,
        sock: socket.socket,
        limits: MessageLimits,
        on_message: Callable[[list[memoryview]], None],
        on_end: Callable[[StreamConnection, str], None],
        *,
        is_peer: bool = False,
    ) -> None:
        self._streams = streams
        self._socket = sock
        if is_peer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PEER_BUFFER_BYTES)
        self._framer = MessageFramer(limits, streams.allocate)
        self.on_message = on_message
        self.on_end = on_end
        self._is_peer = is_peer
        self._out: deque[bytes | bytearray | memoryview] = deque()
        self._is_in_unsent = False
        self._half_received = 0
        self._receive_bytes = BUFFER_BYTES  # in one turn; less while what comes takes long to serve
        self.queued_bytes = 0
        """What the kernel has not taken yet."""
        self.is_closed = False
        self.partial_ms = 0  # since when half a message is here
        self.blocked_ms = 0  # since when the peer takes nothing
        streams.loop.add(sock.fileno(), READ, self._on_events)

    def accept(self, limits: MessageLimits) -> None:
        """Take messages up to other limits from now on."""
        self._framer.accept(limits)

    def peer_uid(self) -> int:
        """The unix user at the other end; -1 when it is gone."""
        try:
            return peer_of(self._socket).uid
        except OSError:
            return -1

    @property
    def is_stalling(self) -> bool:
        """Whether half a message is here, or one is not taken."""
        return bool(self.partial_ms or self.blocked_ms)

    def send(self, frames: Frames) -> None:
        """Queue a message; it is sent at the end of this turn. Dropped when the connection has ended."""
        if self.is_closed:
            return
        first = head(frames)
        self._out.append(first)
        self._out.extend(frames)
        size_bytes = len(first) + sum(map(len, frames))
        self.queued_bytes += size_bytes
        if not self._is_peer:
            self._streams.untaken_bytes += size_bytes
        if not self._is_in_unsent:
            self._is_in_unsent = True
            self._streams.unsent.append(self)

    def flush(self) -> None:
        """Send what is queued, as much as the peer takes."""
        self._is_in_unsent = False
        if self._out and not self.blocked_ms and not self.is_closed:
            self._write()

    def refuse(self, error: RequestError) -> None:
        """Hang up, and say why by an answer to no request."""
        self.send([b"", codec.encode_error(error)])
        self.flush()
        self.close(str(error))

    def close(self, why: str = "") -> None:
        """Hang up."""
        if self.is_closed:
            return
        self.is_closed = True
        self._streams.loop.remove(self._socket.fileno())
        self._socket.close()
        self._out.clear()
        if not self._is_peer:
            self._streams.untaken_bytes -= self.queued_bytes
        self.queued_bytes = 0
        self._streams.half_received_bytes -= self._half_received
        self.on_end(self, why)

    def _on_events(self, events: int) -> None:
        if events & WRITE:
            self._write()
            if self.is_closed:
                return
        # What a peer has said before its end is heard: a hang-up is seen as the end of what there is to read.
        if not events & READ:
            if events & HANGUP:
                self.close()
            return
        framer = self._framer
        buffer = self._streams.buffer[: self._receive_bytes]
        room = framer.room() if self._half_received else None
        try:
            count = self._socket.recv_into(buffer if room is None else room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if not count:
            self.close()
            return
        if room is None:
            framer.receive(buffer[:count])
        else:
            framer.filled(count)
        now_ms = self._streams.loop.now_ms
        began_ms = now_ms()
        try:
            while (frames := framer.next_message()) is not None:
                self.on_message(frames)
                if self.is_closed:
                    return
        except RequestError as error:
            self.refuse(error)
            return
        if now_ms() - began_ms > TURN_MS_MAX:
            self._receive_bytes = max(RECEIVE_BYTES_MIN, self._receive_bytes // 2)
        elif self._receive_bytes < BUFFER_BYTES:
            self._receive_bytes *= 2
        if framer.buffered_bytes or self._half_received:
            self._note_half_received(framer.buffered_bytes)
            if room is None and count == len(buffer) and not self.is_closed:
                self._on_events(READ)  # the rest of a large message mostly waits already: a turn of the loop less

    def _note_half_received(self, size_bytes: int) -> None:
        """Count what an unfinished message holds in memory, and since when it is here."""
        streams = self._streams
        if not size_bytes:
            self.partial_ms = 0
        elif not self.partial_ms:
            self.partial_ms = streams.loop.now_ms()
        streams.half_received_bytes += size_bytes - self._half_received
        self._half_received = size_bytes
        if streams.half_received_bytes > HALF_RECEIVED_BYTES_MAX and not self._is_peer:
            self.refuse(ThrottlingQuotaExceeded(f"{HALF_RECEIVED_BYTES_MAX} bytes of half-received requests are here"))

    def _write(self) -> None:
        out = self._out
        was_blocked = self.blocked_ms
        self.blocked_ms = 0
        try:
            while out:
                count = self._socket.sendmsg(out if len(out) <= _PARTS_MAX else [*out][:_PARTS_MAX])
                self.queued_bytes -= count
                if not self._is_peer:
                    self._streams.untaken_bytes -= count
                if self.queued_bytes:
                    self._took(count)
                else:
                    out.clear()
        except (BlockingIOError, InterruptedError):
            self.blocked_ms = self._streams.loop.now_ms()
        except OSError:
            self.close()
            return
        if bool(was_blocked) != bool(self.blocked_ms):
            events = READ if self._is_peer or not self.blocked_ms else 0
            self._streams.loop.modify(self._socket.fileno(), events | (WRITE if self.blocked_ms else 0))

    def _took(self, count: int) -> None:
        """The kernel has taken so many bytes from the beginning of what is to be sent."""
        out = self._out
        while count >= len(out[0]):
            count -= len(out.popleft())
        if count:
            out[0] = memoryview(out[0])[count:]


def dial(path: str) -> socket.socket:
    """A connected, non-blocking unix stream. Raises OSError when nobody listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except BaseException:
        with contextlib.suppress(OSError):
            sock.close()
        raise
    return sock
