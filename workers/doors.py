"""Where native clients' requests come in, as the loop sees it: requests in at a door, answers out by the same door.

The front has a ClientDoor, a ZeroMQ ROUTER. A worker has a LocalDoor for clients on this host, and worker and
coordinator a FrontLink through which the front hands over its clients' requests: both unix streams. On all of them a
request is `[request id][header][payload …]` from a client, so what serves it does not care which way it came.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from kbroker.config import NativeConfig
from kbroker.errors import (
    InvalidRequest,
    KbrokerError,
    MessageTooLarge,
    ThrottlingQuotaExceeded,
    UnknownServerError,
)
from kbroker.wire import codec
from kbroker.wire.codec import REQUEST_ID_BYTES_MAX
from kbroker.workers.caller import Caller

log = logging.getLogger(__name__)

CLIENTS_REMEMBERED = 65_536
"""Of so many clients it is known how much they were sent; the one that was silent longest is forgotten."""

FAILURE_INTERVAL_S = 1
"""A request at which a process has failed is told of, with its traceback, so often at most, by each door."""

REPEATED_MAX = 1024
REPEATED_BYTES_MAX = 512
"""Headers of produce requests that a process remembers having decoded, and how large one may be."""

Frames = Sequence[bytes | bytearray | memoryview]


class Waits(Protocol):
    """What waits to give an answer."""

    def cancel(self) -> None:
        """The client has hung up: nobody wants it any longer."""


class Asked(NamedTuple):
    """A request as it came in, its header not looked at. Its payload is valid until the call that serves it returns."""

    door: Door
    client: bytes
    request_id: bytes
    header: bytes
    payload: list[memoryview]
    told_caller: bytes = b""
    """What the front says of who asks, where it has passed this on."""

    @property
    def caller(self) -> Caller:
        """Who asks."""
        return self.door.caller(self)

    def answer(self, header: bytes, payload: Frames = ()) -> None:
        """Send the answer. A client that is gone, or lets its answers pile up, does not get it."""
        self.door.send(self.client, [self.request_id, header, *payload])

    def refuse(self, error: BaseException) -> None:
        """Answer with an error."""
        self.answer(codec.encode_error(error))

    @property
    def is_gone(self) -> bool:
        """Whether the door has been closed by which the answer would go; its clients have hung up, or ask again."""
        return self.door.is_closed

    def begin_waiting(self, waits: Waits) -> None:
        """`waits` has to wait before it can give the answer: it is cancelled when the client hangs up."""
        self.door.waiting.setdefault(self.client, set()).add(waits)

    def end_waiting(self, waits: Waits) -> None:
        """It does not wait any longer."""
        of_client = self.door.waiting.get(self.client)
        if of_client is not None:
            of_client.discard(waits)
            if not of_client:
                del self.door.waiting[self.client]


Serve = Callable[[Asked], None]
_new = tuple.__new__  # Asked(…) without a call of Python's: one is made for each request


class Door(ABC):
    """What all ways in share: the limits on a request, and how much each client was sent."""

    def __init__(self, serve: Serve, limits: NativeConfig) -> None:
        self._serve = serve
        self._limits = limits
        # Here, not in one table of the worker: a client's name is unique at its own door only.
        self._next_failure_s = 0.0
        self.sent_bytes: dict[bytes, int] = {}
        """Payload that each client was sent in all."""
        self.waiting: dict[bytes, set[Waits]] = {}
        """What waits to answer each client; none of the sets is empty."""
        self.is_closed = False

    def client_gone(self, client: bytes) -> None:
        """A client has hung up: nothing waits for it any longer, or is remembered of it."""
        self.sent_bytes.pop(client, None)
        for waits in (*self.waiting.get(client, ()),):
            waits.cancel()

    def all_gone(self) -> None:
        """The door was closed."""
        self.is_closed = True
        for client in (*self.waiting,):
            self.client_gone(client)

    @abstractmethod
    def _transmit(self, client: bytes, frames: Frames) -> bool:
        """Send to a client without waiting. False: it is gone, or does not take it."""

    @abstractmethod
    def caller(self, asked: Asked) -> Caller:
        """Who has sent a request, as far as it is known here."""

    @abstractmethod
    def _admit(self, client: bytes) -> KbrokerError | None:
        """Count a request that will be answered; the error says why it will not be taken."""

    def take(self, client: bytes, frames: list[memoryview], told_caller: bytes = b"") -> None:
        """Serve `[request id][header][payload …]`, or refuse it."""
        limits = self._limits
        if (
            2 <= len(frames) <= limits.frames_max + 2
            and 0 < len(frames[0]) <= REQUEST_ID_BYTES_MAX
            and len(frames[1]) <= limits.header_bytes_max
        ):
            fault = self._admit(client)
            if fault is None:
                asked = _new(Asked, (self, client, bytes(frames[0]), bytes(frames[1]), frames[2:], told_caller))
                try:
                    self._serve(asked)
                except Exception:  # one request that nobody foresaw must not end the process for all others
                    self._tell_failure(asked)
                    asked.refuse(UnknownServerError("the broker has failed at this request; its log says more"))
                return
        else:
            fault = self._fault_of(frames)
        request_id = bytes(frames[0]) if frames and len(frames[0]) <= REQUEST_ID_BYTES_MAX else b""
        self._transmit(client, [request_id, codec.encode_error(fault)])

    def _tell_failure(self, asked: Asked) -> None:
        """With its traceback, but not for each of a flood."""
        now_s = time.monotonic()
        if now_s >= self._next_failure_s:
            self._next_failure_s = now_s + FAILURE_INTERVAL_S
            log.exception("a request was not served: %.80r", asked.header)

    def _fault_of(self, frames: list[memoryview]) -> KbrokerError:
        """What is wrong with a request whose frames are not as they must be."""
        limits = self._limits
        count = len(frames)
        if count < 2:
            return InvalidRequest(f"a request has at least 2 frames (request id, header), not {count}")
        if not 0 < len(frames[0]) <= REQUEST_ID_BYTES_MAX:
            return InvalidRequest(f"a request id has 1 to {REQUEST_ID_BYTES_MAX} bytes, not {len(frames[0])}")
        if count - 2 > limits.frames_max:
            return MessageTooLarge(f"{count - 2} payload frames are more than native.frames.max={limits.frames_max}")
        return MessageTooLarge(
            f"a header of {len(frames[1])} bytes is larger than native.header.bytes.max={limits.header_bytes_max}"
        )

    def send(self, client: bytes, frames: Frames) -> None:
        """Send an answer; it is dropped when the client is gone or does not take it."""
        if not self._transmit(client, frames):
            self.sent_bytes.pop(client, None)
            return
        if len(frames) > 2:
            self._count_sent(client, frames)

    def _count_sent(self, client: bytes, frames: Frames) -> None:
        # Taken out and put back: the first in the table is then who was silent longest.
        sent = self.sent_bytes.pop(client, 0)
        self.sent_bytes[client] = sent + sum(map(len, frames[2:]))
        if len(self.sent_bytes) > CLIENTS_REMEMBERED:
            del self.sent_bytes[next(iter(self.sent_bytes))]


def too_many_unanswered(count: int) -> ThrottlingQuotaExceeded:
    """Why a request is not taken from a client that has so many on their way."""
    return ThrottlingQuotaExceeded(
        f"{count} requests without an answer are native.requests.in.flight.max: wait for answers"
    )
