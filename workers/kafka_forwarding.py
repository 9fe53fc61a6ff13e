"""A worker's requests that only the coordinator can answer: handed over on the control channel, undecoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kbroker.errors import RequestError
from kbroker.kafka.refusals import refused
from kbroker.wire.control import KafkaForward, KafkaForwarded
from kbroker.workers.control_link import ControlLink
from kbroker.workers.kafka_service import Call
from kbroker.workers.loop import Loop

CALLS_MAX = 4_096
CALLS_BYTES_MAX = 64 << 20
"""Requests that wait for the coordinator's answer, and their bytes together; with more they are refused."""
OVERDUE_CHECK_MS = 100

Instead = Callable[[Call], None]
"""Answers a call without the coordinator, as well as it can be done."""


@dataclass(slots=True)
class _Waiting:
    """A call that is at the coordinator. `instead`: who answers it when the coordinator does not."""

    call: Call
    body: bytes
    instead: Instead | None
    deadline_ms: int


def _hang_up(call: Call) -> None:
    call.give_up("")


class Forwarding:
    """Which requests are at the coordinator.

    Those that it cannot take, or has not answered after `request.timeout.ms`, are refused so that their clients try
    again. When it dies, or hangs up on us, their clients are hung up on, and ask again.
    """

    def __init__(self, loop: Loop, control: ControlLink, incarnation: int, timeout_ms: int) -> None:
        self._loop = loop
        self._control = control
        self._incarnation = incarnation
        self._timeout_ms = timeout_ms
        self._calls: dict[int, _Waiting] = {}  # the oldest first
        self._bytes = 0
        self._count = 0
        self._is_watching = False
        control.on_forwarded = self._answered
        control.on_lost = self._lost

    def forward(self, call: Call, instead: Instead | None = None) -> None:
        """Let the coordinator answer; where it cannot, `instead`, else the client is told to try again."""
        if not self._control.is_linked:  # it is restarting: its clients come again soon
            (instead or _hang_up)(call)
            return
        head = call.head
        body = bytes(head.body)
        if len(self._calls) >= CALLS_MAX or (self._calls and self._bytes + len(body) > CALLS_BYTES_MAX):
            self._refuse(_Waiting(call, body, instead, 0), "too many requests wait for the coordinator; try again")
            return
        self._count += 1
        message = KafkaForward(
            self._incarnation,
            self._count,
            call.host,
            head.api_key,
            head.version,
            head.correlation_id,
            call.client_id,
            call.client_address,
            body,
        )
        waiting = _Waiting(call, body, instead, self._loop.now_ms() + self._timeout_ms)
        if not self._control.send(message):
            self._refuse(waiting, "the coordinator takes nothing at the moment; try again")
            return
        self._calls[self._count] = waiting
        self._bytes += len(body)
        call.on_cancel = partial(self._take, self._count)
        if not self._is_watching:
            self._is_watching = True
            self._watch()

    def _answered(self, message: KafkaForwarded) -> None:
        """The coordinator's answer: a whole response, or nothing when the request's bytes were at fault."""
        waiting = self._take(message.number)
        if waiting is None:
            return
        if message.response:
            waiting.call.answer_pieces([message.response])
        else:
            waiting.call.give_up(message.why)

    def _take(self, number: int) -> _Waiting | None:
        waiting = self._calls.pop(number, None)
        if waiting is not None:
            self._bytes -= len(waiting.body)
        return waiting

    def _watch(self) -> None:
        """Refuse what is overdue; look again as long as something waits."""
        now_ms = self._loop.now_ms()
        while self._calls:
            number = next(iter(self._calls))
            if self._calls[number].deadline_ms > now_ms:
                self._loop.call_later(OVERDUE_CHECK_MS, self._watch)
                return
            waiting = self._take(number)
            assert waiting is not None
            self._refuse(waiting, f"the coordinator has not answered within {self._timeout_ms} ms", is_unknown=True)
        self._is_watching = False

    def _refuse(self, waiting: _Waiting, why: str, *, is_unknown: bool = False) -> None:
        call = waiting.call
        if waiting.instead is not None:
            waiting.instead(call)
            return
        try:
            answer = refused(call.api_key, call.version, waiting.body, why, is_unknown=is_unknown)
        except RequestError as error:
            call.give_up(str(error))
            return
        if answer is None:
            call.give_up(why)
        else:
            call.answer(answer)

    def _lost(self) -> None:
        """What was asked on a connection that has ended is not answered."""
        calls, self._calls = self._calls, {}
        self._bytes = 0
        for waiting in calls.values():
            waiting.call.give_up("")
