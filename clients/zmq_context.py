"""The ZeroMQ context of this process, which all its clients share, and which is never waited for.

A context of a client's own would have to be terminated with it, and that waits until its last socket is gone: a client
that is garbage-collected would stop the interpreter. Sockets alone close without a wait (their linger is 0).
"""

from __future__ import annotations

import os
import threading
from typing import Any

import zmq

SOCKETS_MAX = 16_384
"""Of all clients of a process; a link by ZeroMQ takes three. The kernel's limit of descriptors is met before."""

_lock = threading.Lock()
_context: zmq.Context[Any] | None = None
_of_parents: list[zmq.Context[Any] | None] = []


def shared_context() -> zmq.Context[Any]:
    """The context for a new socket."""
    global _context
    with _lock:
        if _context is None:
            _context = zmq.Context(io_threads=1)
            _context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
            _context.setsockopt(zmq.LINGER, 0)
        return _context


def _in_child() -> None:
    """ZeroMQ's threads do not survive a fork: the child makes a context of its own, and leaves its parent's alone."""
    global _context, _lock
    _of_parents.append(_context)
    _context, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_in_child)
