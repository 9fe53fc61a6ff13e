"""The partitions that a worker owns: opened when the catalog says so, served, deleted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbroker.catalog.rebuild import read_topic_id
from kbroker.config import LogConfig, topic_log_config
from kbroker.errors import (
    KafkaStorageError,
    KbrokerError,
    LeaderNotAvailable,
    NotLeaderOrFollower,
    StartError,
    StorageError,
    UnknownTopicOrPartition,
)
from kbroker.log.damage import Repair
from kbroker.log.freeing import Freeing, free_soon
from kbroker.log.log import PartitionLog
from kbroker.log.names import PARTITION_METADATA, is_deleted_folder
from kbroker.log.producer_room import PRODUCER_BYTES, ProducerRoom
from kbroker.log.read_only import takes_no_writes
from kbroker.log.storage import DISK
from kbroker.shm.control_page import ControlPage
from kbroker.types import TopicPartition, node_name
from kbroker.wire.control import CatalogAck, CatalogUpdate, Opened, OwnedPartition, RemovedInfo
from kbroker.wire.messages import TopicInfo
from kbroker.wording import with_remedy
from kbroker.workers.complaints import Complaints
from kbroker.workers.descriptors import require_descriptors_for_partition
from kbroker.workers.outages import Outage
from kbroker.workers.partition import Partition
from kbroker.workers.recoveries import tell_recovery
from kbroker.workers.turns import FolderTurns

if TYPE_CHECKING:
    from kbroker.workers.worker import Worker

log = logging.getLogger(__name__)

PRODUCERS_PART = 8
"""Unless it is set, producers may take this part of a worker's memory."""
PRODUCERS_LEAST = 1_000
"""So many are remembered in all, however often workers have died of memory."""
RETRY_OPEN_MS = 5_000
RETRY_LOCKED_MS = 100
"""A partition that moves here is still let go by the worker that had it."""


Repaired = Callable[[PartitionLog | None, KbrokerError | None], None]
"""Gets the log that was opened anew, or why that failed."""


@dataclass(slots=True, eq=False)
class _Opening:
    """A partition that is being opened, or waits for its folder; the updates of the catalog that wait for it."""

    topic_id: bytes
    waiting: list[_Tasks]
    repair: Repair = Repair.NONE
    repaired: Repaired | None = None


