"""One Kafka client's connection: requests out of its bytes, answers back in the order of the requests.

What is asked is the business of whoever the door serves with.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kbroker.errors import RequestError, StorageError
from kbroker.kafka.framing import FrameLimits, Request, RequestFramer
from kbroker.workers.loop import HANGUP, READ, WRITE

if TYPE_CHECKING:
    from kbroker.workers.kafka_door import KafkaDoor

log = logging.getLogger(__name__)

_PARTS_MAX: Final = 256  # of one sendmsg; the kernel takes 1024
_NOTHING: Final = memoryview(b"")
_BYTES_PER_MS_MIN: Final = 16
"""A request that comes in more slowly than this, past the time that a stall may take, is given up."""


class FilePart:
    """A stretch of a file that goes into an answer by sendfile. `holder` keeps the descriptor open."""

    __slots__ = ("fd", "holder", "left", "position")

    def __init__(self, fd: int, position: int, size_bytes: int, holder: object) -> None:
        self.fd = fd
        self.position = position
        self.left = size_bytes
        self.holder = holder


Part = bytes | bytearray | memoryview | FilePart


class Asked:
    """A request and the place of its answer. The request's body is valid until the call that serves it returns."""

    __slots__ = ("connection", "parts", "request")

    def __init__(self, connection: Connection, request: Request) -> None:
        self.connection = connection
        self.request = request
        self.parts: Sequence[Part] | None = None

    def answer(self, parts: Sequence[Part]) -> None:
        """Send the answer, size and header included, when those before it were sent. Empty: there is none."""
        if self.parts is None:
            self.parts = parts
            self.connection.flush()


