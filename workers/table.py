"""The partitions that a worker owns: opened when the catalog says so, served, deleted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kbroker.catalog.rebuild import read_topic_id
from kbroker.config import topic_log_config
from kbroker.errors import (
    KafkaStorageError,
    LeaderNotAvailable,
    NotLeaderOrFollower,
    UnknownTopicOrPartition,
)
from kbroker.log.log import PartitionLog
from kbroker.log.names import PARTITION_METADATA
from kbroker.shm.control_page import ControlPage
from kbroker.types import TopicPartition
from kbroker.wire.control import CatalogAck, CatalogUpdate, Opened, OwnedPartition, RemovedInfo
from kbroker.wire.messages import TopicInfo
from kbroker.workers.partition import Partition

if TYPE_CHECKING:
    from kbroker.workers.worker import Worker

log = logging.getLogger(__name__)

RETRY_OPEN_MS = 5_000


class PartitionTable:
    """Follows the catalog. An update is acknowledged when everything in it was done, or was found to be impossible."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.serving: dict[TopicPartition, Partition] = {}
        self._topics: dict[str, TopicInfo] = {}
        self._opening: set[TopicPartition] = set()
        self._failed: dict[TopicPartition, str] = {}

    def get(self, topic: str, index: int) -> Partition:
        """The partition, when it is served here. Raises the RequestError that says why it is not."""
        name = TopicPartition(topic, index)
        partition = self.serving.get(name)
        if partition is not None:
            return partition
        if name in self._failed:
            raise KafkaStorageError(f"{name} is out of service: {self._failed[name]}")
        known = self._topics.get(topic)
        if known is None or not 0 <= index < len(known.partitions):
            if not self._worker.has_catalog:
                raise LeaderNotAvailable("this worker is starting and has no catalog yet")
            raise UnknownTopicOrPartition(f"there is no partition {topic:.80}-{index}")
        if known.partitions[index].leader != self._worker.node:
            raise NotLeaderOrFollower(f"{name} belongs to node {known.partitions[index].leader}")
        raise LeaderNotAvailable(f"{name} is being recovered")

    def counts(self) -> dict[str, int]:
        """How many partitions are served, being opened, out of service."""
        return {"partitions": len(self.serving), "opening": len(self._opening), "failed": len(self._failed)}

    # --- the catalog ---

    def update(self, update: CatalogUpdate) -> None:
        """Do what the catalog says, then acknowledge it."""
        tasks = _Tasks(update.version, self._acknowledge)
        if update.full:
            kept = {topic.name for topic in update.topics}
            for name in list(self._topics):
                if name not in kept:
                    self._forget(name)
        for removed in update.removed:
            self._remove(removed, tasks)
        for topic in update.topics:
            self._take_over(topic, tasks)
        tasks.all_given()

    def _take_over(self, topic: TopicInfo, tasks: _Tasks) -> None:
        known = self._topics.get(topic.name)
        if known is not None and known.topic_id != topic.topic_id:
            self._forget(topic.name)
        self._topics[topic.name] = topic
        config = topic_log_config(self._worker.config.log, topic.settings)
        for info in topic.partitions:
            name = TopicPartition(topic.name, info.partition)
            if info.leader != self._worker.node:
                continue
            if name in self.serving:
                self.serving[name].log.configure(config)
                tasks.owned.append(_owned(self.serving[name]))
            elif name not in self._opening:
                self._open(topic, info.partition, tasks)

    def configure(self) -> None:
        """The broker's settings have changed: each log gets them, with its topic's own on top."""
        for name, partition in self.serving.items():
            partition.log.configure(topic_log_config(self._worker.config.log, self._topics[name.topic].settings))

    def _acknowledge(self, ack: CatalogAck) -> None:
        ack.incarnation = self._worker.child.incarnation
        self._worker.control.acknowledge(ack)
        self._worker.catalog_done()

    # --- opening ---

    def _open(self, topic: TopicInfo, index: int, tasks: _Tasks | None) -> None:
        name = TopicPartition(topic.name, index)
        self._opening.add(name)
        config = topic_log_config(self._worker.config.log, topic.settings)
        open_log = partial(
            PartitionLog.open,
            self._worker.config.data_dir / str(name),
            name,
            topic.topic_id,
            config,
            topic.partitions[index].leader_epoch + 1,
            self._worker.now_ms(),
            distrust_cache=_distrust_key(name) in self._worker.child.remembered,
        )
        if tasks is not None:
            tasks.begin()
        self._worker.io.submit(open_log, partial(self._opened, topic, name, tasks))

    def _opened(
        self,
        topic: TopicInfo,
        name: TopicPartition,
        tasks: _Tasks | None,
        opened: PartitionLog | None,
        error: BaseException | None,
    ) -> None:
        self._opening.discard(name)
        current = self._topics.get(name.topic)
        if opened is None:
            self._failed[name] = str(error)
            log.error("%s is out of service, tried again each %d s: %s", name, RETRY_OPEN_MS // 1000, error)
            self._worker.loop.call_later(RETRY_OPEN_MS, partial(self._retry, name, topic.topic_id))
            if tasks is not None:
                tasks.failed[str(name)] = str(error)
        elif current is None or current.topic_id != topic.topic_id:
            opened.abandon()
        else:
            self._failed.pop(name, None)
            self._worker.child.forget(_distrust_key(name))
            _tell_recovery(name, opened)
            partition = Partition(name, opened, ControlPage.create(opened.leader_epoch, self._worker.child.incarnation))
            self.serving[name] = partition
            partition.publish()
            if tasks is not None:
                tasks.owned.append(_owned(partition))
            else:
                self._worker.control.acknowledge(Opened(self._worker.child.incarnation, [_owned(partition)]))
                log.info("%s is in service again", name)
        if tasks is not None:
            tasks.end()

    def _retry(self, name: TopicPartition, topic_id: bytes) -> None:
        topic = self._topics.get(name.topic)
        if name in self._failed and name not in self._opening and topic is not None and topic.topic_id == topic_id:
            self._open(topic, name.partition, None)

    # --- leaving ---

    def reopen(self, partition: Partition, why: str) -> None:
        """Take a partition out of service after a failed flush, and open it anew without trusting the page cache.

        The kernel has marked the failed pages clean, so what reads back proves nothing. The supervisor remembers it,
        should this process die before the partition is sound again.
        """
        name = partition.name
        if self.serving.pop(name, None) is None:
            return
        self._worker.child.remember(_distrust_key(name), why)
        self._failed[name] = why
        self._worker.descriptors_forget(name)
        topic = self._topics.get(name.topic)

        def let_go() -> None:
            partition.log.abandon()
            if topic is not None:
                self._retry(name, topic.topic_id)

        partition.leave(False, KafkaStorageError(f"{name} is out of service: {why}"), let_go)

    def _forget(self, topic_name: str) -> None:
        """Stop serving a topic that is no longer in the catalog; its folders are deleted by `_remove`."""
        topic = self._topics.pop(topic_name)
        error = UnknownTopicOrPartition(f"topic {topic_name} was deleted")
        for info in topic.partitions:
            name = TopicPartition(topic_name, info.partition)
            self._failed.pop(name, None)
            partition = self.serving.pop(name, None)
            if partition is not None:
                self._worker.descriptors_forget(name)
                partition.leave(True, error, partition.log.abandon)

    def _remove(self, removed: RemovedInfo, tasks: _Tasks) -> None:
        known = self._topics.get(removed.name)
        if known is not None and known.topic_id == removed.topic_id:
            self._forget(removed.name)
        if not removed.partitions:
            return
        folders = [self._worker.config.data_dir / f"{removed.name}-{index}" for index in removed.partitions]

        def delete() -> None:
            for folder in folders:
                # A topic of the same name may have been made since: its folder carries another id.
                if read_topic_id(folder / PARTITION_METADATA) == removed.topic_id:
                    PartitionLog.purge(PartitionLog.delete(folder))

        def deleted(_result: None, error: BaseException | None) -> None:
            if error is None:
                tasks.removed.append(removed.topic_id)
            else:
                log.error("the folders of deleted topic %s could not be removed: %s", removed.name, error)
            tasks.end()

        tasks.begin()
        self._worker.io.submit(delete, deleted)

    def close_all(self, closed: Callable[[], None]) -> None:
        """Flush and close every log cleanly; `closed` is called when all are."""
        partitions = list(self.serving.values())
        self.serving.clear()
        left = len(partitions)
        if not left:
            closed()

        def one_closed(name: TopicPartition, _result: None, error: BaseException | None) -> None:
            nonlocal left
            left -= 1
            if error is not None:
                log.error("%s could not be closed cleanly; it will be recovered at the next start: %s", name, error)
            if not left:
                closed()

        for partition in partitions:
            close = partial(
                self._worker.io.submit,
                partial(partition.log.close, self._worker.now_ms()),
                partial(one_closed, partition.name),
            )
            partition.leave(False, NotLeaderOrFollower("the broker is stopping"), close)


class _Tasks:
    """What one catalog update asks for, counted until all is done."""

    def __init__(self, version: int, done: Callable[[CatalogAck], None]) -> None:
        self.owned: list[OwnedPartition] = []
        self.removed: list[bytes] = []
        self.failed: dict[str, str] = {}
        self._version = version
        self._done = done
        self._left = 1

    def begin(self) -> None:
        """One more thing to do."""
        self._left += 1

    def end(self) -> None:
        """One thing is done."""
        self._left -= 1
        if not self._left:
            self._done(CatalogAck(0, self._version, self.owned, self.removed, self.failed))

    def all_given(self) -> None:
        """Nothing more will be asked."""
        self.end()


def _owned(partition: Partition) -> OwnedPartition:
    return OwnedPartition(partition.topic, partition.partition, partition.log.leader_epoch)


def _distrust_key(name: TopicPartition) -> str:
    return f"flush-failed {name}"


def _tell_recovery(name: TopicPartition, opened: PartitionLog) -> None:
    report = opened.recovery
    for sentence in report.set_aside:
        log.error("%s: %s", name, sentence)
    if report.scanned_batches or report.truncated_bytes or report.rebuilt_indexes:
        log.info(
            "%s recovered: %d batches (%d bytes) read, %d bytes of a torn tail cut, %d indexes rebuilt",
            name,
            report.scanned_batches,
            report.scanned_bytes,
            report.truncated_bytes,
            report.rebuilt_indexes,
        )
