"""Large requests take turns by address, and leave nine tenths of the loop's time to others."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

from kbroker.workers.dear_time import FACTOR, DearTime
from tests.hand_clock import HandClock


def test_addresses_take_turns_and_rest_between_requests() -> None:
    clock: Any = HandClock(1_000)
    dear = DearTime(clock)
    served: list[tuple[str, int]] = []

    def serve(name: str) -> None:
        served.append((name, clock.time_ms))
        dear.spent(10)

    serve("first")
    for number in range(3):
        dear.later("10.0.0.1", partial(serve, f"flood {number}"))
    dear.later("10.0.0.2", partial(serve, "honest"))
    clock.run()
    assert [name for name, _ in served] == ["first", "flood 0", "honest", "flood 1", "flood 2"]
    times = [at_ms for _, at_ms in served]
    assert [later - before for before, later in pairwise(times)] == [10 * FACTOR] * 4
    clock.time_ms += 10 * FACTOR
    assert dear.is_free
