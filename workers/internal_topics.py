"""The topics that the coordinator leads itself, as clients see them: listed, described and read like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kbroker.errors import LeaderNotAvailable, NotLeaderOrFollower, UnknownTopicOrPartition
from kbroker.log.log import PartitionLog
from kbroker.types import COORDINATOR_NODE, TopicPartition, node_name
from kbroker.wire.messages import PartitionInfo, TopicInfo
from kbroker.workers.parking import Parking
from kbroker.workers.partition import HighWatermarkWaiter


class InternalPartition:
    """A partition of an internal topic, and the fetches that wait at it."""

    __slots__ = ("_parking", "log", "parked")

    def __init__(self, partition_log: PartitionLog, parking: Parking) -> None:
        self.log = partition_log
        self._parking = parking
        self.parked: set[HighWatermarkWaiter] = set()

    def published(self) -> None:
        """Its high watermark has moved."""
        if self.parked:
            self._parking.wake(self.parked)

    def leave(self) -> None:
        """Another log takes its place: who waits is answered, and asks that one."""
        for waiter in list(self.parked):
            waiter.abandon(NotLeaderOrFollower(f"{self.log.partition} was opened anew"))
        self.parked.clear()


class InternalTopics:
    """What the coordinator leads; `internal` is kept up to date. `topics` are all that it knows of."""

    def __init__(
        self,
        topics: Mapping[str, TopicInfo],
        name_of: Callable[[bytes], str | None],
        internal: dict[str, TopicInfo],
        parking: Parking,
    ) -> None:
        self.serving: dict[TopicPartition, InternalPartition] = {}
        self._internal = internal
        self._topics = topics
        self._name_of = name_of
        self._parking = parking

    def serve(self, partition_log: PartitionLog) -> InternalPartition:
        """That log is open now, or was opened anew, and may be read."""
        name = partition_log.partition
        before = self.serving.get(name)
        partition = self.serving[name] = InternalPartition(partition_log, self._parking)
        logs = [self.serving[other].log for other in sorted(self.serving) if other.topic == name.topic]
        config = partition_log.config
        self._internal[name.topic] = TopicInfo(
            name.topic,
            topic_id=partition_log.topic_id,
            partitions=[PartitionInfo(log.partition.partition, COORDINATOR_NODE, log.leader_epoch) for log in logs],
            settings={
                "cleanup.policy": "compact",
                "retention.ms": str(config.retention_ms),
                "retention.bytes": str(config.retention_bytes),
                "flush.acks.all": config.flush_acks_all,
            },
        )
        if before is not None:
            before.leave()
        return partition

    def get(self, topic: str, index: int) -> InternalPartition:
        """The partition, when it is served here. Raises the RequestError that says why it is not."""
        partition = self.serving.get(TopicPartition(topic, index))
        if partition is not None:
            return partition
        known = self._topics.get(topic)
        if known is None or not 0 <= index < len(known.partitions):
            raise UnknownTopicOrPartition(f"there is no partition {topic:.80}-{index}")
        leader = known.partitions[index].leader
        if leader != COORDINATOR_NODE:
            raise NotLeaderOrFollower(f"{topic}-{index} belongs to {node_name(leader)}")
        raise LeaderNotAvailable(f"{topic}-{index} is being recovered")

    def name_of(self, topic_id: bytes) -> str | None:
        """The topic with that id, wherever its partitions are led."""
        return self._name_of(topic_id)