class PartitionTable:
    """Follows the catalog. An update is acknowledged when everything in it was done, or was found to be impossible."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.serving: dict[TopicPartition, Partition] = {}
        self.topics: dict[str, TopicInfo] = {}
        self.on_change: Callable[[str], None] = lambda _topic: None
        """Called with the name of a topic of which something else is known now: also a leader epoch."""
        self._names: dict[bytes, str] = {}
        self._opening: dict[TopicPartition, _Opening] = {}
        self._failed: dict[TopicPartition, str] = {}
        self._outages = Complaints(worker.loop, "partitions that are out of service", logging.ERROR)
        self._retrying: set[TopicPartition] = set()
        self._turns = FolderTurns()
        self._has_tidied = False
        config, deaths = worker.config.server, worker.child.memory_deaths
        ids_max = config.producer_ids_max or config.worker_memory_max_bytes // PRODUCERS_PART // PRODUCER_BYTES
        if deaths:
            ids_max = max(PRODUCERS_LEAST, ids_max >> 2 * deaths)
            reduced = (
                f"the worker before this one took more memory than it may ({deaths} in a row): {ids_max} idempotent "
                "producers are remembered in all; raise worker.memory.max.bytes or lower producer.ids.max"
            )
            log.warning("%s", reduced)
            worker.child.report(notices=[reduced])
        self._producers = ProducerRoom(ids_max, self._producers_forgotten)
        self._forgetting = Complaints(worker.loop, "producers that were forgotten")

    def _producers_forgotten(self, count: int) -> None:
        self._forgetting.say(
            f"{count} idempotent producers that wrote longest ago were forgotten: there are more than "
            f"producer.ids.per.partition.max, or in all than {self._producers.ids_max} (producer.ids.max)"
        )

    def get(self, topic: str, index: int) -> Partition:
        """The partition, when it is served here. Raises the RequestError that says why it is not."""
        key: Any = (topic, index)  # finds a TopicPartition as well, and costs a fifth of one
        partition = self.serving.get(key)
        if partition is not None:
            return partition
        name = TopicPartition(topic, index)
        if name in self._failed:
            raise KafkaStorageError(f"{name} is out of service: {self._failed[name]}")
        known = self.topics.get(topic)
        if known is None or not 0 <= index < len(known.partitions):
            if not self._worker.has_catalog:
                raise LeaderNotAvailable("this worker is starting and has no catalog yet")
            raise UnknownTopicOrPartition(f"there is no partition {topic:.80}-{index}")
        if known.partitions[index].leader != self._worker.node:
            raise NotLeaderOrFollower(f"{name} belongs to {node_name(known.partitions[index].leader)}")
        raise LeaderNotAvailable(f"{name} is being recovered")

    def name_of(self, topic_id: bytes) -> str | None:
        """The topic with that id, wherever its partitions are led."""
        return self._names.get(topic_id)

    def id_of(self, name: str) -> bytes | None:
        """A topic's id, 16 bytes."""
        known = self.topics.get(name)
        return None if known is None else known.topic_id

    def counts(self) -> dict[str, int]:
        """How many partitions are served, being opened, out of service."""
        return {"partitions": len(self.serving), "opening": len(self._opening), "failed": len(self._failed)}

    def outages(self) -> Iterator[Outage]:
        """What clients cannot use at the moment, and why."""
        for name, why in self._failed.items():
            yield Outage(str(name), why)
        for name, partition in self.serving.items():
            if partition.refuses:
                yield Outage(f"writes to {name}", partition.refuses)
            for damage in partition.log.damage.pending:
                yield Outage(*damage.outage(name))

    # --- the catalog ---

    def update(self, update: CatalogUpdate) -> None:
        """Do what the catalog says, then acknowledge it."""
        tasks = _Tasks(partial(self._acknowledge, update))
        if update.full:
            kept = {topic.name for topic in update.topics}
            for name in list(self.topics):
                if name not in kept:
                    self._forget(name)
            self._tidy()
        for removed in update.removed:
            self._remove(removed, tasks)
        for topic in update.topics:
            self._take_over(topic, tasks)
        tasks.end()

    def _take_over(self, topic: TopicInfo, tasks: _Tasks) -> None:
        known = self.topics.get(topic.name)
        if known is not None and known.topic_id != topic.topic_id:
            self._forget(topic.name)
        self.topics[topic.name] = topic
        self._names[topic.topic_id] = topic.name
        self.on_change(topic.name)
        config = self._config_of(topic)
        for info in topic.partitions:
            name = TopicPartition(topic.name, info.partition)
            if info.leader != self._worker.node:
                self._let_go(name, False, NotLeaderOrFollower(f"{name} belongs to {node_name(info.leader)} now"))
            elif name in self.serving:
                self.serving[name].configure(config)
                tasks.owned.append(_owned(self.serving[name]))
            elif name in self._opening:
                tasks.begin()
                self._opening[name].waiting.append(tasks)
            else:
                tasks.begin()
                self._open(name, [tasks])

    def _config_of(self, topic: TopicInfo) -> LogConfig:
        config = topic_log_config(self._worker.config.log, topic.settings)
        # Several are opened at a time, before they count with all others.
        most = max(1, self._producers.ids_max // self._worker.config.server.io_threads)
        return config if most >= config.producer_ids_max else replace(config, producer_ids_max=most)

    def configure(self) -> None:
        """The broker's settings have changed: each log gets them, with its topic's own on top."""
        for name, partition in self.serving.items():
            partition.configure(self._config_of(self.topics[name.topic]))

    def _acknowledge(self, update: CatalogUpdate, tasks: _Tasks) -> None:
        ack = CatalogAck(self._worker.child.incarnation, update.version, tasks.owned, tasks.removed, tasks.failed)
        # Its successor counts versions anew, and has sent everything again.
        if self._worker.control.coordinator_incarnation == update.incarnation:
            self._worker.control.send(ack)
        self._worker.catalog_done()

    # --- opening ---

    def _open(
        self,
        name: TopicPartition,
        waiting: list[_Tasks],
        repair: Repair = Repair.NONE,
        repaired: Repaired | None = None,
    ) -> None:
        topic_id = self.topics[name.topic].topic_id
        opening = self._opening[name] = _Opening(topic_id, waiting, repair, repaired)
        self._turns.take(name, partial(self._begin_opening, name, opening))

    def _begin_opening(self, name: TopicPartition, opening: _Opening) -> None:
        if self._opening.get(name) is not opening:
            self._opened(name, opening, None, None)  # let go before its folder was free
            return
        topic = self.topics[name.topic]
        arguments = (
            self._worker.config.data_dir / str(name),
            name,
            topic.topic_id,
            self._config_of(topic),
            topic.partitions[name.partition].leader_epoch + 1,
            self._worker.now_ms(),
        )
        distrust_cache = _distrust_key(name) in self._worker.child.remembered
        # An owner before this one has told its epoch, after its folder was on the disk.
        had_log = topic.partitions[name.partition].leader_epoch > 0

        others = len(self.serving) + len(self._opening) - 1

        def open_log() -> PartitionLog:
            try:
                require_descriptors_for_partition(others)
            except OSError as error:
                raise StorageError(f"{name}: cannot be opened: {with_remedy(error)}") from error
            try:
                return PartitionLog.open(
                    *arguments, distrust_cache=distrust_cache, had_log=had_log, repair=opening.repair
                )
            except StorageError as error:
                if not takes_no_writes(error) or opening.repair is not Repair.NONE:
                    raise
                return PartitionLog.open_read_only(*arguments, f"the disk takes no writes ({error})")

        self._worker.io.submit(open_log, partial(self._opened, name, opening))

    def _opened(
        self, name: TopicPartition, opening: _Opening, opened: PartitionLog | None, error: BaseException | None
    ) -> None:
        is_wanted = self._opening.get(name) is opening and not self._worker.is_draining
        page = None
        if opened is not None and is_wanted:
            try:
                page = ControlPage.create(opened.leader_epoch, self._worker.child.incarnation)
            except OSError as failed:
                error = StorageError(f"{name}: its control page cannot be made: {with_remedy(failed)}")
        if opened is not None and page is not None:
            del self._opening[name]
            self._serve(name, opening, opened, page)
        else:
            if opened is not None:
                opened.let_go()  # nobody reads it yet
            self._turns.give_back(name)
            if is_wanted:
                del self._opening[name]
                self._opening_failed(name, opening, error or OSError("no log"))
            if opening.repaired is not None:
                why = error or "it was taken away meanwhile"
                opening.repaired(None, KafkaStorageError(f"{name} could not be repaired: {why}"))
        for tasks in opening.waiting:
            tasks.end()

    def _serve(self, name: TopicPartition, opening: _Opening, opened: PartitionLog, page: ControlPage) -> None:
        self._failed.pop(name, None)
        if not opened.failed:
            self._trust(name)
        tell_recovery(opened)
        # Settings may have been altered while it was opened.
        opened.configure(self._config_of(self.topics[name.topic]))
        partition = Partition(name, opened, page)
        self.serving[name] = partition
        self._producers.adopt(opened.producers)
        self.on_change(name.topic)
        partition.publish()
        for tasks in opening.waiting:
            tasks.owned.append(_owned(partition))
        if opened.failed:
            partition.refuse(f"{name}: {opened.failed}")
            self._worker.loop.call_later(RETRY_OPEN_MS, partial(self._worker.probes.want, partition))
        if not opening.waiting:
            self._worker.control.send(Opened(self._worker.child.incarnation, [_owned(partition)]))
            log.info("%s is in service again%s", name, ", for readers" if opened.failed else "")
        if opening.repaired is not None:
            opening.repaired(opened, None)

    def _opening_failed(self, name: TopicPartition, opening: _Opening, error: BaseException) -> None:
        why = str(error)
        retry_ms = RETRY_LOCKED_MS if isinstance(error, StartError) else RETRY_OPEN_MS
        if isinstance(error, StartError):
            why = "the process that had it has not let go of its folder yet"
        if self._failed.get(name) != why:  # not at each try
            self._outages.say(f"{name} is out of service, tried again every {retry_ms / 1000:.1f} s: {why}")
        self._failed[name] = why
        if name not in self._retrying:
            self._retrying.add(name)
            self._worker.loop.call_later(retry_ms, partial(self._retry, name))
        for tasks in opening.waiting:
            tasks.failed[str(name)] = str(error)

    def _retry(self, name: TopicPartition) -> None:
        self._retrying.discard(name)
        if name in self._failed and name not in self._opening:
            self._open(name, [])

    # --- leaving ---

    def repair(self, partition: Partition, repair: Repair, repaired: Repaired) -> None:
        """Take a partition out of service, and open it anew past what is corrupt or lost. Every byte of it is read."""
        name = partition.name
        why = "its log is being repaired"
        self._leave(partition, False, KafkaStorageError(f"{name} is out of service: {why}"))
        self._failed[name] = why
        self._open(name, [], repair, repaired)

    def remember_failure(self, partition: Partition, why: str) -> None:
        """The supervisor remembers a failed flush, should this process die before the partition is sound again."""
        key = _distrust_key(partition.name)
        if key not in self._worker.child.remembered:
            self._worker.child.remember(key, why[:1000])

    def reopen(self, partition: Partition, why: str) -> None:
        """Take a partition out of service after a failed flush, and open it anew without trusting the page cache.

        The kernel has marked the failed pages clean, so what reads back proves nothing.
        """
        name = partition.name
        if self.serving.get(name) is not partition:
            return
        self._leave(partition, False, KafkaStorageError(f"{name} is out of service: {why}"))
        self._failed[name] = why
        self._open(name, [])

    def _leave(self, partition: Partition, deleted: bool, error: KbrokerError) -> None:
        """No longer served; the folder is free as soon as no thread uses it."""

        def left() -> None:
            if deleted:
                partition.log.let_go()
            else:
                partition.log.abandon()
            self._turns.give_back(partition.name)

        del self.serving[partition.name]
        self._producers.release(partition.log.producers)
        self.on_change(partition.name.topic)
        self._worker.forget(partition)
        partition.leave(deleted, error, left)

    def _let_go(self, name: TopicPartition, deleted: bool, error: KbrokerError) -> None:
        """This worker has nothing to do with that partition any longer."""
        self._failed.pop(name, None)
        if name in self.serving:
            self._leave(self.serving[name], deleted, error)
        opening = self._opening.pop(name, None)
        if opening is not None:
            waiting, opening.waiting = opening.waiting, []
            for tasks in waiting:
                tasks.end()

    def _forget(self, topic_name: str) -> None:
        """Stop serving a topic that is no longer in the catalog; its folders are deleted by `_remove`."""
        topic = self.topics.pop(topic_name)
        self._names.pop(topic.topic_id, None)
        self.on_change(topic_name)
        error = UnknownTopicOrPartition(f"topic {topic_name} was deleted")
        for info in topic.partitions:
            name = TopicPartition(topic_name, info.partition)
            self._let_go(name, True, error)
            self._trust(name)

    def _trust(self, name: TopicPartition) -> None:
        """A log that was opened anew, or is gone, has no pages that the disk did not take."""
        key = _distrust_key(name)
        if key in self._worker.child.remembered:
            self._worker.child.forget(key)

    # --- deleting ---

    def _remove(self, removed: RemovedInfo, tasks: _Tasks) -> None:
        known = self.topics.get(removed.name)
        if known is not None and known.topic_id == removed.topic_id:
            self._forget(removed.name)
        for index in removed.partitions:
            tasks.begin()
            name = TopicPartition(removed.name, index)
            self._turns.take(name, partial(self._delete, name, removed.topic_id, tasks))

    def _delete(self, name: TopicPartition, topic_id: bytes, tasks: _Tasks) -> None:
        folder = self._worker.config.data_dir / str(name)

        def delete() -> tuple[Path, Freeing | None] | None:
            # A topic of the same name may have been made since: its folder carries another id.
            if read_topic_id(folder / PARTITION_METADATA) != topic_id:
                return None
            gone = PartitionLog.delete(folder)
            return gone, free_soon(DISK, gone)

        def deleted(found: tuple[Path, Freeing | None] | None, error: BaseException | None) -> None:
            self._turns.give_back(name)
            if found is not None and found[1] is not None:
                self._worker.freed_space.free_folder(found[0], found[1])
            if error is None:
                tasks.removed.append(RemovedInfo(name.topic, topic_id, [name.partition]))
            else:
                log.error("the folder of deleted partition %s could not be removed: %s", name, error)
            tasks.end()

        self._worker.io.submit(delete, deleted)

    def _tidy(self) -> None:
        """Once: go on with deletions in whose middle a process died."""
        if self._has_tidied:
            return
        self._has_tidied = True
        data_dir = self._worker.config.data_dir

        def look() -> list[Path]:
            return [folder for folder in data_dir.iterdir() if is_deleted_folder(folder.name)]

        def found(folders: list[Path] | None, error: BaseException | None) -> None:
            if error is not None:
                log.error("cannot look for folders of deleted partitions in %s: %s", data_dir, error)
            for folder in folders or ():
                self._worker.freed_space.free_folder(folder)

        self._worker.io.submit(look, found)

    # --- the end ---

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
    """What one catalog update asks for, counted until all is done. Counts one from the start: the asking itself."""

    def __init__(self, done: Callable[[_Tasks], None]) -> None:
        self.owned: list[OwnedPartition] = []
        self.removed: list[RemovedInfo] = []
        self.failed: dict[str, str] = {}
        self._done = done
        self._left = 1

    def begin(self) -> None:
        """One more thing to do."""
        self._left += 1

    def end(self) -> None:
        """One thing is done."""
        self._left -= 1
        if not self._left:
            self._done(self)


def _owned(partition: Partition) -> OwnedPartition:
    return OwnedPartition(partition.topic, partition.partition, partition.log.leader_epoch)


def _distrust_key(name: TopicPartition) -> str:
    return f"flush-failed {name}"
