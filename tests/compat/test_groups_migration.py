"""confluent-kafka's consumers move a running group from the classic protocol to KIP-848 and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbroker.testing import Broker

pytestmark = pytest.mark.slow

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")

from .group_members import GROUP_SETTINGS, shares  # noqa: E402
from .test_confluent_kafka import admin_of, create  # noqa: E402
from .test_groups_confluent import committed, fill, members  # noqa: E402

DEADLINE_S = 30
PARTITIONS = 6


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(GROUP_SETTINGS, workers=2, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


def type_of(broker: Broker, group: str) -> str:
    client = admin_of(broker)
    found = client.list_consumer_groups(request_timeout=DEADLINE_S).result(DEADLINE_S)
    return str(next(each.type.name for each in found.valid if each.group_id == group))


@pytest.mark.parametrize("protocol", ["range", "cooperative-sticky"])
def test_there_and_back(broker: Broker, topic: str, protocol: str) -> None:
    create(broker, topic, PARTITIONS)
    fill(broker, topic, PARTITIONS, 20)
    with members(broker) as join:
        old = join(topic, topic, protocol, commits=True)
        broker.wait_until(lambda: len(old.seen) == PARTITIONS * 20, DEADLINE_S)
        assert type_of(broker, topic) == "CLASSIC"
        new = join(topic, topic, "consumer", commits=True)
        broker.wait_until(lambda: shares([old, new], PARTITIONS), DEADLINE_S)
        assert len(new.owned) == PARTITIONS / 2
        assert type_of(broker, topic) == "CONSUMER"
        if protocol == "cooperative-sticky":
            assert set(old.revoked) == new.owned, "what stays where it is is not taken away"
        fill(broker, topic, PARTITIONS, 20)
        broker.wait_until(lambda: len({*old.seen, *new.seen}) >= PARTITIONS * 20, DEADLINE_S)
        new.close()
        broker.wait_until(lambda: old.owned == set(range(PARTITIONS)), DEADLINE_S)
        assert type_of(broker, topic) == "CLASSIC"
        fill(broker, topic, PARTITIONS, 20)
        everything = {(partition, offset) for partition in range(PARTITIONS) for offset in range(60)}
        broker.wait_until(lambda: {*old.seen, *new.seen} == everything, DEADLINE_S)
        ends = dict.fromkeys(range(PARTITIONS), 60)
        broker.wait_until(lambda: committed(broker, topic, topic, PARTITIONS) == ends, DEADLINE_S)
        assert not old.errors
