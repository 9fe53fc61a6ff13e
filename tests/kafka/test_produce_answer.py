"""Produce answers without errors are written by hand: byte for byte what the compiled writer makes."""

from __future__ import annotations

import pytest

from kbroker.kafka import codec, produce
from kbroker.kafka.apis import BY_KEY, ApiKey
from kbroker.kafka.cluster import Cluster

NO_CLUSTER = Cluster("", [], {}, lambda _id: None, lambda _topic, _index, epoch: epoch)
PRODUCE = BY_KEY[ApiKey.PRODUCE]


@pytest.mark.parametrize("version", range(PRODUCE.min_version, PRODUCE.max_version + 1))
@pytest.mark.parametrize("partitions", [[], [[]], [[0]], [[0, 1, 200], [7]]])
def test_it_is_what_the_writer_makes(version: int, partitions: list[list[int]]) -> None:
    types = codec.request_types(ApiKey.PRODUCE)
    request = types.ProduceRequest(
        acks=1,
        topic_data=[
            types.TopicProduceData(
                name=f"topic {number}",
                topic_id=bytes([number]) * 16,
                partition_data=[types.PartitionProduceData(index=index) for index in indexes],
            )
            for number, indexes in enumerate(partitions)
        ],
    )
    count = sum(map(len, partitions))
    outcomes = [produce.Outcome(0, None, 1 << 40, -1 if number % 2 else 1234, number) for number in range(count)]
    generic = codec.write_response(ApiKey.PRODUCE, version, 9, produce.answer(request, outcomes, lambda: NO_CLUSTER))
    assert produce.encode_success(version, 9, request, outcomes) == b"".join(generic)
