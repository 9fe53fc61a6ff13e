"""Tells a client that it was made before fork() and is used in the child, at the price of a look.

ZeroMQ sockets and threads do not survive a fork; a child that used its parent's would steal the parent's answers.
"""

from __future__ import annotations

import os
import weakref

from kbroker.errors import ForkedClient

_guards: weakref.WeakSet[ForkGuard] = weakref.WeakSet()


def _in_child() -> None:
    for guard in _guards:
        guard.forked = True


os.register_at_fork(after_in_child=_in_child)


class ForkGuard:
    """Remembers the process it was made in. `forked`: true in a child that was forked after this was made."""

    __slots__ = ("__weakref__", "forked")

    def __init__(self) -> None:
        self.forked = False
        _guards.add(self)

    def check(self, what: str) -> None:
        """Raises ForkedClient in a child."""
        if self.forked:
            raise ForkedClient(f"this {what} was made before fork() and belongs to the parent; make a new one here")
