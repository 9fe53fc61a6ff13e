"""What every node answers about the cluster: where things are. Metadata, which may create topics, is not among it."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from kbroker.catalog.topics import check_name
from kbroker.errors import InvalidTopic
from kbroker.kafka import coordination, replicas, topic_partitions
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import Cluster
from kbroker.workers.kafka_service import Call, Serve
from kbroker.workers.refusal_log import RefusalLog


def illegal_names(request: Any, known: Container[str]) -> dict[str, int]:
    """Error codes of the topics in a Metadata request whose names can never be any topic's."""
    found = {}
    for item in request.topics or ():
        if item.name and item.name not in known:
            try:
                check_name(item.name)
            except InvalidTopic as error:
                found[item.name] = error.code
    return found


class KafkaCluster:
    """`cluster` tells what a client that reached us at an address sees."""

    def __init__(self, cluster: Callable[[str], Cluster], refusals: RefusalLog) -> None:
        self._cluster = cluster
        self._refusals = refusals
        self.serves: dict[int, Serve] = {
            ApiKey.FIND_COORDINATOR: self._find_coordinator,
            ApiKey.DESCRIBE_CLUSTER: self._describe_cluster,
            ApiKey.DESCRIBE_TOPIC_PARTITIONS: self._topic_partitions,
            ApiKey.ELECT_LEADERS: self._elect_leaders,
            ApiKey.ALTER_PARTITION_REASSIGNMENTS: self._reassign,
        }

    def _find_coordinator(self, call: Call) -> None:
        answer = coordination.coordinator_found(call.request, call.version, self._cluster(call.host))
        for what, why in coordination.refusals(call.request, call.version, answer):
            self._refusals.say(call.caller, what, why)
        call.answer(answer)

    def _describe_cluster(self, call: Call) -> None:
        call.answer(coordination.cluster_described(call.request, self._cluster(call.host)))

    def _topic_partitions(self, call: Call) -> None:
        call.answer(topic_partitions.answer(call.request, self._cluster(call.host)))

    def _elect_leaders(self, call: Call) -> None:
        call.answer(replicas.elected(call.request, self._cluster(call.host)))

    def _reassign(self, call: Call) -> None:
        call.answer(replicas.reassigned(call.request, self._cluster(call.host)))
