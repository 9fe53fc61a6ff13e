"""What the answers of several APIs say of the cluster: its nodes, topics and partitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

CONTROLLER = 0
"""The coordinator's node: controller, and coordinator of all groups."""


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


class Cluster(NamedTuple):
    """The cluster as one client sees it. `epoch_of` knows of newer leader epochs than the topics say."""

    cluster_id: str
    nodes: Sequence[Node]
    topics: Mapping[str, TopicFacts]
    name_of: Callable[[bytes], str | None]
    epoch_of: Callable[[str, int, int], int]
