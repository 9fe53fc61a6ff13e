"""The pytest fixture `kbroker_broker`: a broker for one test. Installed with kbroker; nothing to import."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbroker.testing.broker import Broker


@pytest.fixture
def kbroker_broker() -> Iterator[Broker]:
    """A running broker with one worker, reachable at `.server` (this host) and `.tcp_server` (tcp)."""
    with Broker(tcp=True) as broker:
        yield broker
