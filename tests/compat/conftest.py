"""A broker for real clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbroker.testing import Broker


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """One for all tests of a module; each uses topics of its own."""
    with Broker(workers=2) as running:
        yield running


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic's name that no other test uses."""
    return "".join(c if c.isalnum() else "." for c in request.node.name).strip(".")
