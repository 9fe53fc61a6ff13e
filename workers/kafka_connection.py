"""One Kafka client's connection: requests out of its bytes, answers back in the order of the requests.

What is asked is the business of whoever the door serves with.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from kbroker.errors import RequestError, StorageError
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.framing import FrameLimits, Request, RequestFramer
from kbroker.log.slices import LogSlice
from kbroker.workers.dear_time import DearTime, rest_ms
from kbroker.workers.loop import ENDED, LEFT, READ, WRITE
from kbroker.workers.request_memory import SMALL_RECEIVE_BYTES

if TYPE_CHECKING:
    from kbroker.workers.kafka_door import KafkaDoor

_PARTS_MAX: Final = 256
"""Parts of answers that wait to be sent; with more the connection's next requests wait too."""
_ANSWER_BYTES_MAX: Final = 1 << 20
"""The same for their bytes in memory; what is sent from files does not count."""
_PARKED_MAX: Final = 4
"""Fetches of a connection that wait; with more its next requests wait too. Clients send one at a time."""
_JOINED_BYTES_MAX: Final = 16 << 10
"""Parts of answers are copied together up to this size, so that one call sends them. For so few bytes of a file that
costs two thirds of sendfile between two calls (14 of 21 µs at 200 bytes), and the client wakes up once, not twice."""
_LARGE_BYTES: Final = 256 << 10
"""An unfinished request is large when more than this of it is missing."""
_NOTHING: Final = memoryview(b"")
_BYTES_PER_MS_MIN: Final = 16
"""A request that comes in more slowly than this, past the time that a stall may take, is given up."""


Part = bytes | bytearray | memoryview | LogSlice
"""Of an answer: bytes, or a stretch of a segment, which goes from the file to the socket."""


class Waits(Protocol):
    """What waits to give an answer."""

    def cancel(self) -> None:
        """The client has hung up: nobody wants it any longer."""


class Asked:
    """A request and the place of its answer. The request's body is valid until the call that serves it returns.

    `waits`: to be cancelled when the client hangs up before it has its answer.
    """

    __slots__ = ("connection", "parts", "request", "waits")

    def __init__(self, connection: Connection, request: Request) -> None:
        self.connection = connection
        self.request = request
        self.parts: Sequence[Part] | None = None
        self.waits: Waits | None = None

    @property
    def is_gone(self) -> bool:
        """Whether the client has hung up: nobody wants the answer."""
        return self.connection.is_closed or self.connection.has_left

    def begin_waiting(self, waits: Waits) -> None:
        """A fetch has to wait before it can give the answer."""
        self.waits = waits
        self.connection.parked += 1

    def end_waiting(self, _waits: Waits) -> None:
        """It does not wait any longer."""
        self.waits = None
        self.connection.parked -= 1

    def cancel(self) -> None:
        """The client has hung up."""
        if self.waits is not None and self.parts is None:
            self.waits.cancel()

    def answer(self, parts: Sequence[Part]) -> None:
        """Send the answer, size and header included, at the end of the loop's turn in which those before it were given
        too. Empty: there is none."""
        connection = self.connection
        if self.parts is None and not connection.is_closed:
            self.parts = parts
            self.waits = None
            connection.take_answer(parts)

    def fail(self, error: Exception) -> None:
        """Its bytes are at fault, or something went wrong that nobody foresaw: hang up on this client alone."""
        request = self.request
        self.connection.close(
            f"request of API {request.api_key} version {request.version}, {request.size_bytes} bytes, "
            f"body {bytes(request.body[:48]).hex()}…: {error!r:.300}"
        )


def answer_each(requests: Sequence[Asked], answers: Sequence[bytes]) -> None:
    """Answer requests of one connection, each by one part."""
    connection = requests[0].connection
    if connection.is_closed or connection.has_left:
        return
    for asked, answer in zip(requests, answers, strict=True):
        asked.parts = (answer,)
    connection.take_answer(answers)


