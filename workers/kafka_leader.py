"""What Kafka clients ask of a worker: to append and read where it leads. All else is the coordinator's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kbroker.errors import (
    InvalidRequest,
    KbrokerError,
    NotLeaderOrFollower,
    RequestError,
    StorageError,
    UnknownTopicId,
)
from kbroker.kafka import (
    log_dirs,
    metadata,
    produce,
)
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import Cluster
from kbroker.kafka.metadata_answers import MetadataAnswers
from kbroker.log.positions import AppendResult
from kbroker.types import NO_EPOCH, TopicPartition
from kbroker.workers.disk_room import disk_room
from kbroker.workers.kafka_cluster import KafkaCluster, illegal_names
from kbroker.workers.kafka_deletion import DeletionInProgress
from kbroker.workers.kafka_door import KafkaDoor
from kbroker.workers.kafka_forwarding import Forwarding
from kbroker.workers.kafka_groups import GroupsElsewhere, KafkaGroups
from kbroker.workers.kafka_listeners import kafka_sockets
from kbroker.workers.kafka_nodes import nodes_for
from kbroker.workers.kafka_records import KafkaRecords
from kbroker.workers.kafka_service import Call, KafkaService
from kbroker.workers.partition import AckWaiter, Partition

if TYPE_CHECKING:
    from kbroker.workers.worker import Worker

_NOTHING = memoryview(b"")
AckDone = Callable[[KbrokerError | None], None]


class KafkaLeader:
    """A worker's Kafka side."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._forwarding = Forwarding(worker)
        worker.control.on_forwarded = self._forwarding.answered
        self._answers = MetadataAnswers()
        worker.table.on_change = lambda topic: self._answers.forget((topic,))
        records = KafkaRecords(worker.loop, worker.io, worker.table, self._cluster, worker.config.kafka)
        self.service = KafkaService(
            {
                ApiKey.PRODUCE: self._produce,
                **records.serves,
                **KafkaCluster(self._cluster).serves,
                ApiKey.DELETE_RECORDS: self._delete_records,
                ApiKey.METADATA: self._metadata,
                ApiKey.DESCRIBE_LOG_DIRS: self._log_dirs,
                **KafkaGroups(GroupsElsewhere(), worker.table).serves,
            },
            self._forward,
        )
        sockets = kafka_sockets(worker.child.listeners, worker.node)
        self.door = KafkaDoor(worker.loop, sockets, self.service.serve, worker.config.kafka)

    def _forward(self, call: Call) -> None:
        if not self._forwarding.forward(call):
            call.give_up("")

    def follow_peers(self) -> None:
        """The supervisor's table of processes has changed."""
        self._forwarding.follow_peers()

    # --- the cluster ---

    def _metadata(self, call: Call) -> None:
        cluster = self._cluster(call.host)
        if metadata.missing(call.request, call.version, cluster.topics) and self._forwarding.forward(call):
            return
        refused = illegal_names(call.request, cluster.topics)
        call.answer_pieces((self._answers.encode(call.request, call.version, call.correlation_id, cluster, refused),))

    def _log_dirs(self, call: Call) -> None:
        folder = self._worker.config.data_dir
        sizes = {(name.topic, name.partition): p.log.size_bytes for name, p in self._worker.table.serving.items()}
        call.answer(log_dirs.answer(call.request, str(folder), sizes, *disk_room(folder)))

    def _cluster(self, host: str) -> Cluster:
        table, child = self._worker.table, self._worker.child
        return Cluster(child.cluster_id, nodes_for(child, host), table.topics, table.name_of, self._epoch_of)

    def _epoch_of(self, topic: str, index: int, known_epoch: int) -> int:
        own = self._worker.table.serving.get(TopicPartition(topic, index))
        # Owners begin with 1: what the catalog says before it was told of that is no epoch to compare with.
        return own.log.leader_epoch if own is not None else known_epoch or NO_EPOCH

    # --- produce ---

    def _produce(self, call: Call) -> None:
        request = call.request
        acks = request.acks
        cluster = partial(self._cluster, call.host)
        try:
            items = produce.wanted(request)
        except InvalidRequest as error:
            if acks == 0:
                raise
            failed = produce.failed(error.code, str(error))
            count = sum(len(topic.partition_data) for topic in request.topic_data)
            call.answer(produce.answer(request, [failed] * count, cluster))
            return
        progress = _ProduceInProgress(call, len(items), cluster)
        for number, item in enumerate(items):
            try:
                partition = self._find(item)
                produce.check_payload(item.batches, call.version)
                if partition.is_rewritten:
                    then = partial(self._rewritten, partition, request.timeout_ms, acks, progress, number)
                    self._worker.rewriting.rewrite(partition, item.batches, then)
                    continue
                self._append(partition, item.batches, request.timeout_ms, acks, progress, number)
            except (RequestError, StorageError) as error:
                progress.settle(number, produce.refused(error))
        progress.strip(items)

    def _append(
        self,
        partition: Partition,
        batches: bytes | bytearray | memoryview,
        timeout_ms: int,
        acks: int,
        progress: _ProduceInProgress,
        number: int,
    ) -> None:
        result = self._worker.append(partition, batches, acks)
        outcome = _appended(result)
        if result.sync_needed:
            self._when_synced(partition, result, timeout_ms, partial(progress.synced, number, outcome))
        else:
            progress.settle(number, outcome)

    def _rewritten(
        self,
        partition: Partition,
        timeout_ms: int,
        acks: int,
        progress: _ProduceInProgress,
        number: int,
        batches: bytes | bytearray | memoryview,
        error: KbrokerError | None,
    ) -> None:
        """The batches are as their topic wants them, or it does not want them."""
        try:
            if error is not None:
                raise error
            self._append(partition, batches, timeout_ms, acks, progress, number)
        except (RequestError, StorageError) as refusal:
            progress.settle(number, produce.refused(refusal))

    def _find(self, item: produce.Wanted) -> Partition:
        if self._worker.is_draining:
            raise NotLeaderOrFollower("the broker is stopping")
        name = item.topic
        if not name:
            known = self._worker.table.name_of(item.topic_id)
            if known is None:
                raise UnknownTopicId(f"no topic has the id {item.topic_id.hex()}")
            name = known
        return self._worker.table.get(name, item.partition)

    def _delete_records(self, call: Call) -> None:
        DeletionInProgress(self._worker, call).start()

    def _when_synced(self, partition: Partition, result: AppendResult, timeout_ms: int, done: AckDone) -> None:
        deadline_ms = self._worker.loop.now_ms() + max(1, timeout_ms)
        partition.answer_when_synced(AckWaiter(result.ack_offset, deadline_ms, done))


