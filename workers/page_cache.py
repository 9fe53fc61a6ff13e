"""Whether the kernel has a stretch of a file in memory, so that sending it is not likely to wait for the disk."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import Final
from weakref import WeakKeyDictionary

from kbroker.log.storage import File

_PAGE_BYTES: Final = mmap.PAGESIZE
_SAMPLE_BYTES: Final = 256 << 10
_AHEAD_BYTES: Final = 8 << 20
_SEEN_MS: Final = 1_000
_WOULD_BLOCK: Final = (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOTSUP)

_CACHESTAT: Final = 451  # the system call's number, the same on every machine; Linux 6.5


class _Range(ctypes.Structure):
    _fields_ = (("position", ctypes.c_uint64), ("size_bytes", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    """Pages: in the cache, of these changed, of these being written; thrown out, and thrown out lately."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently"))


class PageCache:
    """Asks the kernel by cachestat(2), or where that is not to be had, by reading samples without waiting."""

    def __init__(self, *, counts: bool = True) -> None:
        self._can_count = counts
        self._syscall = ctypes.PyDLL(None, use_errno=True).syscall  # PyDLL: too short to let other threads run
        self._range = _Range()
        self._counts = _Counts()
        self._arguments = (
            ctypes.c_long(_CACHESTAT),
            ctypes.c_uint(0),
            ctypes.byref(self._range),
            ctypes.byref(self._counts),
            ctypes.c_uint(0),
        )
        self._probe = bytearray(1)

    def has(self, fd: int, position: int, size_bytes: int) -> bool | None:
        """Whether all of it is there, by samples: whether it probably is. None: there is no way to tell.

        Raises OSError.
        """
        if self._can_count:
            self._range.position, self._range.size_bytes = position, size_bytes
            number, _, *rest = self._arguments
            if self._syscall(number, fd, *rest) == 0:
                pages = (position + size_bytes - 1) // _PAGE_BYTES - position // _PAGE_BYTES + 1
                return bool(self._counts.cached >= pages)
            if ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
                self._can_count = False  # an old kernel, or a sandbox that does not know the call
        return self._has_samples(fd, position, size_bytes)

    def _has_samples(self, fd: int, position: int, size_bytes: int) -> bool | None:
        last = position + size_bytes - 1
        try:
            for sample in (*range(position, last, _SAMPLE_BYTES), last):
                os.preadv(fd, [self._probe], sample, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _WOULD_BLOCK:
                raise
            return False if error.errno == errno.EAGAIN else None
        return True


class CachedFiles:
    """As PageCache, for readers that go through a file: looks ahead, and asks about a stretch once a second at most."""

    def __init__(self) -> None:
        self._cache = PageCache()
        self._seen: WeakKeyDictionary[File, tuple[int, int, int]] = WeakKeyDictionary()  # from, to, valid until

    def has(self, file: File, position: int, size_bytes: int, file_bytes: int, now_ms: int) -> bool | None:
        """As PageCache.has. `file_bytes`: where the file ends. Raises OSError."""
        seen = self._seen.get(file)
        if seen is not None and seen[0] <= position and position + size_bytes <= seen[1] and now_ms < seen[2]:
            return True
        ahead = min(file_bytes - position, _AHEAD_BYTES)
        if ahead > size_bytes and self._cache.has(file.fd, position, ahead):
            self._seen[file] = (position, position + ahead, now_ms + _SEEN_MS)
            return True
        return self._cache.has(file.fd, position, size_bytes)
