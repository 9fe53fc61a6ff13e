"""Work that has to wait, written once for threads and for asyncio.

Steps are a generator: it does what can be done, and yields for how many milliseconds it may sleep at most until
something comes on its Cluster's descriptors. Whoever runs it sleeps its own way, and goes on. What the generator
returns is the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
S = TypeVar("S")

Steps = Generator[int, None, T]


class Waits(Protocol):
    """Whoever goes through the steps of an object that it holds, sleeping in the caller's thread."""

    @property
    def steps(self) -> Any: ...

    def run(self, steps: Steps[T]) -> T: ...


def waiting(method: Callable[Concatenate[S, P], Steps[T]]) -> Callable[Concatenate[Waits, P], T]:
    """The method of `Waits` that goes through these steps."""

    @wraps(method)
    def wait(self: Waits, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(method(self.steps, *args, **kwargs))

    return wait
