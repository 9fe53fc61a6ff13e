"""confluent-kafka's administration of groups of both kinds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbroker.testing import Broker

pytestmark = pytest.mark.slow

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")

from .group_members import GROUP_SETTINGS  # noqa: E402
from .test_confluent_kafka import admin_of, create  # noqa: E402
from .test_groups_confluent import DEADLINE_S, fill, members  # noqa: E402


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(GROUP_SETTINGS, workers=2, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


@pytest.mark.parametrize("protocol", ["range", "consumer"])
def test_groups_are_administered(broker: Broker, topic: str, protocol: str) -> None:
    state, kind = confluent_kafka.ConsumerGroupState, confluent_kafka.ConsumerGroupType
    client = admin_of(broker)
    create(broker, topic, 3)
    fill(broker, topic, 3, 10)

    def listed(**filters: object) -> dict[str, object]:
        found = client.list_consumer_groups(**filters).result(DEADLINE_S)
        assert not found.errors
        return {group.group_id: group for group in found.valid}

    with members(broker) as join:
        member = join(topic, topic, protocol, commits=True)
        broker.wait_until(lambda: member.committed == {0: 10, 1: 10, 2: 10}, DEADLINE_S)
        assert topic in listed(states={state.STABLE})
        assert topic not in listed(states={state.EMPTY})
        mine = kind.CONSUMER if protocol == "consumer" else kind.CLASSIC
        other = kind.CLASSIC if protocol == "consumer" else kind.CONSUMER
        assert topic in listed(types={mine})
        assert topic not in listed(types={other})
        described = client.describe_consumer_groups([topic])[topic].result(DEADLINE_S)
        assert (described.state, described.type) == (state.STABLE, mine)
        (who,) = described.members
        assert sorted(place.partition for place in who.assignment.topic_partitions) == [0, 1, 2]
        assert who.host == "/127.0.0.1"
        with pytest.raises(confluent_kafka.KafkaException, match="NON_EMPTY_GROUP"):
            client.delete_consumer_groups([topic])[topic].result(DEADLINE_S)
    broker.wait_until(lambda: topic in listed(states={state.EMPTY}), DEADLINE_S)

    place = confluent_kafka.TopicPartition
    asked = confluent_kafka.ConsumerGroupTopicPartitions
    moved = asked(topic, [place(topic, 0, 3), place(topic, 1, 0)])
    client.alter_consumer_group_offsets([moved])[topic].result(DEADLINE_S)
    found = client.list_consumer_group_offsets([asked(topic)])[topic].result(DEADLINE_S)
    assert {item.partition: item.offset for item in found.topic_partitions} == {0: 3, 1: 0, 2: 10}
    client.delete_consumer_groups([topic])[topic].result(DEADLINE_S)
    assert topic not in listed()
    with pytest.raises(confluent_kafka.KafkaException, match="GROUP_ID_NOT_FOUND"):
        client.delete_consumer_groups([topic])[topic].result(DEADLINE_S)


def test_a_group_that_is_not_there_is_dead(broker: Broker) -> None:
    client = admin_of(broker)
    for described in client.describe_consumer_groups(["nobody", "nobody else"]).values():
        assert described.result(DEADLINE_S).state == confluent_kafka.ConsumerGroupState.DEAD
