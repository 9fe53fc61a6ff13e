"""kbroker: Kafka's log, groups and protocol for one Linux host, in Python.

from kbroker import Producer, Consumer, Admin, TopicPartition, ConsumerRecord
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbroker.clients.admin import Admin as Admin
    from kbroker.clients.consumer import Consumer as Consumer
    from kbroker.clients.producer import Producer as Producer
    from kbroker.clients.rebalance_listener import ConsumerRebalanceListener as ConsumerRebalanceListener
    from kbroker.clients.records import ConsumerRecord as ConsumerRecord
    from kbroker.clients.records import OffsetAndMetadata as OffsetAndMetadata
    from kbroker.types import TopicPartition as TopicPartition

__version__ = "0.1.0"
__all__ = [
    "Admin",
    "Consumer",
    "ConsumerRebalanceListener",
    "ConsumerRecord",
    "OffsetAndMetadata",
    "Producer",
    "TopicPartition",
    "__version__",
]

# Imported on first use: the broker's own processes need no client.
_HOMES = {
    "Admin": "kbroker.clients.admin",
    "Consumer": "kbroker.clients.consumer",
    "ConsumerRebalanceListener": "kbroker.clients.rebalance_listener",
    "ConsumerRecord": "kbroker.clients.records",
    "OffsetAndMetadata": "kbroker.clients.records",
    "Producer": "kbroker.clients.producer",
    "TopicPartition": "kbroker.types",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kbroker' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
