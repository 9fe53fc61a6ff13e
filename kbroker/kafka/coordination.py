"""FindCoordinator, DescribeCluster and InitProducerId: who coordinates, who is there, who a producer is."""

from __future__ import annotations

from typing import Any

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import CONTROLLER, Cluster

SEVERAL_KEYS = 4
"""From this version of FindCoordinator on several keys are asked about at once."""
COORDINATOR_NOT_AVAILABLE = 15


def coordinator_found(request: Any, version: int, cluster: Cluster) -> Any:
    """The answer to FindCoordinator: one node coordinates everything."""
    types = codec.response_types(ApiKey.FIND_COORDINATOR)
    node = next((node for node in cluster.nodes if node.node_id == CONTROLLER), None)
    code = 0 if node else COORDINATOR_NOT_AVAILABLE
    node_id, host, port = node or (-1, "", -1)
    if version < SEVERAL_KEYS:
        return types.FindCoordinatorResponse(error_code=code, node_id=node_id, host=host, port=port)
    return types.FindCoordinatorResponse(
        coordinators=[
            types.Coordinator(key=key, node_id=node_id, host=host, port=port, error_code=code)
            for key in request.coordinator_keys
        ]
    )


def cluster_described(request: Any, cluster: Cluster) -> Any:
    """The answer to DescribeCluster."""
    types = codec.response_types(ApiKey.DESCRIBE_CLUSTER)
    return types.DescribeClusterResponse(
        endpoint_type=request.endpoint_type,
        cluster_id=cluster.cluster_id,
        controller_id=CONTROLLER,
        brokers=[types.DescribeClusterBroker(broker_id=n.node_id, host=n.host, port=n.port) for n in cluster.nodes],
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