class _ProduceInProgress:
    """A Produce request whose partitions are settled one by one; answered after the last."""

    __slots__ = ("_call", "_cluster", "_left", "_outcomes")

    def __init__(self, call: Call, count: int, cluster: Callable[[], Cluster]) -> None:
        self._call = call
        self._cluster = cluster
        self._left = count
        self._outcomes = [produce.failed(-1, "")] * count
        if not count:
            self._finish()

    def settle(self, number: int, outcome: produce.Outcome) -> None:
        """That is what became of one partition's batches."""
        self._outcomes[number] = outcome
        self._left -= 1
        if not self._left:
            self._finish()

    def synced(self, number: int, outcome: produce.Outcome, error: KbrokerError | None) -> None:
        """The disk has them, or does not."""
        if error is not None:
            outcome = produce.refused(error)
        self.settle(number, outcome)

    def strip(self, items: list[produce.Wanted]) -> None:
        """What waits keeps no record: they lie in a frame that is used again."""
        if not self._left:
            return
        items[:] = [item._replace(batches=_NOTHING) for item in items]
        for topic in self._call.request.topic_data:
            for partition in topic.partition_data:
                partition.records = None

    def _finish(self) -> None:
        call, request = self._call, self._call.request
        if request.acks != 0:
            if any(outcome.error_code for outcome in self._outcomes):
                call.answer(produce.answer(request, self._outcomes, self._cluster))
            else:
                call.answer_pieces(
                    (produce.encode_success(call.version, call.correlation_id, request, self._outcomes),)
                )
            return
        failed = next((outcome for outcome in self._outcomes if outcome.error_code), None)
        if failed is not None:
            # Nobody reads an answer: hanging up is how such a producer learns that it must look for the leader.
            call.give_up(f"acks=0 and error {failed.error_code}: {failed.message}")
            return
        call.answer_pieces(())


def _appended(result: AppendResult) -> produce.Outcome:
    return produce.Outcome(0, None, result.base_offset, result.append_time_ms, result.log_start_offset)
