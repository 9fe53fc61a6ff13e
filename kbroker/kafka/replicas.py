"""ElectLeaders and reassignments: every partition has one replica, on this host, and nothing moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kbroker.errors import InvalidReplicaAssignment, UnknownTopicOrPartition
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import Cluster

ELECTION_NOT_NEEDED: Final = 84
NO_REASSIGNMENT_IN_PROGRESS: Final = 85


def elected(request: Any, cluster: Cluster) -> Any:
    """The answer to ElectLeaders: whoever leads a partition is its only replica. Of all partitions none is told."""
    types = codec.response_types(ApiKey.ELECT_LEADERS)
    results = []
    for topic in request.topic_partitions or ():
        partitions = []
        for index in topic.partitions:
            code, why = ELECTION_NOT_NEEDED, "its only replica leads it"
            if cluster.leader_of(topic.topic, index) is None:
                code, why = UnknownTopicOrPartition.code, f"there is no partition {topic.topic:.80}-{index}"
            partitions.append(types.PartitionResult(partition_id=index, error_code=code, error_message=why))
        results.append(types.ReplicaElectionResult(topic=topic.topic, partition_result=partitions))
    return types.ElectLeadersResponse(replica_election_results=results)


def reassigned(request: Any, cluster: Cluster) -> Any:
    """The answer to AlterPartitionReassignments: a partition stays where it is; there is nothing to cancel."""
    types = codec.response_types(ApiKey.ALTER_PARTITION_REASSIGNMENTS)
    responses = []
    for topic in request.topics:
        partitions = []
        for item in topic.partitions:
            code, why = _reassignment(cluster, topic.name, item.partition_index, item.replicas)
            partitions.append(
                types.ReassignablePartitionResponse(
                    partition_index=item.partition_index, error_code=code, error_message=why
                )
            )
        responses.append(types.ReassignableTopicResponse(name=topic.name, partitions=partitions))
    return types.AlterPartitionReassignmentsResponse(responses=responses)


def _reassignment(cluster: Cluster, topic: str, index: int, replicas: Sequence[int] | None) -> tuple[int, str | None]:
    leader = cluster.leader_of(topic, index)
    if leader is None:
        return UnknownTopicOrPartition.code, f"there is no partition {topic:.80}-{index}"
    if replicas is None:
        return NO_REASSIGNMENT_IN_PROGRESS, "no partition is being reassigned"
    if list(replicas) == [leader[0]]:
        return 0, None
    return InvalidReplicaAssignment.code, f"partitions stay at the process that has them: this one at node {leader[0]}"


def reassignments() -> Any:
    """The answer to ListPartitionReassignments: there are none."""
    return codec.response_types(ApiKey.LIST_PARTITION_REASSIGNMENTS).ListPartitionReassignmentsResponse()
