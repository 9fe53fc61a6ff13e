"""How long to wait before trying again."""

from __future__ import annotations


def backoff_ms(attempt: int, first_ms: int, most_ms: int) -> int:
    """Doubles from `first_ms` at attempt 1 up to `most_ms`."""
    return min(most_ms, first_ms << min(max(attempt, 1) - 1, 20))
