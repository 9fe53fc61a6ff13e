"""Names that every part of kbroker shares: distinct integers and the two ways to name a partition.

`offset` numbers records, `position` is a byte in a file. mypy keeps them apart through NewType.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

Offset = NewType("Offset", int)
"""Number of a record in its partition, from 0. Ends are exclusive: `next_offset`, never "last"."""

Position = NewType("Position", int)
"""A byte in a segment file, from 0."""

LeaderEpoch = NewType("LeaderEpoch", int)
"""Counts the starts of ownership of one partition; it only rises. -1: not known."""

NodeId = NewType("NodeId", int)
"""Number of a process that clients may talk to. The coordinator is node 0, worker i is node i + 1."""

TimestampMs = NewType("TimestampMs", int)
"""Milliseconds since 1970-01-01 UTC. -1: none."""

NO_TIMESTAMP = TimestampMs(-1)
NO_EPOCH = LeaderEpoch(-1)

EARLIEST_TIMESTAMP = TimestampMs(-2)
"""Asks a look-up by timestamp for the log start offset (Kafka's ListOffsets)."""
LATEST_TIMESTAMP = TimestampMs(-1)
"""Asks a look-up by timestamp for the high watermark (Kafka's ListOffsets)."""

COORDINATOR_NODE = NodeId(0)

OFFSETS_TOPIC = "__consumer_offsets"
"""Where groups and their committed offsets are kept; the leader of a group's partition coordinates the group."""
TRANSACTIONS_TOPIC = "__transaction_state"
INTERNAL_TOPICS = frozenset({OFFSETS_TOPIC, TRANSACTIONS_TOPIC})
"""Topics that only the broker writes. The coordinator leads them."""


def worker_node(worker_index: int) -> NodeId:
    """Node id of worker `worker_index` (from 0)."""
    return NodeId(worker_index + 1)


def node_name(node: int) -> str:
    """What people call the process that has this node id: `worker 0` for node 1, as in status and log; `nobody` for -1.

    Kafka's clients show the node id itself.
    """
    if node == COORDINATOR_NODE:
        return "coordinator"
    return f"worker {node - 1}" if node > 0 else "nobody"


class TopicPartition(NamedTuple):
    """A partition, named as in kafka-python: `TopicPartition('orders', 0)`."""

    topic: str
    partition: int

    def __str__(self) -> str:
        """`orders-0`, which is also the name of the partition's folder."""
        return f"{self.topic}-{self.partition}"
