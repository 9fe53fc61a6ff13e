"""The topics as the coordinator tells Kafka clients of them."""

from __future__ import annotations

import pytest

from kbroker.catalog.catalog import Catalog
from kbroker.workers import kafka_coordinator


def test_to_ask_for_a_name_does_not_describe_the_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Metadata request may name a topic of thousands of partitions thousands of times."""
    monkeypatch.setattr(kafka_coordinator, "topic_info", None)
    catalog = Catalog([1], 10, 10)
    catalog.topics["t"] = object()  # type: ignore[assignment]
    internal = {"__consumer_offsets": object()}
    topics = kafka_coordinator._Topics(catalog, internal)  # type: ignore[arg-type]
    assert "t" in topics
    assert "__consumer_offsets" in topics
    assert "u" not in topics
