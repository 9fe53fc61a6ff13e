"""Metadata: the nodes, and who leads which partition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kbroker.errors import LeaderNotAvailable, UnknownTopicId, UnknownTopicOrPartition
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.authorized_operations import NOT_ASKED, ON_CLUSTER, ON_TOPIC
from kbroker.kafka.cluster import CONTROLLER, Cluster, TopicFacts
from kbroker.types import INTERNAL_TOPICS

_ALWAYS_CREATES = 4
"""Before this version a request cannot say whether missing topics may be created: they may."""
_NULL_NAMES = 12
"""From this version on an answer may leave a topic without a name."""
_NO_ID = bytes(16)


def missing(request: Any, version: int, topics: Mapping[str, TopicFacts]) -> list[str]:
    """The topics that are asked for by name, are not there, and may be created for it."""
    if not request.topics or not (version < _ALWAYS_CREATES or request.allow_auto_topic_creation):
        return []
    return [name for name in dict.fromkeys(asked.name for asked in request.topics) if name and name not in topics]


def wants_all(request: Any, version: int) -> bool:
    """Whether all topics are asked for."""
    return request.topics is None or (version == 0 and not request.topics)


def asked_once(request: Any) -> list[Any]:
    """What a request names, each once."""
    return list({(item.name, item.topic_id): item for item in request.topics}.values())


def name_of(item: Any, cluster: Cluster) -> str | None:
    """The name of what a request names, by name or by id; None: nobody knows that id."""
    if item.name or item.topic_id == _NO_ID:
        return item.name or ""
    return cluster.name_of(item.topic_id)


def answer(request: Any, version: int, cluster: Cluster, refused: Mapping[str, int] | None = None) -> Any:
    """What is known of the topics asked for. `refused`: error codes of those that could not be created."""
    if wants_all(request, version):
        found = [described(cluster.topics[name], cluster) for name in sorted(cluster.topics)]
    else:
        found = [_asked(item, version, cluster, refused or {}) for item in asked_once(request)]
    for topic in found:
        topic.topic_authorized_operations = topic_operations(request)
    whole = frame_of(request, cluster)
    whole.topics = found
    return whole


def topic_operations(request: Any) -> int:
    """What the answer tells of the operations on each topic, also on those that are not there."""
    return ON_TOPIC if request.include_topic_authorized_operations else NOT_ASKED


def frame_of(request: Any, cluster: Cluster) -> Any:
    """The answer but for its topics."""
    types = codec.response_types(ApiKey.METADATA)
    return types.MetadataResponse(
        brokers=[types.MetadataResponseBroker(node.node_id, node.host, node.port) for node in cluster.nodes],
        cluster_id=cluster.cluster_id,
        controller_id=CONTROLLER,
        cluster_authorized_operations=ON_CLUSTER if request.include_cluster_authorized_operations else NOT_ASKED,
    )


def _asked(item: Any, version: int, cluster: Cluster, refused: Mapping[str, int]) -> Any:
    name = name_of(item, cluster)
    topic = None if name is None else cluster.topics.get(name)
    return not_there(item, version, name, refused) if topic is None else described(topic, cluster)


def not_there(item: Any, version: int, name: str | None, refused: Mapping[str, int]) -> Any:
    """What is answered for a topic that does not exist."""
    types = codec.response_types(ApiKey.METADATA)
    if name is None:
        no_name = None if version >= _NULL_NAMES else ""
        return types.MetadataResponseTopic(error_code=UnknownTopicId.code, name=no_name, topic_id=item.topic_id)
    code = refused.get(name, UnknownTopicOrPartition.code)
    return types.MetadataResponseTopic(error_code=code, name=name)


def described(topic: TopicFacts, cluster: Cluster) -> Any:
    """A topic's part of the answer."""
    types = codec.response_types(ApiKey.METADATA)
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
