"""Who coordinates a group: Kafka's rule, which clients and tools rely on."""

from __future__ import annotations

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import Cluster, Node
from kbroker.kafka.coordination import coordinator_found, java_hash, offsets_partition
from kbroker.types import OFFSETS_TOPIC
from kbroker.wire.messages import PartitionInfo, TopicInfo

NODES = [Node(0, "::1", 9092), Node(1, "::1", 9093), Node(2, "::1", 9094)]


def cluster(leaders: list[int]) -> Cluster:
    info = TopicInfo(OFFSETS_TOPIC, partitions=[PartitionInfo(i, leader, 0) for i, leader in enumerate(leaders)])
    return Cluster("c", NODES, {OFFSETS_TOPIC: info}, lambda _id: None, lambda _topic, _index, epoch: epoch)


@pytest.mark.parametrize(
    ("text", "expected"),
    # Facts of the Java language: the last one overflows to its smallest number; 🙂 counts as two characters.
    [("", 0), ("a", 97), ("hello", 99162322), ("group", 98629247), ("ä", 228), ("🙂", 1772965),
     ("polygenelubricants", -(2**31))],
)  # fmt: skip
def test_javas_hash(text: str, expected: int) -> None:
    assert java_hash(text) == expected


@pytest.mark.parametrize(
    ("group", "count", "expected"),
    [("", 50, 0), ("hello", 50, 22), ("group", 50, 47), ("polygenelubricants", 50, 0), ("console-consumer", 1, 0)],
)
def test_the_partition_of_a_group(group: str, count: int, expected: int) -> None:
    assert offsets_partition(group, count) == expected


@pytest.mark.parametrize("version", range(7))
def test_the_leader_of_a_groups_partition_coordinates_it(version: int) -> None:
    types = codec.request_types(ApiKey.FIND_COORDINATOR)
    request = types.FindCoordinatorRequest(key="b", key_type=0, coordinator_keys=["a", "b", "c"])  # 97, 98, 99
    answer = coordinator_found(request, version, cluster([0, 2]))
    if version >= 4:
        found = [(item.key, item.node_id, item.port, item.error_code) for item in answer.coordinators]
        assert found == [("a", 2, 9094, 0), ("b", 0, 9092, 0), ("c", 2, 9094, 0)]
    else:
        assert (answer.node_id, answer.host, answer.port, answer.error_code) == (0, "::1", 9092, 0)
    codec.write_response(ApiKey.FIND_COORDINATOR, version, 1, answer)


@pytest.mark.parametrize(
    ("key_type", "leaders", "codes"),
    [(0, [], (15, 15)), (0, [7], (15, 15)), (1, [0], (53, 31)), (2, [0], (42, 42)), (9, [0], (42, 42))],
)
def test_when_there_is_none(key_type: int, leaders: list[int], codes: tuple[int, int]) -> None:
    types = codec.request_types(ApiKey.FIND_COORDINATOR)
    request = types.FindCoordinatorRequest(key="g", key_type=key_type, coordinator_keys=["g"])
    old, new = (coordinator_found(request, version, cluster(leaders)) for version in (1, 4))
    assert (old.error_code, old.node_id, bool(old.error_message)) == (codes[0], -1, True)
    assert (new.coordinators[0].error_code, new.coordinators[0].node_id) == (codes[1], -1)
