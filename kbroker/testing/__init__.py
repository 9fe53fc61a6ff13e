"""A real broker for tests: its own processes, free ports, a temporary folder; up in under a second.

    from kbroker.testing import Broker

    with Broker(workers=2) as broker:
        producer = kbroker.Producer(broker.server)

With pytest, the fixture `kbroker` gives one to a test (`pytest_plugin`; installed with kbroker, nothing to import).
"""

from __future__ import annotations

from kbroker.testing.broker import Broker, BrokerFailed

__all__ = ["Broker", "BrokerFailed"]
