"""Everything that each client can do, administration and groups included."""

from __future__ import annotations

import pytest

from kbroker.testing import Broker

from .tours import TOURS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("client", TOURS)
def test_a_tour(client: str) -> None:
    with Broker(workers=2) as broker:
        TOURS[client](broker, "tour")
