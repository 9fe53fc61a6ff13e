"""Tells a client that it was made before fork() and is used in the child, at the price of one comparison.

ZeroMQ sockets and threads do not survive a fork; a child that used its parent's would steal the parent's answers.
"""

from __future__ import annotations

import os

from kbroker.errors import ForkedClient


class _Process:
    generation = 0


def _in_child() -> None:
    _Process.generation += 1


os.register_at_fork(after_in_child=_in_child)


class ForkGuard:
    """Remembers the process it was made in."""

    __slots__ = ("_generation",)

    def __init__(self) -> None:
        self._generation = _Process.generation

    @property
    def forked(self) -> bool:
        """True in a child that was forked after this was made."""
        return self._generation != _Process.generation

    def check(self, what: str) -> None:
        """Raises ForkedClient in a child."""
        if self._generation != _Process.generation:
            raise ForkedClient(f"this {what} was made before fork() and belongs to the parent; make a new one here")
