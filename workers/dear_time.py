"""What large requests of all clients may take of a loop's time: a tenth. So those beside them hardly notice."""

from __future__ import annotations

from typing import Final

from kbroker.workers.loop import Loop

LARGE_BYTES: Final = 16 << 10
"""A request, but for its records, that is so large may hold the loop for long: it is served when it is its turn."""
FACTOR: Final = 9
"""For each millisecond that such a request has taken others have so many."""
REST_MS_MAX: Final = 10_000
WAITING_BYTES_MAX: Final = 64 << 20
"""Large requests that wait for their turn; who comes with more is hung up on."""


class DearTime:
    """When the next large request may be served."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._free_ms = 0
        self.waiting_bytes = 0

    @property
    def wait_ms(self) -> int:
        """How long until then; 0: now."""
        return max(0, self._free_ms - self._loop.now_ms())

    def spent(self, took_ms: int) -> None:
        """So long one has held the loop."""
        self._free_ms = max(self._free_ms, self._loop.now_ms()) + rest_ms(took_ms)


def rest_ms(took_ms: int) -> int:
    """How long others have their turn after a request that has taken so long."""
    return min(REST_MS_MAX, FACTOR * took_ms)
