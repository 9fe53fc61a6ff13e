"""One broker for the tests of this folder that only read and write; those that break things start their own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from kbroker import Admin
from kbroker.clients.records import NewTopic
from kbroker.testing import Broker
from kbroker.testing.pytest_plugin import _kbroker as _kbroker  # the fixture, also where kbroker is not installed

_numbers = itertools.count()


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A broker with two workers that lives as long as the test run."""
    # Tests stamp records as they like: none is to be too old.
    with Broker({"log.retention.ms": -1}, workers=2, tcp=True) as running:
        yield running


@pytest.fixture
def topic(broker: Broker) -> str:
    """A new topic with one partition."""
    return make_topic(broker, 1)


def make_topic(broker: Broker, partitions: int, **settings: object) -> str:
    """A new topic of its own name; settings have _ for dots."""
    name = f"topic-{next(_numbers)}"
    with Admin(broker.server) as admin:
        admin.create_topics(
            [
                NewTopic(
                    name, partitions, topic_configs={key.replace("_", "."): value for key, value in settings.items()}
                )
            ]
        )
    return name
