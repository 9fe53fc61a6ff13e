"""One connection to one process of the broker: requests out, answers matched, death noticed at once.

A link lives once. When its peer goes away (or does not greet, or does not answer in time) everything in flight fails
with NetworkError, the connection is closed with what it still held, and whoever wants to go on makes a new link:
nothing that was meant for a dead process reaches its successor, after the caller was told to try again.

Never blocks and reads no clock: `serve(now_ms)` does what can be done.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, NamedTuple

import zmq

from kbroker.clients.transport import transport_to
from kbroker.errors import InvalidRequest, NetworkError, RequestError
from kbroker.wire.codec import decode_answer, encode_request
from kbroker.wire.messages import Hello, HelloAnswer

_REQUEST_ID = Struct(">Q")
ANSWERS_PER_TURN = 256
Payload = Sequence[bytes | bytearray | memoryview]


class NotSent(NetworkError):
    """The connection ended before the request was sent: it was surely not acted on."""


class Reply(NamedTuple):
    """What a request came to: `error` None, or the answer's error, or NetworkError. `payload` as in messages.py."""

    answer: Any
    payload: list[memoryview]
    error: RequestError | None


OnReply = Callable[[Reply], None]


class Asked(NamedTuple):
    """A request that was submitted and not answered."""

    header: bytes
    payload: Payload
    answer_class: type
    deadline_ms: int
    on_reply: OnReply


class LinkState(enum.Enum):
    """A link only moves forward."""

    CONNECTING = "connecting"
    GREETING = "greeting"
    READY = "ready"
    DEAD = "dead"


