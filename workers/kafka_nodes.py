"""The nodes as a Kafka client is told of them."""

from __future__ import annotations

from kbroker.kafka.cluster import Node
from kbroker.workers.child import ChildContext


def nodes_for(child: ChildContext, host: str) -> list[Node]:
    """All nodes, at `advertised.host` or else the address that this client has reached us at.

    A process that is just being restarted is among them: its listener stays open, and whoever comes waits there.
    """
    host = child.config.kafka.advertised_host or host
    return [Node(node, host, port) for node, port in sorted(child.kafka_ports.items())]
