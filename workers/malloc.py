"""How the C library keeps memory that was freed: frames of a MiB come and go, and must not be mapped anew each time."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MMAP_FROM_BYTES = 32 << 20
"""glibc takes no more; frames are no larger (native.frame.bytes.max)."""
_KEPT_BYTES = 64 << 20


def keep_freed_memory() -> None:
    """Serve allocations of up to 32 MiB from memory that was used before, of which each arena keeps up to 64 MiB.

    Saves 256 page faults for each MiB that is received. Without glibc nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