class Connection:
    """Receives into the door's buffer, serves whole requests, writes what is ready; never blocks."""

    __slots__ = (
        "_buffered", "_door", "_framer", "_is_corked", "_is_paused", "_out", "_pending", "_socket",
        "active_ms", "address", "blocked_ms", "client_id", "host", "is_closed", "partial_ms",
    )  # fmt: skip

    def __init__(self, door: KafkaDoor, sock: socket.socket, address: str, frame_limits: FrameLimits) -> None:
        self._door = door
        self._socket = sock
        self._framer = RequestFramer(frame_limits)
        self._buffered = 0
        self._pending: deque[Asked] = deque()
        self._out: deque[memoryview | FilePart] = deque()
        self._is_corked = False
        self._is_paused = False
        self.address = address
        self.host = str(sock.getsockname()[0]).removeprefix("::ffff:")
        self.client_id = ""
        self.is_closed = False
        self.active_ms = door.loop.now_ms()
        self.partial_ms = 0  # since when half a request is here
        self.blocked_ms = 0  # since when nothing of an answer was taken
        door.loop.add(sock.fileno(), READ, self._on_events)

    @property
    def is_waiting(self) -> bool:
        """Whether a request waits for its answer."""
        return bool(self._pending)

    def close(self, why: str = "") -> None:
        """Hang up. `why` goes to the log, with who it was."""
        if self.is_closed:
            return
        self.is_closed = True
        if why:
            who = f"{self.address} ({self.client_id:.80})" if self.client_id else self.address
            log.warning("kafka client %s: %s; hung up", who, why)
        self._door.loop.remove(self._socket.fileno())
        self._door.buffered_bytes -= self._buffered
        self._buffered = 0
        self._pending.clear()
        self._out.clear()
        self._door.gone(self)
        with contextlib.suppress(OSError):
            self._socket.close()

    def _on_events(self, events: int) -> None:
        if events & HANGUP:
            self.close()
            return
        if events & WRITE:
            self._write()
        if events & READ and not self.is_closed:
            self._receive()

    # --- in ---

    def _receive(self) -> None:
        framer = self._framer
        room = framer.room()
        try:
            count = self._socket.recv_into(self._door.buffer if room is None else room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if not count:
            self.close()
            return
        if room is None:
            framer.receive(self._door.buffer[:count])
        else:
            framer.filled(count)
        self._serve_all()

    def _serve_all(self) -> None:
        """Serve the whole requests that are here."""
        framer, pending = self._framer, self._pending
        in_flight_max = self._door.limits.requests_in_flight_max
        self._is_corked = True
        try:
            while not self.is_closed:
                if len(pending) >= in_flight_max:
                    framer.hold()
                    self._is_paused = True
                    self._poll_for()
                    break
                request = framer.next_request()
                if request is None:
                    break
                self._serve(request)
        except RequestError as error:
            self.close(str(error))
        if self.is_closed:
            return
        self._note_partial()
        self._is_corked = False
        self.active_ms = self._door.loop.now_ms()
        self.flush()

    def _serve(self, request: Request) -> None:
        asked = Asked(self, request)
        self._pending.append(asked)
        size, begin = request.size_bytes, request.body[:48]
        try:
            self._door.serve(asked)
            self._framer.trusted = True
        except Exception as error:
            self.close(
                f"request of API {request.api_key} version {request.version}, {size} bytes, body "
                f"{bytes(begin).hex()}…: {error!r:.300}"
            )
        # What waits for its answer keeps no frame: its buffer is used again, or large.
        request.body = _NOTHING

    def _note_partial(self) -> None:
        """Count what an unfinished request holds in memory, and since when it is here."""
        buffered = self._framer.buffered_bytes
        if not buffered or self._is_paused:
            self.partial_ms = 0  # nothing is missing, or it is we who do not read on
        elif self._framer.has_begun() or not self.partial_ms:
            self.partial_ms = self._door.loop.now_ms()
            self._door.watch(self)
        if buffered != self._buffered:
            self._door.buffered_bytes += buffered - self._buffered
            self._buffered = buffered
            if self._door.buffered_bytes > self._door.limits.buffered_bytes_max:
                self.close("queued.max.request.bytes of requests that are not yet served are here already")

    def _resume(self) -> None:
        if not self.is_closed and self._is_paused:
            self._is_paused = False
            self._poll_for()
            self._serve_all()

    # --- out ---

    def flush(self) -> None:
        """Send the answers whose turn it is."""
        if self.is_closed or self._is_corked:
            return
        pending, out = self._pending, self._out
        while pending and pending[0].parts is not None:
            for part in pending.popleft().parts or ():
                out.append(part if isinstance(part, FilePart) else memoryview(part))
        if self._is_paused and len(pending) < self._door.limits.requests_in_flight_max:
            self._door.loop.call_soon(self._resume)
        if out and not self.blocked_ms:
            self._write()

    def _write(self) -> None:
        was_blocked = self.blocked_ms
        try:
            self._write_all()
        except (BlockingIOError, InterruptedError):
            self.blocked_ms = self._door.loop.now_ms()
            self._door.watch(self)
            if not was_blocked:
                self._poll_for()
            return
        except StorageError as error:
            self.close(str(error))
            return
        except OSError:
            self.close()
            return
        self.blocked_ms = 0
        if was_blocked:
            self._poll_for()

    def _write_all(self) -> None:
        out = self._out
        while out:
            first = out[0]
            if isinstance(first, FilePart):
                self._send_file(first)
                if not first.left:
                    out.popleft()
                continue
            buffers: list[memoryview] = []
            flags = 0
            for part in out:
                if isinstance(part, FilePart):
                    flags = socket.MSG_MORE
                    break
                if len(buffers) == _PARTS_MAX:
                    break
                buffers.append(part)
            if len(buffers) > 1:
                self._took(self._socket.sendmsg(buffers, (), flags))
            else:
                self._took(self._socket.send(first, flags))

    def _send_file(self, part: FilePart) -> None:
        sent = os.sendfile(self._socket.fileno(), part.fd, part.position, part.left)
        if not sent:
            raise StorageError(f"a segment ends at {part.position}, {part.left} bytes too early")
        part.position += sent
        part.left -= sent

    def _took(self, count: int) -> None:
        """The kernel has taken so many bytes from the beginning of what is to be sent."""
        out = self._out
        while count:
            first = out[0]
            assert isinstance(first, memoryview)
            if count < len(first):
                out[0] = first[count:]
                return
            count -= len(first)
            out.popleft()

    def _poll_for(self) -> None:
        # Who takes no answers asks nothing new.
        events = WRITE if self.blocked_ms else 0 if self._is_paused else READ
        self._door.loop.modify(self._socket.fileno(), events)

    # --- time ---

    def check_stall(self, now_ms: int, stall_max_ms: int) -> bool:
        """Hang up when the client has stalled for too long. False: there is nothing to watch any longer."""
        if self.is_closed or not (self.partial_ms or self.blocked_ms):
            return False
        if self.blocked_ms:
            self.partial_ms = now_ms if self.partial_ms else 0  # meanwhile we do not read on
            if now_ms - self.blocked_ms > stall_max_ms:
                self.close(f"took nothing of its answers for {stall_max_ms} ms")
        elif now_ms - self.partial_ms > stall_max_ms + self._buffered // _BYTES_PER_MS_MIN:
            self.close(f"sent half a request and did not end it within {stall_max_ms} ms")
        return not self.is_closed
