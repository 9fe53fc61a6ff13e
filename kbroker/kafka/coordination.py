"""FindCoordinator, DescribeCluster and InitProducerId: who coordinates, who is there, who a producer is."""

from __future__ import annotations

from typing import Any

from kbroker.errors import CoordinatorNotAvailable, InvalidRequest
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.authorized_operations import NOT_ASKED, ON_CLUSTER
from kbroker.kafka.cluster import CONTROLLER, Cluster, Node
from kbroker.types import OFFSETS_TOPIC

SEVERAL_KEYS = 4
"""From this version of FindCoordinator on several keys are asked about at once."""
CLUSTER_AUTHORIZATION_FAILED = 31
TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
MISMATCHED_ENDPOINT_TYPE = 114
UNSUPPORTED_ENDPOINT_TYPE = 115
_GROUP, _TRANSACTION = 0, 1
_BROKERS, _CONTROLLERS = 1, 2


def java_hash(text: str) -> int:
    """Java's hash of a text, as a signed 32-bit number."""
    units = memoryview(text.encode("utf-16-be", "surrogatepass"))
    found = 0
    for position in range(0, len(units), 2):
        found = (31 * found + (units[position] << 8) + units[position + 1]) & 0xFFFFFFFF
    return found - (1 << 32) if found >= 1 << 31 else found


def offsets_partition(group_id: str, count: int) -> int:
    """The partition of `__consumer_offsets`, which has `count` of them, that keeps a group: Kafka's rule."""
    found = java_hash(group_id)
    return (0 if found == -(1 << 31) else abs(found)) % count


def coordinator_of(group_id: str, cluster: Cluster) -> Node | None:
    """The node that coordinates a group: whoever leads its offsets partition. None: nobody just now."""
    offsets = cluster.topics.get(OFFSETS_TOPIC)
    if offsets is None or not offsets.partitions:
        return None
    leader = offsets.partitions[offsets_partition(group_id, len(offsets.partitions))].leader
    return next((node for node in cluster.nodes if node.node_id == leader), None)


def coordinator_found(request: Any, version: int, cluster: Cluster) -> Any:
    """The answer to FindCoordinator."""
    types = codec.response_types(ApiKey.FIND_COORDINATOR)
    keys = [request.key] if version < SEVERAL_KEYS else request.coordinator_keys
    found = []
    for key in keys:
        node = coordinator_of(key, cluster) if request.key_type == _GROUP else None
        code, why = (0, None) if node else _why_none(request.key_type, version)
        node_id, host, port = node or (-1, "", -1)
        found.append(
            types.Coordinator(key=key, node_id=node_id, host=host, port=port, error_code=code, error_message=why)
        )
    if version >= SEVERAL_KEYS:
        return types.FindCoordinatorResponse(coordinators=found)
    (one,) = found
    return types.FindCoordinatorResponse(
        error_code=one.error_code, error_message=one.error_message, node_id=one.node_id, host=one.host, port=one.port
    )


def refusals(request: Any, version: int, answer: Any) -> list[tuple[str, str]]:
    """The keys that will never have a coordinator, as FindCoordinator's answer says: what it was, and why not."""
    several = version >= SEVERAL_KEYS
    found = [(one.key, one) for one in answer.coordinators] if several else [(request.key, answer)]
    kind = "transactional.id" if request.key_type == _TRANSACTION else f"key of type {request.key_type}"
    return [
        (f"{kind} {key!r:.200}", one.error_message)
        for key, one in found
        if one.error_code not in (0, CoordinatorNotAvailable.code)
    ]


def _why_none(key_type: int, version: int) -> tuple[int, str]:
    if key_type == _GROUP:
        return CoordinatorNotAvailable.code, "the coordinator is starting"
    if key_type == _TRANSACTION:
        # The two codes at which every client gives up at once: librdkafka asks again for all others. With the second
        # one Java's clients, which ask about several keys, keep the reason to themselves.
        code = CLUSTER_AUTHORIZATION_FAILED if version >= SEVERAL_KEYS else TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        return code, "transactions are not supported yet: leave transactional.id out"
    return InvalidRequest.code, f"there are no coordinators of key type {key_type}: 0 (groups) is possible"


def cluster_described(request: Any, cluster: Cluster) -> Any:
    """The answer to DescribeCluster."""
    types = codec.response_types(ApiKey.DESCRIBE_CLUSTER)
    if request.endpoint_type != _BROKERS:
        code = MISMATCHED_ENDPOINT_TYPE if request.endpoint_type == _CONTROLLERS else UNSUPPORTED_ENDPOINT_TYPE
        why = f"endpoints of type {request.endpoint_type} are not here: 1 (brokers) is possible"
        return types.DescribeClusterResponse(error_code=code, error_message=why, endpoint_type=request.endpoint_type)
    return types.DescribeClusterResponse(
        endpoint_type=request.endpoint_type,
        cluster_id=cluster.cluster_id,
        controller_id=CONTROLLER,
        brokers=[types.DescribeClusterBroker(broker_id=n.node_id, host=n.host, port=n.port) for n in cluster.nodes],
        cluster_authorized_operations=ON_CLUSTER if request.include_cluster_authorized_operations else NOT_ASKED,
    )


def producer_id_given(producer_id: int) -> Any:
    """The answer to InitProducerId."""
    return codec.response_types(ApiKey.INIT_PRODUCER_ID).InitProducerIdResponse(
        producer_id=producer_id, producer_epoch=0
    )


def producer_id_refused(error_code: int) -> Any:
    """The answer to InitProducerId when there is none."""
    return codec.response_types(ApiKey.INIT_PRODUCER_ID).InitProducerIdResponse(
        error_code=error_code, producer_id=-1, producer_epoch=-1
    )
