"""How asyncio goes through steps (see clients/steps.py): it sleeps on a Cluster's descriptors without blocking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, Protocol

from kbroker.clients.cluster import Cluster
from kbroker.clients.steps import P, S, Steps, T
from kbroker.errors import ClientClosed


class Sleeper:
    """Several tasks may sleep on one cluster: all wake when something comes, and each looks whether it is for it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._asleep: set[asyncio.Future[None]] = set()
        self._watched_fd = -1

    async def run(self, steps: Steps[T]) -> T:
        """Go through the steps. Cancelled, they end where they are, and what they hold is let go of.

        Raises ClientClosed when another task closes the client meanwhile, ConcurrentAccess in another thread.
        """
        cluster = self._cluster
        try:
            while True:
                cluster.user.enter()
                try:
                    sleep_ms = next(steps)
                except StopIteration as done:
                    outcome: T = done.value
                    return outcome
                finally:
                    cluster.user.leave()
                await self._sleep(sleep_ms)
                if cluster.closed:
                    raise ClientClosed(f"this {cluster.client} was closed")
        finally:
            steps.close()
            if cluster.closed:
                self._wake()

    async def _sleep(self, sleep_ms: int) -> None:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        if not self._asleep:
            # Watched only while somebody sleeps: what nobody takes would keep the event loop busy.
            self._watched_fd = self._cluster.fd
            loop.add_reader(self._watched_fd, self._wake)
        self._asleep.add(woken)
        timer = loop.call_later(sleep_ms / 1000, _set, woken)
        try:
            await woken
        finally:
            timer.cancel()
            self._asleep.discard(woken)
            if not self._asleep:
                loop.remove_reader(self._watched_fd)  # also when it was closed meanwhile: asyncio keeps its number
        if not self._cluster.closed:
            self._cluster.wait(0)

    def _wake(self) -> None:
        for woken in self._asleep:
            _set(woken)


def _set(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


class Awaits(Protocol):
    """Whoever goes through the steps of an object that it holds, without blocking."""

    @property
    def steps(self) -> Any: ...

    async def run(self, steps: Steps[T]) -> T: ...


def awaiting(
    method: Callable[Concatenate[S, P], Steps[T]],
) -> Callable[Concatenate[Awaits, P], Coroutine[Any, Any, T]]:
    """The coroutine method of `Awaits` that goes through these steps."""

    @wraps(method)
    async def wait(self: Awaits, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.run(method(self.steps, *args, **kwargs))

    return wait
