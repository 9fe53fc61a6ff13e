"""fdatasync by the kernel's own asynchronous I/O (io_submit(2)): it is begun here, and an eventfd tells of its end.

No thread of ours sleeps in it, and none competes with the loop for Python's lock when it has ended. The calls are made
through ctypes; they never wait. io_uring would do as well, but many sandboxes forbid it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final

from kbroker.log.storage import File

# The numbers of io_setup, io_destroy, io_getevents and io_submit.
_CALLS: Final = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
_FDATASYNC: Final = 3  # IOCB_CMD_FDSYNC
_TELL_EVENT_FD: Final = 1  # IOCB_FLAG_RESFD


class _Order(ctypes.Structure):
    """struct iocb of linux/aio_abi.h, little-endian."""

    _fields_ = (
        ("key", ctypes.c_uint64),  # handed back with the outcome
        ("_kernel_key", ctypes.c_uint32),
        ("_rw_flags", ctypes.c_uint32),
        ("command", ctypes.c_uint16),
        ("_priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("_buffer", ctypes.c_uint64),
        ("_size_bytes", ctypes.c_uint64),
        ("_position", ctypes.c_int64),
        ("_reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_fd", ctypes.c_uint32),
    )


class _Outcome(ctypes.Structure):
    """struct io_event of linux/aio_abi.h."""

    _fields_ = (
        ("key", ctypes.c_uint64),
        ("_order", ctypes.c_uint64),
        ("result", ctypes.c_int64),  # 0, or -errno
        ("_result2", ctypes.c_int64),
    )


assert ctypes.sizeof(_Order) == 64
assert ctypes.sizeof(_Outcome) == 32


class KernelSync:
    """Up to `in_flight_max` syncs at a time. Of one thread only."""

    def __init__(self, in_flight_max: int) -> None:
        """Raises OSError where there is none to be had: another machine, a sandbox, fs.aio-max-nr used up."""
        calls = _CALLS.get(platform.machine())
        if calls is None or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        setup, self._destroy, getevents, submit = map(ctypes.c_long, calls)
        self._syscall = ctypes.PyDLL(None, use_errno=True).syscall  # PyDLL: too short to let other threads run
        self._context = ctypes.c_ulong(0)
        if self._syscall(setup, ctypes.c_long(in_flight_max), ctypes.byref(self._context)) < 0:
            raise _last_error()
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when `outcomes` has something to say."""
        self._in_flight = 0
        self._in_flight_max = in_flight_max  # the kernel rounds it up: then one look would not bring all outcomes
        # The kernel copies an order when it is given, so one does for all. Arguments are made once: it is the hot path.
        self._order = _Order(command=_FDATASYNC, flags=_TELL_EVENT_FD, event_fd=self.event_fd)
        orders = (ctypes.c_void_p * 1)(ctypes.addressof(self._order))
        self._submit = (submit, self._context, ctypes.c_long(1), orders)
        self._outcomes = (_Outcome * in_flight_max)()
        self._getevents = (
            getevents, self._context, ctypes.c_long(0), ctypes.c_long(in_flight_max), self._outcomes, None
        )  # fmt: skip

    def begin(self, file: File, key: int) -> None:
        """Begin to sync the data of `file`, which must stay open until `outcomes` has named `key`.

        Raises OSError when it was not begun: as many as may be are in flight, or the file system cannot do it so.
        """
        if self._in_flight == self._in_flight_max:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        order = self._order
        order.key = key
        order.fd = file.fd & 0xFFFFFFFF  # a closed file's -1 is EBADF
        if self._syscall(*self._submit) != 1:
            raise _last_error()
        self._in_flight += 1

    def outcomes(self) -> list[tuple[int, OSError | None]]:
        """What has ended since it was last asked: the keys, and the errors of those that failed. None need have.

        To be called when `event_fd` is readable.
        """
        os.eventfd_read(self.event_fd)
        count = self._syscall(*self._getevents)
        if count < 0:
            raise _last_error()
        self._in_flight -= count
        ended = self._outcomes[:count]
        return [(one.key, OSError(-one.result, os.strerror(-one.result)) if one.result else None) for one in ended]

    def close(self) -> None:
        """Wait for what is in flight, and free the context."""
        self._syscall(self._destroy, self._context)
        os.close(self.event_fd)


def _last_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
