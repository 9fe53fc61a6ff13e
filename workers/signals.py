"""Signals as events on the loop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterable

from kbroker.workers.loop import READ, Loop


class SignalSource:
    """Calls `on_signal(signal)` from the loop for each of `numbers` that comes. Only in the main thread."""

    def __init__(
        self, numbers: Iterable[signal.Signals], loop: Loop, on_signal: Callable[[signal.Signals], None]
    ) -> None:
        self._on_signal = on_signal
        self._loop = loop
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        # The handler proper does nothing: Python writes the signal's number to the wake-up descriptor.
        self._former = {number: signal.signal(number, lambda _signal, _frame: None) for number in numbers}
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        loop.add(self._reader.fileno(), READ, self._read)

    def close(self) -> None:
        """Signals do again what they did before."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._loop.remove(self._reader.fileno())
        self._reader.close()
        self._writer.close()

    def _read(self, _events: int) -> None:
        try:
            numbers = self._reader.recv(64)
        except BlockingIOError:
            return
        for number in numbers:
            if number in self._former:
                self._on_signal(signal.Signals(number))
