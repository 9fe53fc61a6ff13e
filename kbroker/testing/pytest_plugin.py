"""The pytest fixture `kbroker`: a broker of its own for each test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbroker.testing.broker import Broker


@pytest.fixture(name="kbroker")
def _kbroker() -> Iterator[Broker]:
    """A broker with two workers, by ipc and by tcp, that is gone with its data after the test."""
    with Broker(workers=2, tcp=True) as broker:
        yield broker
