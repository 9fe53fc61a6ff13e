"""What a client knows of the broker's processes and topics: the last metadata, as plain look-ups."""

from __future__ import annotations

from collections.abc import Collection

from kbroker.errors import error_for
from kbroker.types import TopicPartition
from kbroker.wire.messages import MetadataAnswer, NodeInfo, TopicInfo

_UNKNOWN = 3


class ClusterView:
    """Nodes and topics of the last metadata answers. Leader -1: the partition is not known, or nobody owns it."""

    def __init__(self) -> None:
        self.cluster_id = ""
        self.boot_id = ""
        self.nodes: dict[int, NodeInfo] = {}
        self.topics: dict[str, TopicInfo] = {}
        self.errors: dict[str, tuple[int, str]] = {}
        self.version = 0

    def update(self, answer: MetadataAnswer, asked: Collection[str] | None) -> None:
        """Take in an answer to a question about `asked` topics (None: all)."""
        self.version += 1
        self.cluster_id = answer.cluster_id
        self.boot_id = answer.boot_id
        self.nodes = {node.node: node for node in answer.nodes}
        if asked is None:
            self.topics.clear()
            self.errors.clear()
        answered = set()
        for topic in answer.topics:
            answered.add(topic.name)
            if topic.error:
                self.topics.pop(topic.name, None)
                self.errors[topic.name] = (topic.error, topic.message)
            else:
                topic.partitions.sort(key=lambda partition: partition.partition)
                self.topics[topic.name] = topic
                self.errors.pop(topic.name, None)
        for name in asked or ():
            if name not in answered:
                self.topics.pop(name, None)
                self.errors[name] = (_UNKNOWN, f"there is no topic {name!r}")

    def partition_count(self, topic: str) -> int | None:
        """How many partitions the topic has; None: not known."""
        found = self.topics.get(topic)
        return len(found.partitions) if found is not None else None

    def partitions(self, topic: str) -> list[TopicPartition]:
        """The topic's partitions in order; empty when it is not known."""
        found = self.topics.get(topic)
        return [TopicPartition(topic, p.partition) for p in found.partitions] if found is not None else []

    def leader(self, topic_partition: TopicPartition) -> int:
        """The node that owns the partition, or -1."""
        topic = self.topics.get(topic_partition.topic)
        if topic is None or not 0 <= topic_partition.partition < len(topic.partitions):
            return -1
        return topic.partitions[topic_partition.partition].leader

    def topic_id(self, topic: str) -> bytes:
        """The topic's id; empty when it is not known."""
        found = self.topics.get(topic)
        return found.topic_id if found is not None else b""

    def check(self, topic: str) -> None:
        """Raises the error that the broker gave for the topic, if it gave one."""
        if topic in self.errors:
            raise error_for(*self.errors[topic])
