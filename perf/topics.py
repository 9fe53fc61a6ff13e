"""Topics made and removed around a measurement."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

from kbroker import Admin
from kbroker.clients.records import NewTopic
from kbroker.testing import Broker

_numbers = itertools.count(1)


@contextlib.contextmanager
def topic(broker: Broker, partitions: int = 1) -> Iterator[str]:
    """A new topic, deleted afterwards so that its pages can be used again."""
    name = f"perf-{next(_numbers)}"
    with Admin(broker.server) as admin:
        admin.create_topics([NewTopic(name, partitions)])
        try:
            yield name
        finally:
            admin.delete_topics([name])
