"""What the answers of several APIs say of the cluster: its nodes, topics and partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

CONTROLLER = 0
"""The coordinator's node."""


class Node(NamedTuple):
    """A process that serves Kafka clients, as the client at hand reaches it."""

    node_id: int
    host: str
    port: int


class PartitionFacts(Protocol):
    """A partition of a topic."""

    @property
    def partition(self) -> int: ...
    @property
    def leader(self) -> int: ...
    @property
    def leader_epoch(self) -> int: ...


class TopicFacts(Protocol):
    """A topic that exists."""

    @property
    def name(self) -> str: ...
    @property
    def topic_id(self) -> bytes: ...
    @property
    def partitions(self) -> Sequence[PartitionFacts]: ...


Leader = tuple[int, int]
"""Node and leader epoch of a partition."""


class Cluster(NamedTuple):
    """The cluster as one client sees it. `epoch_of` knows of newer leader epochs than the topics say."""

    cluster_id: str
    nodes: Sequence[Node]
    topics: Mapping[str, TopicFacts]
    name_of: Callable[[bytes], str | None]
    epoch_of: Callable[[str, int, int], int]

    def leader_of(self, topic: str, index: int) -> Leader | None:
        """Who leads that partition; None: there is no such partition."""
        known = self.topics.get(topic)
        if known is None or not 0 <= index < len(known.partitions):
            return None
        partition = known.partitions[index]
        return partition.leader, self.epoch_of(topic, index, partition.leader_epoch)

    def nodes_of(self, leaders: Iterable[Leader | None]) -> Sequence[Node]:
        """The nodes of those leaders, each once."""
        named = {leader[0] for leader in leaders if leader is not None}
        return [node for node in self.nodes if node.node_id in named]