class Link:
    """A connection to `endpoint`. Requests submitted before the greeting is over wait for it. `alive`: they may be."""

    def __init__(
        self, context: zmq.Context[Any], endpoint: str, client_id: str, *, now_ms: int, greeting_timeout_ms: int
    ) -> None:
        self.endpoint = endpoint
        self.state = LinkState.CONNECTING
        self.alive = True
        self.hello: HelloAnswer | None = None
        self.error: RequestError | None = None
        self.credits: dict[int, tuple[int, int]] = {}  # by node: its incarnation, payload bytes taken; see Credit
        self.on_state: Callable[[Link], None] | None = None
        self._client_id = client_id
        self._greeting_deadline_ms = now_ms + greeting_timeout_ms
        self._next_id = 0
        self._backlog: deque[Asked] = deque()
        self._asked: dict[bytes, Asked] = {}
        self._in_flight_max = 1
        self._due_ms: int | None = None

        self.transport = transport_to(context, endpoint, greeting_timeout_ms)
        if self.transport.ended:
            self.die(NetworkError(f"{endpoint}: {self.transport.ended}"))

    @property
    def idle(self) -> bool:
        """Whether nothing waits for an answer."""
        return not self._asked and not self._backlog

    def submit(
        self, request: Any, answer_class: type, on_reply: OnReply, *, deadline_ms: int, payload: Payload = ()
    ) -> None:
        """Send a request (a message, or its header as `encode_request` makes it), now or when the peer's limits allow
        it. `on_reply` is called once, from `serve` or `die`."""
        header = request if type(request) is bytes else encode_request(request)
        asked = Asked(header, payload, answer_class, deadline_ms, on_reply)
        if not self.alive:
            on_reply(Reply(None, [], NotSent(str(self.error))))
            return
        if self._due_ms is None or deadline_ms < self._due_ms:
            self._due_ms = deadline_ms
        if self.state is LinkState.READY and not self._backlog and len(self._asked) < self._in_flight_max:
            if not self._send(asked):
                self._backlog.append(asked)
        else:
            self._backlog.append(asked)

    def has_input(self) -> bool:
        """Whether something waits to be served. Ask after every use of the socket: its descriptor tells only once."""
        return self.alive and self.transport.has_input()

    def serve(self, now_ms: int) -> bool:
        """Take what has arrived, send what may be sent, give up what is overdue. Whether anything happened."""
        happened = self.alive and self._take_answers()
        if self.alive:
            happened = self._follow_transport() or happened
        if self.alive and self._backlog:
            self._send_backlog()
        if self.alive:
            self._look_at_time(now_ms)
        return happened or not self.alive

    def next_due_ms(self) -> int | None:
        """When `serve` has something to do though nothing arrives."""
        if self.state in (LinkState.CONNECTING, LinkState.GREETING):
            return self._greeting_deadline_ms
        return self._due_ms if self._asked or self._backlog else None

    def die(self, error: RequestError) -> None:
        """Close the socket, whatever it holds, and fail everything that is not answered."""
        if not self.alive:
            return
        self.state = LinkState.DEAD
        self.alive = False
        self.error = error
        if self.on_state is not None:
            self.on_state(self)
        self.transport.close()
        unanswered, unsent = list(self._asked.values()), list(self._backlog)
        self._asked.clear()
        self._backlog.clear()
        for asked in unanswered:
            asked.on_reply(Reply(None, [], error))
        for asked in unsent:
            asked.on_reply(Reply(None, [], NotSent(str(error)) if isinstance(error, NetworkError) else error))

    def abandon(self) -> None:
        """Drop the connection; nobody is told. For a link whose use was interrupted, anywhere."""
        self.state = LinkState.DEAD
        self.alive = False
        self.error = NetworkError(f"the use of the connection to {self.endpoint} was interrupted")
        self._asked.clear()
        self._backlog.clear()
        self.transport.close()

    def close(self) -> None:
        """The client is being closed."""
        self.die(NetworkError("the client was closed"))

    # --- inside ---

    def _send(self, asked: Asked) -> bool:
        self._next_id += 1
        request_id = _REQUEST_ID.pack(self._next_id)
        try:
            if not self.transport.send((request_id, asked.header, *asked.payload)):
                return False
        except BaseException:
            # Ctrl-C between two frames: the next message must not become the rest of this one.
            self.die(NetworkError(f"a request to {self.endpoint} was interrupted"))
            raise
        self._asked[request_id] = asked
        return True

    def _send_backlog(self) -> None:
        if self.state is not LinkState.READY:
            return
        while self._backlog and len(self._asked) < self._in_flight_max:
            if not self._send(self._backlog[0]):
                return
            self._backlog.popleft()

    def _take_answers(self) -> bool:
        for count in range(ANSWERS_PER_TURN):
            frames = self.transport.receive() if self.alive else None
            if frames is None:
                return count > 0
            if len(frames) < 2:
                self.die(NetworkError(f"{self.endpoint} sent an answer of {len(frames)} frames: it is no kbroker"))
                return True
            asked = self._asked.pop(bytes(frames[0]), None)
            if asked is None:
                if not len(frames[0]):
                    self._hung_up_on(frames[1])
                continue
            try:
                answer: Any = decode_answer(asked.answer_class, frames[1])
            except RequestError as error:
                asked.on_reply(Reply(None, [], error))
            else:
                asked.on_reply(Reply(answer, list(frames[2:]), None))
        return True

    def _hung_up_on(self, header: memoryview) -> None:
        """An answer to no request: the peer hangs up, and says why."""
        try:
            decode_answer(HelloAnswer, header)
        except RequestError as error:
            self.die(NetworkError(f"{self.endpoint} has hung up: {error}"))

    def _follow_transport(self) -> bool:
        happened = self.transport.advance()
        if self.transport.ended:
            self._take_answers()  # those that arrived before the end
            self.die(NetworkError(f"{self.endpoint} {self.transport.ended}"))
        elif self.transport.is_connected and self.state is LinkState.CONNECTING:
            self._greet()
        return happened

    def _greet(self) -> None:
        self.state = LinkState.GREETING
        hello = Hello(client_id=self._client_id, software="kbroker-python")
        self._send(Asked(encode_request(hello), (), HelloAnswer, self._greeting_deadline_ms, self._greeted))

    def _greeted(self, reply: Reply) -> None:
        if not self.alive:
            return
        if reply.error is not None:
            self.die(reply.error)
            return
        hello: HelloAnswer = reply.answer
        if hello.requests_in_flight_max < 1 or hello.frame_bytes_max < 1:
            self.die(InvalidRequest(f"{self.endpoint} greeted with impossible limits"))
            return
        self.hello = hello
        self._in_flight_max = hello.requests_in_flight_max
        self.state = LinkState.READY
        if self.on_state is not None:
            self.on_state(self)

    def _look_at_time(self, now_ms: int) -> None:
        if self.state is not LinkState.READY:
            if now_ms >= self._greeting_deadline_ms:
                self.die(NetworkError(f"{self.endpoint} did not greet in time"))
            return
        if self._due_ms is None or now_ms < self._due_ms:
            return
        # The peer may yet act on what is overdue; on a link of its own, nothing later can come before that.
        if any(asked.deadline_ms <= now_ms for asked in self._asked.values()):
            self.die(NetworkError(f"{self.endpoint} did not answer in time"))
            return
        for asked in [asked for asked in self._backlog if asked.deadline_ms <= now_ms]:
            self._backlog.remove(asked)
            asked.on_reply(Reply(None, [], NotSent(f"{self.endpoint} was too busy to take the request in time")))
        self._due_ms = min((a.deadline_ms for a in (*self._asked.values(), *self._backlog)), default=None)
