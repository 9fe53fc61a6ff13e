"""DescribeTopicPartitions: as Metadata, in pages."""

from __future__ import annotations

from typing import Any, Final

from kbroker.errors import InvalidRequest, UnknownTopicOrPartition
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.authorized_operations import ON_TOPIC
from kbroker.kafka.cluster import Cluster
from kbroker.types import INTERNAL_TOPICS

PARTITIONS_MAX: Final = 2000


def answer(request: Any, cluster: Cluster) -> Any:
    """The answer: topics in the order of their names, from the cursor on, and where to go on."""
    types = codec.response_types(ApiKey.DESCRIBE_TOPIC_PARTITIONS)
    names = sorted({topic.name for topic in request.topics} or cluster.topics)
    left = max(1, min(request.response_partition_limit, PARTITIONS_MAX))
    cursor = request.cursor
    topics: list[Any] = []
    if cursor is not None and (cursor.partition_index < 0 or (request.topics and cursor.topic_name not in names)):
        asked = dict.fromkeys(topic.name for topic in request.topics)
        refused = [
            types.DescribeTopicPartitionsResponseTopic(error_code=InvalidRequest.code, name=name) for name in asked
        ]
        return types.DescribeTopicPartitionsResponse(topics=refused)
    for name in names:
        start = 0
        if cursor is not None:
            if name < cursor.topic_name:
                continue
            start = cursor.partition_index if name == cursor.topic_name else 0
        if not left:
            return types.DescribeTopicPartitionsResponse(topics=topics, next_cursor=_cursor(types, name, start))
        known = cluster.topics.get(name)
        if known is None:
            code = UnknownTopicOrPartition.code
            topics.append(
                types.DescribeTopicPartitionsResponseTopic(
                    error_code=code, name=name, topic_authorized_operations=ON_TOPIC
                )
            )
            continue
        shown = known.partitions[start : start + left]
        partitions = [
            types.DescribeTopicPartitionsResponsePartition(
                partition_index=item.partition,
                leader_id=item.leader,
                leader_epoch=cluster.epoch_of(name, item.partition, item.leader_epoch),
                replica_nodes=[item.leader],
                isr_nodes=[item.leader],
                eligible_leader_replicas=[],
                last_known_elr=[],
            )
            for item in shown
        ]
        topics.append(
            types.DescribeTopicPartitionsResponseTopic(
                name=name,
                topic_id=known.topic_id,
                is_internal=name in INTERNAL_TOPICS,
                partitions=partitions,
                topic_authorized_operations=ON_TOPIC,
            )
        )
        left -= len(shown)
        if start + len(shown) < len(known.partitions):
            following = _cursor(types, name, start + len(shown))
            return types.DescribeTopicPartitionsResponse(topics=topics, next_cursor=following)
    return types.DescribeTopicPartitionsResponse(topics=topics)


def _cursor(types: Any, name: str, index: int) -> Any:
    return types.Cursor(topic_name=name, partition_index=index)