class Connection:
    """Receives into the door's buffer, serves whole requests, writes what is ready; never blocks."""

    __slots__ = (
        "_door", "_file_sent", "_framer", "_holds", "_is_paused", "_memory", "_out", "_pending", "_socket",
        "active_ms", "address", "answer_bytes", "blocked_ms", "client_host", "has_left", "held_bytes", "held_ms",
        "host", "is_closed", "is_ready", "parked", "partial_ms",
    )  # fmt: skip

    def __init__(self, door: KafkaDoor, sock: socket.socket, address: str, frame_limits: FrameLimits) -> None:
        self._door = door
        self._socket = sock
        self._memory = door.memory
        self._framer = RequestFramer(frame_limits, allocate=door.frame_buffer)
        self._pending: deque[Asked] = deque()
        self._out: deque[Part] = deque()
        self._file_sent = 0  # bytes of the part that comes first, while that is a stretch of a file
        self._is_paused = False
        self.has_left = False  # said, while it was not read from, that nothing follows what it has sent
        self._holds = 0  # who wants no further request to be served yet
        self.address = address
        self.client_host = address.rpartition(":")[0].strip("[]")
        self.host = str(sock.getsockname()[0]).removeprefix("::ffff:")
        self.answer_bytes = 0  # of answers that were given and are not sent, in memory
        self.parked = 0  # fetches that wait
        self.is_closed = False
        self.is_ready = False  # an answer was given in this turn of the loop
        self.active_ms = door.loop.now_ms()
        self.held_bytes = 0  # of requests that are not served: half of one, or what waits for room for its answers
        self.held_ms = 0  # since when
        self.partial_ms = 0  # since when half a request is here, and it is the client who does not go on
        self.blocked_ms = 0  # since when nothing of an answer was taken
        door.loop.add(sock.fileno(), READ, self._on_events)

    @property
    def is_waiting(self) -> bool:
        """Whether a request waits for its answer, or an answer to be taken."""
        return bool(self._pending) or bool(self._out)

    @property
    def missing_bytes(self) -> int:
        """What of its unfinished request is still to come."""
        return self._framer.missing_bytes

    def close(self, why: str = "") -> None:
        """Hang up. `why` goes to the log, with who it was."""
        if self.is_closed:
            return
        self.is_closed = True
        if why:
            client_id = self._framer.client_id
            who = f"{self.address} ({client_id:.80})" if client_id else self.address
            self._door.complaints.say(f"kafka client {who}: {why}; hung up")
        self._door.loop.remove(self._socket.fileno())
        self._memory.count(-self.held_bytes)
        self.held_bytes = 0
        self._memory.forget(self)
        self._door.answer_bytes -= self.answer_bytes
        self.answer_bytes = 0
        for asked in self._pending:
            asked.cancel()
        self._pending.clear()
        self._out.clear()
        self._door.gone(self)
        with contextlib.suppress(OSError):
            self._socket.close()

    def _on_events(self, events: int) -> None:
        if events & ENDED:
            self.close()
            return
        if events & LEFT:
            self._leave()
        if events & WRITE:
            self._write()
        if events & READ and not self.is_closed:
            self._receive()

    # --- in ---

    def _receive(self) -> None:
        framer, buffer, memory = self._framer, self._door.buffer, self._memory
        if memory.is_short:
            if not memory.may_receive(self, framer.growth_bytes):
                self._wait_for_room()
                return
            buffer = buffer[:SMALL_RECEIVE_BYTES]
        elif self.held_bytes and (growth_bytes := framer.growth_bytes) and not memory.may_receive(self, growth_bytes):
            self._wait_for_room()
            return
        room = framer.room()
        try:
            if room is None:
                count = self._socket.recv_into(buffer)
            else:
                # What follows the unfinished frame comes with its end: little behind a large one, whose like follows.
                after = buffer if len(room) < _LARGE_BYTES else self._door.spill
                count = self._socket.recvmsg_into((room, after))[0]
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
            of_frame = min(count, len(room))
            framer.filled(of_frame)
            framer.receive(buffer[: count - of_frame])
        self._serve_all()

    def _serve_all(self) -> None:
        """Serve the whole requests that are here."""
        framer, pending, door = self._framer, self._pending, self._door
        in_flight_max = door.limits.requests_in_flight_max
        try:
            while not self.is_closed:
                if (
                    len(pending) >= in_flight_max
                    or self.parked >= _PARKED_MAX
                    or self.answer_bytes > _ANSWER_BYTES_MAX
                    or self._holds
                ):
                    door.served_all()
                    if self.has_left:
                        self._drop_waiting()
                    self._collect()
                    if not self._has_room():
                        framer.hold()
                        self._is_paused = True
                        self.held_ms = door.loop.now_ms()
                        self._poll_for()
                        break
                request = framer.next_request()
                if request is None:
                    break
                if self.has_left and request.api_key == ApiKey.FETCH:
                    continue
                asked = Asked(self, request)
                pending.append(asked)
                try:
                    door.serve(asked)
                except Exception as error:
                    asked.fail(error)
                # What waits for its answer keeps no frame: its buffer is used again, or large.
                request.body = _NOTHING
        except RequestError as error:
            self.close(str(error))
        door.served_all()
        if self.has_left:
            self._drop_waiting()
        if not self.is_closed:
            self._note_partial()
            self.active_ms = door.loop.now_ms()
        door.bound_answers()

    def _note_partial(self) -> None:
        """Count what requests that are not served hold in memory, and since when they are here."""
        framer = self._framer
        held = framer.buffered_bytes
        has_begun = bool(held) and framer.has_begun()
        if not held or self._is_paused:
            self.partial_ms = 0  # nothing is missing, or it is we who do not read on
        elif has_begun or not self.partial_ms:
            self.partial_ms = self._door.loop.now_ms()
            if has_begun or not self.held_bytes:
                self.held_ms = self.partial_ms
            self._door.watch(self)
        if held != self.held_bytes:
            more, self.held_bytes = held - self.held_bytes, held
            self._memory.count(more)
        if self is self._memory.favoured and (not held or has_begun or self._is_paused):
            self._memory.ended(self)

    def _wait_for_room(self) -> None:
        """Not read from until there is memory for what comes."""
        self.partial_ms = 0  # it is we who do not read on
        self._poll_for()

    def read_on(self) -> None:
        """There is memory for what comes."""
        self._poll_for()
        if self.held_bytes and not self._is_paused:
            self.partial_ms = self._door.loop.now_ms()
            self._door.watch(self)

    def _leave(self) -> None:
        """The client has ended its side while it was not read from: mostly it is gone. Nothing needs to wait for it;
        what it has sent before is read and done."""
        self.has_left = True
        self._drop_waiting()
        self._poll_for()
        self._resume()

    def _drop_waiting(self) -> None:
        """Have nothing wait for this client any longer."""
        for asked in self._pending:
            asked.cancel()
            if asked.parts is None:
                asked.parts = ()
        self._collect()

    def hold(self) -> None:
        """Serve no further request until `release`: the last one is still being done, in slices."""
        self._holds += 1

    def release(self) -> None:
        """Serve on."""
        self._holds -= 1
        self._resume()

    def count_kept(self, bytes_more: int) -> None:
        """So much more is kept of a request that waits for its turn, or less."""
        self._memory.count(bytes_more)

    @property
    def dear_time(self) -> DearTime:
        """What requests that take long may take of the loop."""
        return self._door.dear_time

    def rest(self, took_ms: int) -> None:
        """Serve no further request for a while, since the last one has taken so much of others' time."""
        self._door.dear_time.spent(took_ms)
        self.hold()
        self.call_later(rest_ms(took_ms), self.release)

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        """On the loop that serves this connection."""
        self._door.loop.call_later(delay_ms, callback)

    # --- out ---

    def take_answer(self, parts: Sequence[Part]) -> None:
        """Count what waits from now on, an answer or several of one part each, and have it sent at the turn's end."""
        size_bytes = 0
        for part in parts:
            if not isinstance(part, LogSlice):
                size_bytes += len(part)
        self.answer_bytes += size_bytes
        self._door.answer_bytes += size_bytes
        if not self.is_ready:
            self.is_ready = True
            self._door.ready.append(self)

    def flush(self) -> None:
        """Send the answers whose turn it is."""
        self.is_ready = False
        if self.is_closed:
            return
        self._collect()
        if self._out and not self.blocked_ms:
            self._write()
        if self._is_paused:
            self._resume()

    def _collect(self) -> None:
        pending, out = self._pending, self._out
        while pending and (parts := pending[0].parts) is not None:
            out.extend(parts)
            pending.popleft()

    def _resume(self) -> None:
        """Serve on soon when there is room for answers again."""
        if self._can_resume():
            self._door.loop.call_soon(self._serve_on)

    def _can_resume(self) -> bool:
        return self._is_paused and not self.is_closed and not self.blocked_ms and self._has_room()

    def _serve_on(self) -> None:
        if self._can_resume():
            self._is_paused = False
            self._poll_for()
            self._serve_all()

    def _has_room(self) -> bool:
        return (
            not self._holds
            and len(self._pending) < self._door.limits.requests_in_flight_max
            and self.parked < _PARKED_MAX
            and len(self._out) < _PARTS_MAX
            and self.answer_bytes <= _ANSWER_BYTES_MAX
        )

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
            self._resume()

    def _write_all(self) -> None:
        out = self._out
        while out:
            first = out[0]
            if isinstance(first, LogSlice):
                if first.size_bytes - self._file_sent > _JOINED_BYTES_MAX:
                    self._send_file(first)
                    continue
                first = self._join()
            elif len(out) > 1:
                first = self._join()
            sent = self._socket.send(first, socket.MSG_MORE if len(out) > 1 else 0)
            self.answer_bytes -= sent
            self._door.answer_bytes -= sent
            if sent < len(first):
                out[0] = memoryview(first)[sent:]
            else:
                out.popleft()

    def _join(self) -> bytes | bytearray | memoryview:
        """Makes one of the parts that come first, as far as they are small together."""
        out = self._out
        parts: list[bytes | bytearray | memoryview] = []
        room = _JOINED_BYTES_MAX
        while out:
            part = out[0]
            if isinstance(part, LogSlice):
                done = self._file_sent
                left = part.size_bytes - done
                if left > room:
                    break
                data = os.pread(part.file.fd, left, part.position + done)
                if len(data) < left:
                    raise StorageError(f"{part.path} ends {left - len(data)} bytes too early")
                part = data
                self._file_sent = 0
                self.answer_bytes += left
                self._door.answer_bytes += left
            elif len(part) > room and parts:
                break
            parts.append(part)
            room -= len(part)
            out.popleft()
        joined = parts[0] if len(parts) == 1 else b"".join(parts)
        out.appendleft(joined)
        return joined

    def _send_file(self, part: LogSlice) -> None:
        """Send of one what the socket takes; nothing of it goes through this process."""
        done = self._file_sent
        sent = os.sendfile(self._socket.fileno(), part.file.fd, part.position + done, part.size_bytes - done)
        if not sent:
            raise StorageError(f"{part.path} ends {part.size_bytes - done} bytes too early")
        if done + sent < part.size_bytes:
            self._file_sent = done + sent
        else:
            self._file_sent = 0
            self._out.popleft()

    def _poll_for(self) -> None:
        # Who takes no answers asks nothing new.
        if self.blocked_ms:
            events = WRITE
        elif self._is_paused:
            events = 0 if self.has_left else LEFT
        else:
            events = 0 if self._memory.is_waiting(self) else READ
        self._door.loop.modify(self._socket.fileno(), events)

    # --- time ---

    def check_stall(self, now_ms: int, stall_max_ms: int, untaken_max_ms: int) -> bool:
        """Hang up when the client has stalled for too long: in the middle of a request, or with an answer that it does
        not take. False: there is nothing to watch any longer."""
        if self.is_closed or not (self.partial_ms or self.blocked_ms):
            return False
        if self.blocked_ms:
            self.partial_ms = now_ms if self.partial_ms else 0  # meanwhile we do not read on
            if now_ms - self.blocked_ms > untaken_max_ms:
                self.close(f"took nothing of its answers for {untaken_max_ms} ms")
        elif now_ms - self.partial_ms > stall_max_ms + self._framer.received_bytes // _BYTES_PER_MS_MIN:
            self.close(f"sent half a request and did not end it within {stall_max_ms} ms")
        return not self.is_closed
