"""ConsumerGroupHeartbeat as an event, OffsetCommit's versions."""

from __future__ import annotations

import pytest

from kbroker.kafka import codec, consumer_groups, offsets
from kbroker.kafka.apis import ApiKey

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))


def test_what_a_member_owns_may_be_written_in_pieces() -> None:
    types = codec.request_types(ApiKey.CONSUMER_GROUP_HEARTBEAT)
    places = [(A, [0, 1]), (B, []), (A, [1, 2]), (C, [5])]
    request = types.ConsumerGroupHeartbeatRequest(
        group_id="g",
        member_id="m",
        member_epoch=1,
        topic_partitions=[types.TopicPartitions(topic_id=topic, partitions=numbers) for topic, numbers in places],
    )
    event = consumer_groups.heartbeat(request, 1, "c", "127.0.0.1", "fresh", None)
    assert event.owned == {A: frozenset({0, 1, 2}), C: frozenset({5})}


@pytest.mark.parametrize(("version", "knows"), [(8, False), (9, True)])
def test_which_commits_know_member_epochs(version: int, knows: bool) -> None:
    request = codec.request_types(ApiKey.OFFSET_COMMIT).OffsetCommitRequest(group_id="g", topics=[])
    assert offsets.commit(request, version, lambda _: None, None).knows_member_epochs is knows
