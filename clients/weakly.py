"""Callbacks that do not keep alive whom they call."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


def weakly(method: Callable[P, object]) -> Callable[P, None]:
    """Calls a bound method for as long as its object is there, and holds that weakly: a client is freed as soon as
    nobody uses it any more, not when the garbage collector comes by."""
    reference = weakref.WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        found = reference()
        if found is not None:
            found(*args, **kwargs)

    return call
