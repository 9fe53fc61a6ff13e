"""A real broker for tests: its own processes, free ports, a temporary folder; up in under a second.

    from kbroker.testing import Broker

    with Broker() as broker:
        producer = kbroker.Producer(server=broker.server)

With pytest, the fixture `kbroker_broker` gives one to each test that asks for it (see `pytest_plugin`).
"""

from __future__ import annotations

from kbroker.testing.broker import Broker, BrokerFailed

__all__ = ["Broker", "BrokerFailed"]
