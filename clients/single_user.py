"""Keeps a second thread out of a client that is for one at a time, with an error that says so."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from kbroker.clients.fork_guard import ForkGuard
from kbroker.errors import ConcurrentAccess


class SingleUser:
    """The thread that is in a client may enter again (a listener that seeks); another one gets the error at once."""

    __slots__ = ("_client", "_guard", "_lock")

    def __init__(self, client: str, guard: ForkGuard) -> None:
        self._client = client
        self._guard = guard
        self._lock = threading.RLock()

    def enter(self) -> None:
        """This thread is in the client until `leave`. Raises ConcurrentAccess while another is; ForkedClient."""
        if self._guard.forked:
            self._guard.check(self._client)
        if not self._lock.acquire(blocking=False):
            raise ConcurrentAccess(
                f"{self._client.capitalize()} is not safe for multi-threaded access: thread "
                f"{threading.current_thread().name!r} came while another one was in it; give each one its own"
            )

    def leave(self) -> None:
        """The end of `enter`."""
        self._lock.release()


class HasSingleUser(Protocol):
    """A client."""

    @property
    def _cluster(self) -> Any: ...


C = TypeVar("C", bound=HasSingleUser)
P = ParamSpec("P")
T = TypeVar("T")


def exclusive(method: Callable[Concatenate[C, P], T]) -> Callable[Concatenate[C, P], T]:
    """A method of a client that does not wait, for one thread at a time."""

    @functools.wraps(method)
    def guarded(self: C, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._cluster.user.enter()
        try:
            return method(self, *args, **kwargs)
        finally:
            self._cluster.user.leave()

    return guarded
