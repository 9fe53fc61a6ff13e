"""Metadata: the nodes, and who leads which partition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kbroker.errors import LeaderNotAvailable, UnknownTopicId, UnknownTopicOrPartition
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import CONTROLLER, Cluster, TopicFacts
from kbroker.types import INTERNAL_TOPICS

_ALWAYS_CREATES = 4
"""Before this version a request cannot say whether missing topics may be created: they may."""
_NO_ID = bytes(16)


def missing(request: Any, version: int, topics: Mapping[str, TopicFacts]) -> list[str]:
    """The topics that are asked for by name, are not there, and may be created for it."""
    if not request.topics or not (version < _ALWAYS_CREATES or request.allow_auto_topic_creation):
        return []
    return [name for name in dict.fromkeys(asked.name for asked in request.topics) if name and name not in topics]


def answer(request: Any, version: int, cluster: Cluster, refused: Mapping[str, int] | None = None) -> Any:
    """What is known of the topics asked for. `refused`: error codes of those that could not be created."""
    types = codec.response_types(ApiKey.METADATA)
    asked = request.topics
    everything = asked is None or (version == 0 and not asked)
    found = (
        [_topic(types, topic, cluster) for topic in cluster.topics.values()]
        if everything
        else [_asked(types, item, cluster, refused or {}) for item in asked]
    )
    return types.MetadataResponse(
        brokers=[types.MetadataResponseBroker(node.node_id, node.host, node.port) for node in cluster.nodes],
        cluster_id=cluster.cluster_id,
        controller_id=CONTROLLER,
        topics=found,
    )


def _asked(types: Any, item: Any, cluster: Cluster, refused: Mapping[str, int]) -> Any:
    name = item.name
    if not name and item.topic_id != _NO_ID:
        name = cluster.name_of(item.topic_id)
        if name is None:
            return types.MetadataResponseTopic(error_code=UnknownTopicId.code, name=None, topic_id=item.topic_id)
    topic = cluster.topics.get(name)
    if topic is None:
        code = refused.get(name, UnknownTopicOrPartition.code)
        return types.MetadataResponseTopic(error_code=code, name=name)
    return _topic(types, topic, cluster)


def _topic(types: Any, topic: TopicFacts, cluster: Cluster) -> Any:
    nodes = {node.node_id for node in cluster.nodes}
    partitions = []
    for known in topic.partitions:
        leader = known.leader
        partitions.append(
            types.MetadataResponsePartition(
                error_code=0 if leader in nodes else LeaderNotAvailable.code,
                partition_index=known.partition,
                leader_id=leader if leader in nodes else -1,
                leader_epoch=cluster.epoch_of(topic.name, known.partition, known.leader_epoch),
                replica_nodes=[leader],
                isr_nodes=[leader],
            )
        )
    return types.MetadataResponseTopic(
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.name in INTERNAL_TOPICS,
        partitions=partitions,
    )
