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
    codec,
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
from kbroker.workers.kafka_connection import Asked
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

AckDone = Callable[[KbrokerError | None], None]
_UNKNOWN = produce.failed(-1, "")


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
                **records.serves,
                **KafkaCluster(self._cluster).serves,
                ApiKey.DELETE_RECORDS: self._delete_records,
                ApiKey.METADATA: self._metadata,
                ApiKey.DESCRIBE_LOG_DIRS: self._log_dirs,
                **KafkaGroups(GroupsElsewhere(), worker.table).serves,
            },
            self._forward,
            by_hand={ApiKey.PRODUCE: self._produce, ApiKey.FETCH: records.fetch},
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

    def _produce(self, asked: Asked) -> None:
        head = asked.request
        request = produce.read(head.version, head.body)
        is_usual = len(request.wanted) == 1 and request.acks == 1 and request.transactional_id is None
        if is_usual and head.version >= produce.FLEXIBLE and self._produce_at_once(asked, request):
            return
        progress = _ProduceInProgress(asked, request, self._cluster)
        try:
            request.check()
        except InvalidRequest as error:
            if request.acks == 0:
                raise
            progress.refuse_all(error)
            return
        for number, item in enumerate(request.wanted):
            try:
                partition = self._find(item)
                produce.check_payload(item.batches, head.version)
                if partition.is_rewritten:
                    then = partial(self._rewritten, partition, progress, number)
                    self._worker.rewriting.rewrite(partition, item.batches, then)
                    continue
                self._append(partition, item.batches, progress, number)
            except (RequestError, StorageError) as error:
                progress.settle(number, produce.refused(error))
        progress.strip()

    def _produce_at_once(self, asked: Asked, request: produce.ProduceRequest) -> bool:
        """The short way of the usual request: one partition's batches, acks=1. False: its topic asks more of records,
        and nothing was done."""
        item = request.wanted[0]
        try:
            partition = self._find(item)
            if partition.is_rewritten:
                return False
            produce.check_payload(item.batches, asked.request.version)
            result = self._worker.append(partition, item.batches, request.acks)
        except (RequestError, StorageError) as error:
            _ProduceInProgress(asked, request, self._cluster).settle(0, produce.refused(error))
            return True
        answer = produce.encode_one(
            asked.request.correlation_id, request, result.base_offset, result.append_time_ms, result.log_start_offset
        )
        asked.answer((answer,))
        return True

    def _append(
        self, partition: Partition, batches: bytes | bytearray | memoryview, progress: _ProduceInProgress, number: int
    ) -> None:
        request = progress.request
        result = self._worker.append(partition, batches, request.acks)
        outcome = produce.Outcome(0, None, result.base_offset, result.append_time_ms, result.log_start_offset)
        if result.sync_needed:
            self._when_synced(partition, result, request.timeout_ms, partial(progress.synced, number, outcome))
        else:
            progress.settle(number, outcome)

    def _rewritten(
        self,
        partition: Partition,
        progress: _ProduceInProgress,
        number: int,
        batches: bytes | bytearray | memoryview,
        error: KbrokerError | None,
    ) -> None:
        """The batches are as their topic wants them, or it does not want them."""
        try:
            if error is not None:
                raise error
            self._append(partition, batches, progress, number)
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

    __slots__ = ("_asked", "_cluster", "_has_failed", "_left", "_outcomes", "request")

    def __init__(self, asked: Asked, request: produce.ProduceRequest, cluster: Callable[[str], Cluster]) -> None:
        self._asked = asked
        self._cluster = cluster
        self._has_failed = False
        self.request = request
        self._left = count = len(request.wanted)
        self._outcomes: list[produce.Outcome] = [_UNKNOWN] * count
        if not count:
            self._finish()

    def settle(self, number: int, outcome: produce.Outcome) -> None:
        """That is what became of one partition's batches."""
        self._outcomes[number] = outcome
        if outcome.error_code:
            self._has_failed = True
        self._left -= 1
        if not self._left:
            self._finish()

    def synced(self, number: int, outcome: produce.Outcome, error: KbrokerError | None) -> None:
        """The disk has them, or does not."""
        try:
            self.settle(number, outcome if error is None else produce.refused(error))
        except Exception as unforeseen:
            # The partition that calls here knows nothing of requests.
            self._asked.fail(unforeseen)

    def refuse_all(self, error: KbrokerError) -> None:
        """Nothing of it is done, for one reason."""
        for number in range(self._left):
            self.settle(number, produce.refused(error))

    def strip(self) -> None:
        """What waits keeps no record: they lie in a frame that is used again."""
        if self._left:
            self.request.strip()

    def _finish(self) -> None:
        asked, request, outcomes = self._asked, self.request, self._outcomes
        version, correlation_id = asked.request.version, asked.request.correlation_id
        if request.acks == 0:
            if self._has_failed:
                # Nobody reads an answer: hanging up is how such a producer learns that it must look for the leader.
                failed = next(outcome for outcome in outcomes if outcome.error_code)
                asked.connection.close(f"acks=0 and error {failed.error_code}: {failed.message}")
            else:
                asked.answer(())
        elif self._has_failed:
            message = produce.answer(request, outcomes, partial(self._cluster, asked.connection.host))
            asked.answer(codec.write_response(ApiKey.PRODUCE, version, correlation_id, message))
        else:
            asked.answer((produce.encode_success(version, correlation_id, request, outcomes),))
