"""What large requests of all clients may take of a loop's time: a tenth. So those beside them hardly notice."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from kbroker.workers.loop import Loop

LARGE_BYTES: Final = 4 << 10
"""A request, but for its records, that is so large may hold the loop for long: it is served when it is its turn."""
LARGE_FETCH_BYTES: Final = 16 << 10
"""A Kafka Fetch costs less for its size: one of some 300 partitions is not held up by what others ask."""
FACTOR: Final = 9
"""For each millisecond that such a request has taken others have so many."""
REST_MS_MAX: Final = 10_000


class DearTime:
    """Large requests are served one after another: each address has its turn, and its own in the order of their coming,
    so that many from one do not keep those of others waiting."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._free_ms = 0
        self._waiting: dict[str, deque[Callable[[], None]]] = {}  # by address; the next one's turn comes first
        self._is_set = False

    @property
    def is_free(self) -> bool:
        """Whether a large request may be served at once."""
        return not self._waiting and self._loop.now_ms() >= self._free_ms

    def later(self, address: str, serve: Callable[[], None]) -> None:
        """Call `serve` when its turn has come; it tells by `spent` how long it has taken."""
        self._waiting.setdefault(address, deque()).append(serve)
        self._wait()

    def spent(self, took_ms: int) -> None:
        """So long a request has held the loop."""
        self._free_ms = max(self._free_ms, self._loop.now_ms()) + rest_ms(took_ms)

    def _wait(self) -> None:
        if self._waiting and not self._is_set:
            self._is_set = True
            self._loop.call_later(max(0, self._free_ms - self._loop.now_ms()), self._go_on)

    def _go_on(self) -> None:
        self._is_set = False
        if self._loop.now_ms() >= self._free_ms:
            address = next(iter(self._waiting))
            queue = self._waiting.pop(address)
            serve = queue.popleft()
            if queue:
                self._waiting[address] = queue
            serve()
        self._wait()


def rest_ms(took_ms: int) -> int:
    """How long others have their turn after a request that has taken so long."""
    return min(REST_MS_MAX, FACTOR * took_ms)
