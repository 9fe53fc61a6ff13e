"""DescribeProducers: the idempotent producers that a partition knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey


class ActiveProducer(NamedTuple):
    """A producer's last batch in a partition; -1: nothing is known of it."""

    producer_id: int
    epoch: int
    last_sequence: int
    last_timestamp_ms: int


class Known(NamedTuple):
    """What a partition knows, or why that is not told."""

    producers: Sequence[ActiveProducer] = ()
    error_code: int = 0
    message: str | None = None


def answer(request: Any, known: Callable[[str, int], Known]) -> Any:
    """The answer, each partition looked up by `known`."""
    types = codec.response_types(ApiKey.DESCRIBE_PRODUCERS)
    topics = []
    for topic in request.topics:
        partitions = []
        for index in topic.partition_indexes:
            found = known(topic.name, index)
            producers = [
                types.ProducerState(
                    producer_id=item.producer_id,
                    producer_epoch=item.epoch,
                    last_sequence=item.last_sequence,
                    last_timestamp=item.last_timestamp_ms,
                    coordinator_epoch=-1,
                )
                for item in found.producers
            ]
            partitions.append(
                types.PartitionResponse(
                    partition_index=index,
                    error_code=found.error_code,
                    error_message=found.message,
                    active_producers=producers,
                )
            )
        topics.append(types.TopicResponse(name=topic.name, partitions=partitions))
    return types.DescribeProducersResponse(topics=topics)
