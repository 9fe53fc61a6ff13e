"""Brokers and raw clients for the tests of the processes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from kbroker.testing import Broker

from .kafka_client import KafkaClient
from .raw_client import RawClient


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """One broker of two workers for the tests of a module; each makes topics of its own."""
    with Broker(workers=2, tcp=True) as running:
        yield running


@pytest.fixture
def client(broker: Broker) -> Iterator[RawClient]:
    """A raw client at the front."""
    with RawClient(broker.server) as dialled:
        yield dialled


@pytest.fixture
def worker(broker: Broker) -> Iterator[KafkaClient]:
    """A Kafka client of worker 0, where the broker listens for them."""
    with KafkaClient(broker, 1) as found:
        found.metadata()
        yield found


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic name of the test's own."""
    return re.sub(r"[^a-zA-Z0-9._-]", "-", str(request.node.name))[:200]
