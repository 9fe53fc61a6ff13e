"""Offsets that a log does not have: brought to the nearest that it has, and told, in the same words everywhere."""

from __future__ import annotations

from kbroker.cli.outcome import complain
from kbroker.types import TopicPartition

TOLD_MAX = 5
"""So many partitions are told one by one; then only how many more."""


class Clamping:
    """Keeps offsets within their logs. `tell` says what was changed."""

    def __init__(self, then: str) -> None:
        """`then`: what is done with the offset that is taken instead, such as `starting there`."""
        self._then = then
        self._told: list[str] = []

    def clamp(self, partition: TopicPartition, offset: int, start: int, end: int, *, asked: str = "") -> int:
        """`offset` or the nearest in start … end. `asked`: how it was asked for, where not as this number."""
        name = f"{partition.topic}-{partition.partition}"
        what = asked or f"offset {offset}"
        if offset < start:
            self._told.append(f"{name}: {what} is before the first one there, {start}; {self._then}")
            return start
        if offset > end:
            self._told.append(f"{name}: {what} is past the end, {end}; {self._then}")
            return end
        return offset

    def tell(self) -> None:
        """A line on stderr for each offset that was out of range."""
        for line in self._told[:TOLD_MAX]:
            complain(line)
        if len(self._told) > TOLD_MAX:
            complain(f"the same in {len(self._told) - TOLD_MAX} more partitions")
        self._told.clear()
