"""A client in a process of its own, so that its CPU time is nobody else's and its loop waits for nobody."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

PATIENCE_S = 60


class Driven:
    """Runs `client(connection, *arguments)` in a new process. It says when it is ready, and waits to be told to go on:
    `client` calls `steps.send(fact)` and `steps.recv()`, we `hear` and `go`. Use it as a context."""

    def __init__(self, client: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._steps, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, client, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._steps.close()
        self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()

    @property
    def pid(self) -> int:
        """The client's process."""
        assert self._process.pid is not None
        return self._process.pid

    def go(self, order: Any = None) -> None:
        """Let it go on."""
        self._steps.send(order)

    def hear(self) -> Any:
        """What it says next. Raises AssertionError when it says nothing for a minute, or has failed."""
        assert self._steps.poll(PATIENCE_S), "the client says nothing"
        try:
            return self._steps.recv()
        except EOFError:
            raise AssertionError("the client has failed; see above") from None


def _run(steps: Connection, client: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    with contextlib.suppress(EOFError):  # then nobody wants anything more of it
        client(steps, *arguments)
