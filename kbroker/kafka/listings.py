"""ListTransactions and ListConfigResources: what clients ask of every node, or of any, to list it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.configs import BROKER, TOPIC

_TRANSACTION_STATES: Final = frozenset(
    {
        "Empty",
        "Ongoing",
        "PrepareCommit",
        "PrepareAbort",
        "CompleteCommit",
        "CompleteAbort",
        "Dead",
        "PrepareEpochFence",
    }
)
_SINCE_ALL_TYPES: Final = 1


def transactions(request: Any) -> Any:
    """The answer to ListTransactions: there are none yet."""
    unknown = [state for state in request.state_filters if state not in _TRANSACTION_STATES]
    return codec.response_types(ApiKey.LIST_TRANSACTIONS).ListTransactionsResponse(unknown_state_filters=unknown)


def config_resources(request: Any, version: int, topics: Iterable[str], nodes: Iterable[int]) -> Any:
    """The answer to ListConfigResources."""
    types = codec.response_types(ApiKey.LIST_CONFIG_RESOURCES)
    if version < _SINCE_ALL_TYPES:
        return types.ListConfigResourcesResponse()  # client metrics only, of which there are none
    wanted = request.resource_types or (TOPIC, BROKER)
    found = []
    if TOPIC in wanted:
        found += [types.ConfigResource(resource_name=name, resource_type=TOPIC) for name in topics]
    if BROKER in wanted:
        found += [types.ConfigResource(resource_name=str(node), resource_type=BROKER) for node in nodes]
    return types.ListConfigResourcesResponse(config_resources=found)
