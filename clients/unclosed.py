"""Clients that nobody closed: a ResourceWarning when they are collected, and a last chance at the interpreter's end."""

from __future__ import annotations

import atexit
import time
import warnings
import weakref
from typing import Protocol

EXIT_S = 5.0
"""All clients together may take so long at the interpreter's end to send what is left, and to leave their groups."""


class Closable(Protocol):
    """A client, as the interpreter's end sees it."""

    def _end_at_exit(self, deadline_s: float) -> None:
        """Begin the end; wait until `deadline_s` (time.monotonic) at most."""
        ...

    def _ended_at_exit(self, deadline_s: float) -> None:
        """See the end, likewise: the others have begun theirs meanwhile."""
        ...


_open: dict[int, weakref.ref[Closable]] = {}


def opened(client: Closable) -> None:
    """From now on `client` must be closed."""
    _open[id(client)] = weakref.ref(client)


def closed(client: object) -> None:
    """It was closed, or is being collected."""
    _open.pop(id(client), None)


def warn(what: str, consequence: str) -> None:
    """The ResourceWarning (shown by `python -X dev` or `-W default`); for finalizers, when all else is done.

    It does not hold the client as its `source`: who keeps warnings would keep all that it has in memory.
    """
    text = f"{what} was not closed: {consequence}; call close(), or use it in a `with` block"
    warnings.warn(text, ResourceWarning, stacklevel=4)


def _end() -> None:
    deadline_s = time.monotonic() + EXIT_S
    clients = [client for reference in list(_open.values()) if (client := reference()) is not None]
    for client in clients:
        client._end_at_exit(deadline_s)
    for client in clients:
        client._ended_at_exit(deadline_s)


atexit.register(_end)
