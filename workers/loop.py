"""The event loop that every kbroker process runs: one thread, one epoll, callbacks.

A raw epoll loop costs less than asyncio on this path and lets us call os.sendfile. What may block is given to
`workers/io_threads.py`; its answers come back through `call_soon_threadsafe`.
"""

from __future__ import annotations

import heapq
import os
import select
import time
from collections import deque
from collections.abc import Callable, Sized
from typing import Protocol

import zmq

from kbroker.wire.frames import receivable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
ENDED = select.EPOLLHUP | select.EPOLLERR
LEFT = select.EPOLLRDHUP
"""The peer sends nothing more; told to those who ask for it."""
HANGUP = ENDED | LEFT
SWEPT_FROM = 1_000
"""Fewer cancelled timers than this stay until they would have been due: a client may choose that day."""


class Timer:
    """A call that is due at `when_ms` on the loop's clock; `cancel()` forgets it."""

    __slots__ = ("_timers", "callback", "when_ms")

    def __init__(self, when_ms: int, callback: Callable[[], None], timers: Timers) -> None:
        self.when_ms = when_ms
        self.callback: Callable[[], None] | None = callback
        self._timers = timers

    def cancel(self) -> None:
        """The call will not be made. Harmless when it was made already."""
        if self.callback is not None:
            self.callback = None
            self._timers.cancelled()


class Timers:
    """A loop's timers, the next one first. Those that were cancelled are swept out before they are the most."""

    __slots__ = ("_cancelled", "_count", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, Timer]] = []
        self._count = 0
        self._cancelled = 0

    def add(self, when_ms: int, callback: Callable[[], None]) -> Timer:
        """A call that is due at `when_ms`."""
        timer = Timer(when_ms, callback, self)
        self._count += 1
        heapq.heappush(self.heap, (when_ms, self._count, timer))
        return timer

    def take_due(self, now_ms: int) -> Callable[[], None] | None:
        """The next call that is due, which is no timer's any longer; None: there is none."""
        heap = self.heap
        while heap and heap[0][0] <= now_ms:
            timer = heapq.heappop(heap)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                return callback
            self._cancelled -= 1
        return None

    def cancelled(self) -> None:
        """A timer was cancelled that is still in the heap."""
        self._cancelled += 1
        if self._cancelled > SWEPT_FROM and 2 * self._cancelled > len(self.heap):
            self.heap[:] = [entry for entry in self.heap if entry[2].callback is not None]
            heapq.heapify(self.heap)
            self._cancelled = 0


class Drained(Protocol):
    """A ZeroMQ socket on the loop. `drain` receives what is there, if anything, at most a turn's worth; never blocks.

    Whoever uses the socket sets `was_used`: its EVENTS are then looked at before the loop sleeps.
    """

    socket: zmq.Socket[bytes]
    was_used: bool

    def drain(self) -> None: ...


def descriptor_of(socket: zmq.Socket[bytes]) -> int:
    """The descriptor that tells, edge-triggered, when to look at EVENTS."""
    return int(socket.getsockopt(zmq.FD))


class Loop:
    """Runs callbacks when descriptors are ready or time has come, until `stop()`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers = Timers()
        self._soon: deque[Callable[[], None]] = deque()
        self._turn_ends: list[tuple[Callable[[], None], Sized | None]] = []
        self._ports: list[Drained] = []
        self._told: dict[Drained, None] = {}  # ports with a message, or whose descriptor says so
        self._running = False
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.add(self._wake_fd, READ, self._on_wake)

    @staticmethod
    def now_ms() -> int:
        """The loop's clock: monotonic milliseconds."""
        return time.monotonic_ns() // 1_000_000

    def add(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` whenever one of `events` (READ, WRITE), or a hang-up, is seen on `fd`."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, events)

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events on a descriptor that was added."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget a descriptor; call it before closing the descriptor."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def add_port(self, port: Drained) -> None:
        """Serve a ZeroMQ socket. Its descriptor is edge-triggered, so EVENTS is looked at after every use as well."""
        self._ports.append(port)
        self.add(descriptor_of(port.socket), READ, lambda _events: self._told.setdefault(port))

    def at_turn_end(self, callback: Callable[[], None], pending: Sized | None = None) -> None:
        """Call `callback` at the end of every turn, after all that was ready was served, in the order of these calls.

        `pending`: only when there is something in it.
        """
        self._turn_ends.append((callback, pending))

    def call_at(self, when_ms: int, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, at `when_ms` on this loop's clock."""
        return self._timers.add(when_ms, callback)

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, `delay_ms` from now."""
        return self.call_at(self.now_ms() + delay_ms, callback)

    def call_every(self, interval_ms: int, callback: Callable[[], None]) -> None:
        """Call `callback` every `interval_ms`, until the loop stops."""

        def again() -> None:
            self.call_later(interval_ms, again)
            callback()

        self.call_later(interval_ms, again)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the next turn. From another thread only where it does not matter when that comes."""
        self._soon.append(callback)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """As call_soon, from any thread: also wakes the loop."""
        self._soon.append(callback)
        os.eventfd_write(self._wake_fd, 1)

    def has_ready(self) -> bool:
        """Whether the next turn has something to do at once: a message, or a call that was asked for."""
        return bool(self._soon) or bool(self._epoll.poll(0, 1))

    def stop(self) -> None:
        """`run` returns after this turn."""
        self._running = False

    def run(self) -> None:
        """Serve until `stop()`."""
        self._running = True
        while self._running:
            self.turn()

    def turn(self, timeout_ms: int | None = None) -> None:
        """Wait for something to do, at most `timeout_ms` (None: as long as it takes), and do it."""
        # Here, after all uses of the sockets: each may have taken the descriptor's one signal with it.
        for port in self._ports:
            if port.was_used:
                port.was_used = False
                if receivable(port.socket):
                    self._told[port] = None
        timers, now_ms = self._timers.heap, 0
        if timers:
            now_ms = self.now_ms()
            due_ms = timers[0][0] - now_ms
            if timeout_ms is None or timeout_ms > due_ms:
                # A day at most: epoll takes no more than 31 bits of milliseconds, and clients choose some timers.
                timeout_ms = min(due_ms, 86_400_000) if due_ms > 0 else 0
        if self._soon or self._told:
            timeout_ms = 0
        ready = self._epoll.poll(None if timeout_ms is None else timeout_ms / 1000)
        for fd, events in ready:
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(events)
        if self._soon:
            for _ in range(len(self._soon)):
                self._soon.popleft()()
        # One look at the clock in a turn that had something to do: what has come due in it waits for the next one.
        if timers and (not ready or timers[0][0] <= now_ms):
            self._run_timers()
        if self._told:
            told, self._told = self._told, {}
            for port in told:
                port.drain()
        for callback_at_end, pending in self._turn_ends:
            if pending or pending is None:
                callback_at_end()

    def close(self) -> None:
        """Free the loop's own descriptors."""
        self._epoll.close()
        os.close(self._wake_fd)

    def _run_timers(self) -> None:
        now_ms = self.now_ms()
        while (callback := self._timers.take_due(now_ms)) is not None:
            callback()

    def _on_wake(self, _events: int) -> None:
        os.eventfd_read(self._wake_fd)
