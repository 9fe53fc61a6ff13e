"""Produce answers without errors are written by hand: byte for byte what the compiled writer makes."""

from __future__ import annotations

import pytest

from kbroker.kafka import codec, produce
from kbroker.kafka.apis import BY_KEY, ApiKey
from kbroker.kafka.cluster import Cluster

from .test_produce_request import usual

NO_CLUSTER = Cluster("", [], {}, lambda _id: None, lambda _topic, _index, epoch: epoch)
PRODUCE = BY_KEY[ApiKey.PRODUCE]


@pytest.mark.parametrize("version", range(PRODUCE.min_version, PRODUCE.max_version + 1))
@pytest.mark.parametrize("partitions", [[], [[]], [[0]], [[0, 1, 200], [7]]])
def test_it_is_what_the_writer_makes(version: int, partitions: list[list[int]]) -> None:
    request = produce.read(version, memoryview(usual(version, partitions, b"")))
    count = sum(map(len, partitions))
    outcomes = [produce.Outcome(0, None, 1 << 40, -1 if number % 2 else 1234, number) for number in range(count)]
    generic = codec.write_response(ApiKey.PRODUCE, version, 9, produce.answer(request, outcomes, lambda: NO_CLUSTER))
    assert produce.encode_success(version, 9, request, outcomes) == b"".join(generic)
    usual_one = produce.read_one(version, memoryview(usual(version, partitions, b"records")))
    if version >= produce.FLEXIBLE and partitions == [[0]]:
        assert usual_one is not None
        assert usual_one[0].answer(9, *outcomes[0][2:5]) == b"".join(generic)
    else:
        assert usual_one is None
