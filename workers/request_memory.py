"""What the half-received requests of a door's connections hold in memory, and who is read from while that is short.

Above `queued.max.request.bytes` nobody is hung up on for coming late: who needs more memory is not read from until
there is some again, as Kafka mutes its connections. Nothing waits for ever:

- One of those who wait is favoured: its request may come in whole, whatever the others hold. Then the next one is.
- While somebody waits, a request must end within `kafka.stall.max.ms`, whatever its client or its answers are waiting
  for; the favoured one sooner.
- An eighth of the memory is for requests that begin: large ones that do not end leave the small ones alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from kbroker.workers.loop import Loop

_RESERVED_SHIFT: Final = 3
SMALL_RECEIVE_BYTES: Final = 64 << 10
"""So much is received at once for a request that begins, while memory is short."""
_FAVOURED_STALL_SHIFT: Final = 3
_FAVOURED_BYTES_PER_MS: Final = 1 << 10
"""The favoured request must come at this rate, past an eighth of the time that a stall may take: others wait for it."""


class Receiver(Protocol):
    """A connection."""

    held_bytes: int
    """Of its requests that are not served, in memory."""
    held_ms: int
    """Since when what it holds is here, by the loop's clock."""

    @property
    def missing_bytes(self) -> int: ...
    def read_on(self) -> None: ...
    def close(self, why: str = "") -> None: ...


class RequestMemory:
    """Of one door. `held_bytes` never exceeds `most_bytes` by more than the favoured request and one receive."""

    def __init__(self, loop: Loop, most_bytes: int, stall_max_ms: int) -> None:
        self.held_bytes = 0
        self.is_short = False
        """Whether no large request may begin or go on; looked at before each receive."""
        self.favoured: Receiver | None = None
        self._loop = loop
        self._most_bytes = most_bytes
        self._for_growth_bytes = most_bytes - (most_bytes >> _RESERVED_SHIFT)
        self._stall_max_ms = stall_max_ms
        self._waiting: dict[Receiver, None] = {}  # in the order in which they came
        self._waiting_since_ms = 0
        self._favoured_until_ms = 0
        self._is_letting_on = False

    def has_room(self, bytes_more: int) -> bool:
        """Whether so much more may be held without anybody having to wait for it."""
        return self.held_bytes + bytes_more <= self._for_growth_bytes

    @property
    def anybody_waits(self) -> bool:
        """Whether somebody is not read from."""
        return bool(self._waiting)

    def count(self, bytes_more: int) -> None:
        """So much more is held now, or less."""
        self.held_bytes += bytes_more
        self.is_short = self.held_bytes >= self._for_growth_bytes
        if bytes_more < 0:
            self._let_on_soon()

    def may_receive(self, receiver: Receiver, growth_bytes: int) -> bool:
        """Whether to read on from it. If not, its `read_on` is called later."""
        if self._may_receive(receiver, growth_bytes):
            return True
        if not self._waiting:
            self._waiting_since_ms = self._loop.now_ms()
        self._waiting[receiver] = None
        self._let_on_soon()
        return False

    def _may_receive(self, receiver: Receiver, growth_bytes: int, promised_bytes: int = 0) -> bool:
        if receiver is self.favoured:
            return True
        if receiver.held_bytes:
            return not growth_bytes or self.has_room(promised_bytes + growth_bytes)
        return not self._is_full(promised_bytes)

    def _is_full(self, promised_bytes: int) -> bool:
        # What the favoured one takes beyond the bound is not for those to pay who begin.
        of_favoured = 0 if self.favoured is None else self.favoured.held_bytes
        return self.held_bytes - of_favoured + promised_bytes >= self._most_bytes

    def is_waiting(self, receiver: Receiver) -> bool:
        """Whether it is not read from until there is room."""
        return receiver in self._waiting

    def ended(self, receiver: Receiver) -> None:
        """The favoured request is whole, or its connection was closed: the next one's turn."""
        if receiver is self.favoured:
            self.favoured = None
            self._let_on_soon()

    def forget(self, receiver: Receiver) -> None:
        """A connection was closed."""
        self._waiting.pop(receiver, None)
        self.ended(receiver)

    def _let_on_soon(self) -> None:
        if self._waiting and not self._is_letting_on:
            self._is_letting_on = True
            self._loop.call_soon(self._let_on)

    def _let_on(self) -> None:
        """Read on from those for whom there is room, in their order; favour one if there is none for it."""
        self._is_letting_on = False
        promised = 0  # they take their memory when they are read from
        for receiver in list(self._waiting):
            if self.favoured is not None and self._is_full(promised):
                break
            growth_bytes = receiver.missing_bytes if receiver.held_bytes else SMALL_RECEIVE_BYTES
            if not self._may_receive(receiver, growth_bytes, promised):
                if not receiver.held_bytes or self.favoured is not None:
                    continue
                self.favoured = receiver
                allowed_ms = (self._stall_max_ms >> _FAVOURED_STALL_SHIFT) + growth_bytes // _FAVOURED_BYTES_PER_MS
                self._favoured_until_ms = self._loop.now_ms() + allowed_ms
            promised += growth_bytes
            del self._waiting[receiver]
            receiver.read_on()

    def check(self, now_ms: int, receivers: Iterable[Receiver]) -> None:
        """Hang up on those for whom others have waited too long. Of all `receivers` of the door."""
        if not self._waiting:
            return
        favoured = self.favoured
        if favoured is not None and now_ms > self._favoured_until_ms:
            favoured.close("it does not end its request, and others wait for memory (queued.max.request.bytes)")
        stall_ms = self._stall_max_ms
        begun_before_ms = now_ms - stall_ms
        if self._waiting_since_ms >= begun_before_ms:
            return
        late = [r for r in receivers if r.held_bytes and r.held_ms < begun_before_ms and r not in self._waiting]
        for receiver in late:
            receiver.close(
                f"it holds requests that are not served for {stall_ms} ms, and others wait for memory "
                "(queued.max.request.bytes)"
            )
