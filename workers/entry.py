"""From fork to a child's main function, and from there to its end."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from setproctitle import setproctitle

from kbroker.errors import ConfigError, StartError
from kbroker.workers.child import ChildContext
from kbroker.workers.logs import start_logging
from kbroker.workers.malloc import keep_freed_memory

log = logging.getLogger(__name__)

Main = Callable[[ChildContext], None]

EXIT_FAILED = 70
"""An exception left the main function (sysexits: EX_SOFTWARE)."""
EXIT_REFUSED = 78
"""A StartError or ConfigError did: it cannot serve here (EX_CONFIG)."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def run_child(
    main: Main, make_context: Callable[[], ChildContext], kept_fds: Iterable[int], supervisor_pid: int
) -> NoReturn:
    """Become a child: die with the supervisor, keep only `kept_fds` and standard output, run `main`, exit.

    Call it in the forked process, with signals blocked. Never returns, whatever happens: the stack above belongs to the
    supervisor, and its objects must be neither used nor freed, for their descriptors are closed here.
    """
    code = EXIT_FAILED
    try:
        gc.freeze()
        _die_with(supervisor_pid)
        signal.set_wakeup_fd(-1)
        _close_all_but(kept_fds)
        context = make_context()
        context.take_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        setproctitle(f"kbroker: {context.title}")
        start_logging(context.title)
        keep_freed_memory()
        seed_routing_ids()
        code = _run(main, context)
    except BaseException:
        log.critical("cannot start", exc_info=True)
    finally:
        _flush_standard_streams()
        os._exit(code)


def _run(main: Main, context: ChildContext) -> int:
    try:
        main(context)
    except (StartError, ConfigError) as error:
        context.refuse(str(error))
        return EXIT_REFUSED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        log.critical("failed", exc_info=True)
        return EXIT_FAILED
    return 0


def _die_with(supervisor_pid: int) -> None:
    if _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *(ctypes.c_ulong(0),) * 3) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The supervisor may have died before the call above.
    if os.getppid() != supervisor_pid:
        os._exit(1)


def seed_routing_ids() -> None:
    """Make what libzmq numbers a ROUTER's peers from unpredictable: call it before the process's first socket.

    libzmq begins with two numbers of libc's rand(), which it does not seed, so that they are the same in every process.
    A peer that names itself by the number that comes next would end the process when the next client connects.
    """
    _libc.srand(ctypes.c_uint(int.from_bytes(os.urandom(4), "little")))


def _close_all_but(kept_fds: Iterable[int]) -> None:
    null_fd = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null_fd, 0)
    first = 3
    for fd in sorted(kept_fds):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, 1 << 30)


def _flush_standard_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
