"""Memory that is read into again and again: fresh memory for each read costs more than the read itself.

A new MiB from the kernel is 256 page faults, 200 to 500 µs; copying a MiB out of the page cache takes 100.
"""

from __future__ import annotations

import sys
from typing import Final

KEPT_MAX: Final = 4
_ROUND_BYTES: Final = 1 << 16


def _count_when_unused() -> int:
    kept = [bytearray(1)]
    for number in range(len(kept)):
        buffer = kept[number]
        return sys.getrefcount(buffer)
    raise AssertionError("there is one")


_OURS_ONLY: Final = _count_when_unused()
"""What `take` counts for a buffer that nobody uses: the list's reference, the variable's, and the argument's where the
interpreter counts that (Python 3.14 does not). Counted in the same way, so that it holds for any interpreter."""


class Buffers:
    """Hands out buffers, and again those that nobody refers to any more, by a view or otherwise. For one thread."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: list[bytearray] = []

    def take(self, size_bytes: int) -> bytearray:
        """At least so many bytes, their content of no use. They are the caller's while anything refers to them."""
        for number in range(len(self._kept)):
            buffer = self._kept[number]
            if sys.getrefcount(buffer) == _OURS_ONLY:
                if len(buffer) >= size_bytes:
                    return buffer
                del self._kept[number]
                break
        fresh = bytearray(-(-size_bytes // _ROUND_BYTES) * _ROUND_BYTES)
        self._kept.append(fresh)
        del self._kept[:-KEPT_MAX]
        return fresh
