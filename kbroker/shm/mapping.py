"""mmap(2) and madvise(2) through ctypes: Python's mmap refuses a length past the end of the file, the kernel does not.

A page past the end, or one that a failing disk cannot bring, kills the process (SIGBUS) when it is touched. So nothing
is touched that `populate` has not just brought in: it reports instead.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_munmap = _libc.munmap
_munmap.restype = ctypes.c_int
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_madvise = _libc.madvise
_madvise.restype = ctypes.c_int
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_MAP_SHARED: Final = mmap.MAP_SHARED
_MADV_POPULATE_READ: Final = 22  # Linux 5.14

PAGE_BYTES: Final = mmap.PAGESIZE
_PAGE_MASK: Final = ~(PAGE_BYTES - 1)


class Mapping:
    """`size_bytes` of a file, shared, from its start; they may reach past its end. Unmapped by `close()`.

    Raises OSError (ENOMEM when the process has no address space left). No view may be used after `close()`: whoever
    takes `view` gives it up before.
    """

    __slots__ = ("address", "size_bytes", "view")

    def __init__(self, fd: int, size_bytes: int, *, writable: bool = False) -> None:
        self.address = 0
        protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        address = _mmap(None, size_bytes, protection, _MAP_SHARED, fd, 0)
        if address is None or address == _MAP_FAILED:
            number = ctypes.get_errno()
            raise OSError(number, f"mmap: {os.strerror(number)}")
        self.address = int(address)
        self.size_bytes = size_bytes
        raw = memoryview((ctypes.c_char * size_bytes).from_address(self.address)).cast("B")
        self.view = raw if writable else raw.toreadonly()

    def populate(self, position: int, size_bytes: int) -> bool:
        """Bring the pages of a stretch in, from the disk if need be. False: they cannot be had, or cannot be asked for.

        After True the stretch may be read at once.
        """
        start = (self.address + position) & _PAGE_MASK
        if _madvise(start, self.address + position + size_bytes - start, _MADV_POPULATE_READ) == 0:
            return True
        return ctypes.get_errno() == errno.EINTR and self.populate(position, size_bytes)

    def close(self) -> None:
        """Unmap. A second call does nothing."""
        if self.address:
            self.view.release()
            address, self.address = self.address, 0
            _munmap(address, self.size_bytes)

    def __del__(self) -> None:
        if getattr(self, "address", 0):
            self.close()


def can_populate() -> bool:
    """Whether this kernel knows MADV_POPULATE_READ (Linux 5.14). Without it every read goes through pread(2)."""
    with mmap.mmap(-1, PAGE_BYTES) as page:
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return bool(_madvise(address, PAGE_BYTES, _MADV_POPULATE_READ) == 0)
