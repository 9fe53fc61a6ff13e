"""What Kafka clients ask of a worker: to append and read where it leads. All else is the coordinator's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from kbroker.errors import (
    InvalidRequest,
    KbrokerError,
    LeaderNotAvailable,
    NotLeaderOrFollower,
    RequestError,
    RequestTimedOut,
    StorageError,
    UnknownTopicId,
    UnknownTopicOrPartition,
)
from kbroker.kafka import (
    codec,
    metadata,
    produce,
)
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import Cluster
from kbroker.kafka.metadata_answers import MetadataAnswers
from kbroker.log.positions import AppendResult
from kbroker.types import NO_EPOCH, TopicPartition
from kbroker.workers.dear_time import rest_ms
from kbroker.workers.disk_room import answer_log_dirs, ask_disk_room
from kbroker.workers.in_turns import SLICE
from kbroker.workers.kafka_cluster import KafkaCluster, illegal_names
from kbroker.workers.kafka_connection import Asked, answer_each
from kbroker.workers.kafka_deletion import DeletionInProgress
from kbroker.workers.kafka_door import KafkaDoor
from kbroker.workers.kafka_forwarding import Forwarding
from kbroker.workers.kafka_groups import GroupsElsewhere, KafkaGroups
from kbroker.workers.kafka_listeners import kafka_sockets
from kbroker.workers.kafka_nodes import nodes_for
from kbroker.workers.kafka_records import KafkaRecords
from kbroker.workers.kafka_service import Call, KafkaService, caller_of
from kbroker.workers.partition import AckWaiter, Partition
from kbroker.workers.refusal_log import RefusalLog

if TYPE_CHECKING:
    from kbroker.workers.worker import Worker

AckDone = Callable[[KbrokerError | None], None]
PARTITIONS_PER_MS = 400
"""A Produce for many partitions takes a millisecond for so many where it is read and answered, and is not in slices."""
_UNKNOWN = produce.failed(-1, "")
_NO_BATCHES = memoryview(b"")
_MENDED_BY_RETRIES = frozenset(
    {
        UnknownTopicOrPartition.code,
        LeaderNotAvailable.code,
        NotLeaderOrFollower.code,
        RequestTimedOut.code,
        StorageError.code,
        UnknownTopicId.code,
    }
)
_PREPARE_AFTER_MS = 200


class _Gathered:
    """Usual Produce requests of one connection that differ in nothing but their batches."""

    __slots__ = ("asked", "batches", "partition", "target")

    def __init__(self, partition: Partition, target: produce.Target) -> None:
        self.partition = partition
        self.target = target
        self.asked: list[Asked] = []
        self.batches: list[memoryview] = []


class KafkaLeader:
    """A worker's Kafka side."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._forwarding = Forwarding(
            worker.loop, worker.control, worker.child.incarnation, worker.config.kafka.request_timeout_ms
        )
        self._answers = MetadataAnswers()
        self._gathered: dict[int, _Gathered] = {}  # by the identity of their target
        worker.table.on_change = lambda topic: self._answers.forget((topic,))
        self._refusals = RefusalLog(worker.loop)
        records = KafkaRecords(
            worker.loop,
            worker.parking,
            worker.io,
            worker.record_work,
            worker.table,
            self._cluster,
            worker.config.kafka,
            self._refusals,
        )
        self.service = KafkaService(
            {
                **records.serves,
                **KafkaCluster(self._cluster, self._refusals).serves,
                ApiKey.DELETE_RECORDS: self._delete_records,
                ApiKey.METADATA: self._metadata,
                ApiKey.DESCRIBE_LOG_DIRS: self._log_dirs,
                **KafkaGroups(GroupsElsewhere(), worker.table, worker.change_log, self._refusals).serves,
            },
            self._forwarding.forward,
            by_hand={ApiKey.FETCH: records.fetch},
            elements_max=worker.config.kafka.request_elements_max,
        )
        self._produce_versions: set[int] = set()
        """That clients have used; what writes refusals of them is made, or will be soon."""
        sockets = kafka_sockets(worker.child.listeners, worker.node)
        self.door = KafkaDoor(worker.loop, sockets, self._serve, worker.config.kafka, served_all=self._append_gathered)

    def _prepare_refusals(self, version: int) -> None:
        """Make what writes them, soon: on first use files would be opened, and the reason for refusing may be that no
        more can be."""
        self._produce_versions.add(version)

        def prepare() -> None:
            codec.response_types(ApiKey.PRODUCE)
            codec.response_writer(ApiKey.PRODUCE, version)

        self._worker.loop.call_later(_PREPARE_AFTER_MS, prepare)

    # --- the cluster ---

    def _metadata(self, call: Call) -> None:
        if metadata.missing(call.request, call.version, self._worker.table.topics):
            self._forwarding.forward(call, instead=self._answer_metadata)
        else:
            self._answer_metadata(call)

    def _answer_metadata(self, call: Call) -> None:
        cluster = self._cluster(call.host)
        refused = illegal_names(call.request, cluster.topics)
        call.answer_pieces((self._answers.encode(call.request, call.version, call.correlation_id, cluster, refused),))

    def _log_dirs(self, call: Call) -> None:
        folder = self._worker.config.data_dir
        sizes = {(name.topic, name.partition): p.log.size_bytes for name, p in self._worker.table.serving.items()}
        ask_disk_room(self._worker.io, folder, lambda room: answer_log_dirs(call, folder, sizes, room))

    def _cluster(self, host: str) -> Cluster:
        table, child = self._worker.table, self._worker.child
        return Cluster(child.cluster_id, nodes_for(child, host), table.topics, table.name_of, self._epoch_of)

    def _epoch_of(self, topic: str, index: int, known_epoch: int) -> int:
        own = self._worker.table.serving.get(TopicPartition(topic, index))
        # Owners begin with 1: what the catalog says before it was told of that is no epoch to compare with.
        return own.log.leader_epoch if own is not None else known_epoch or NO_EPOCH

    # --- produce ---

    def _serve(self, asked: Asked) -> None:
        request = asked.request
        if request.api_key != ApiKey.PRODUCE:
            # What follows a Produce request on its connection sees what that has appended.
            self._append_gathered()
            self.service.serve(asked)
            return
        if request.version not in self._produce_versions:
            self._prepare_refusals(request.version)
        one = produce.read_one(request.version, request.body)
        if one is not None:
            target, batches = one
            gathered = self._gathered.get(id(target)) or self._begin_gathering(target)
            if gathered is not None:
                gathered.asked.append(asked)
                gathered.batches.append(batches)
                return
        self._append_gathered()
        elements_max = self._worker.config.kafka.request_elements_max
        self._produce_each(asked, produce.read(request.version, request.body, elements_max))

    def _begin_gathering(self, target: produce.Target) -> _Gathered | None:
        """Where usual requests wait until all that one receive has brought can be appended by one write. None: these
        want no answer, are to be refused, or their topic asks more of records."""
        if not target.acks:
            return None
        try:
            partition = self._find(target.topic, target.topic_id, target.partition)
        except RequestError:
            return None
        if partition.is_rewritten:
            return None
        if self._gathered and any(other.partition is partition for other in self._gathered.values()):
            self._append_gathered()  # a partition's requests stay in their order
        gathered = self._gathered[id(target)] = _Gathered(partition, target)
        return gathered

    def _produce_each(self, asked: Asked, request: produce.ProduceRequest) -> None:
        progress = _ProduceInProgress(asked, request, self._cluster, self._refusals)
        try:
            request.check()
        except InvalidRequest as error:
            if request.acks == 0:
                raise
            progress.refuse_all(error)
            return
        if len(request.wanted) <= SLICE:
            self._produce_slice(asked, progress, 0)
            return
        # Its connection's next request waits, so that each partition's batches stay in their order.
        request.keep()
        connection = asked.connection
        connection.count_kept(asked.request.size_bytes)
        connection.hold()

        def begin() -> None:
            connection.dear_time.spent(len(request.wanted) // PARTITIONS_PER_MS)
            self._produce_next(asked, progress, 0)

        connection.dear_time.later(connection.client_host, begin)

    def _produce_next(self, asked: Asked, progress: _ProduceInProgress, start: int) -> None:
        """One slice of a request for many partitions. The loop that calls here knows nothing of requests."""
        connection = asked.connection
        try:
            end = self._produce_slice(asked, progress, start)
        except Exception as error:
            asked.fail(error)
            end = len(progress.request.wanted)
        if end < len(progress.request.wanted):
            self._worker.loop.call_soon(partial(self._produce_next, asked, progress, end))
        else:
            connection.count_kept(-asked.request.size_bytes)
            connection.call_later(rest_ms(end // PARTITIONS_PER_MS), connection.release)

    def _produce_slice(self, asked: Asked, progress: _ProduceInProgress, start: int) -> int:
        """Append for SLICE partitions of a request from number `start` on. Returns the number that comes next."""
        wanted, version = progress.request.wanted, asked.request.version
        end = min(len(wanted), start + SLICE)
        for number in range(start, end):
            item = wanted[number]
            try:
                partition = self._find(item.topic, item.topic_id, item.partition)
                produce.check_payload(item.batches, version)
                if partition.is_rewritten:
                    then = partial(self._rewritten, partition, progress, number)
                    self._worker.rewriting.rewrite(partition, item.batches, then)
                    continue
                self._append(partition, item.batches, progress, number)
            except (RequestError, StorageError) as error:
                progress.settle(number, produce.refused(error))
        if end == len(wanted):
            progress.strip()
        return end

    def _append_gathered(self) -> None:
        """Append and answer what was gathered. Before its bytes are overwritten, or anything else is served: nobody can
        tell it from an append at once."""
        if not self._gathered:
            return
        each, self._gathered = self._gathered, {}
        for gathered in each.values():
            try:
                if len(gathered.batches) == 1 or not self._append_together(gathered):
                    for asked, batches in zip(gathered.asked, gathered.batches, strict=True):
                        self._append_alone(gathered.partition, gathered.target, asked, batches)
            except Exception as error:
                for asked in gathered.asked:
                    asked.fail(error)

    def _append_together(self, gathered: _Gathered) -> bool:
        """Append the batches of several requests by one write. False: nothing was done."""
        target = gathered.target
        result = self._worker.append_together(gathered.partition, gathered.batches, target.acks)
        if result is None:
            return False
        assert result.batch_offsets is not None, "there were several batches"
        self._answer(gathered.partition, target, gathered.asked, result.batch_offsets, result)
        return True

    def _append_alone(self, partition: Partition, target: produce.Target, asked: Asked, batches: memoryview) -> None:
        try:
            produce.check_one_batch(batches)
            result = self._worker.append(partition, batches, target.acks)
        except (RequestError, StorageError) as error:
            self._refuse(asked, target, error)
        else:
            self._answer(partition, target, [asked], (result.base_offset,), result)

    def _answer(
        self,
        partition: Partition,
        target: produce.Target,
        requests: list[Asked],
        offsets: Sequence[int],
        result: AppendResult,
    ) -> None:
        """Answer requests of one connection with their base offsets, now or when the disk has their records."""
        append_time_ms, log_start_offset = result.append_time_ms, result.log_start_offset
        answers = [
            target.answer(asked.request.correlation_id, offset, append_time_ms, log_start_offset)
            for asked, offset in zip(requests, offsets, strict=True)
        ]
        if not result.sync_needed:
            answer_each(requests, answers)
            return

        def synced(error: KbrokerError | None) -> None:
            try:
                if error is None:
                    answer_each(requests, answers)
                    return
                for asked in requests:
                    self._refuse(asked, target, error)
            except Exception as unforeseen:
                # The partition that calls here knows nothing of requests.
                for asked in requests:
                    asked.fail(unforeseen)

        self._when_synced(partition, result, target.timeout_ms, synced, requests[0])

    def _refuse(self, asked: Asked, target: produce.Target, error: KbrokerError) -> None:
        progress = _ProduceInProgress(asked, target.request(_NO_BATCHES), self._cluster, self._refusals)
        progress.settle(0, produce.refused(error))

    def _append(
        self, partition: Partition, batches: bytes | bytearray | memoryview, progress: _ProduceInProgress, number: int
    ) -> None:
        request = progress.request
        result = self._worker.append(partition, batches, request.acks)
        outcome = produce.Outcome(0, None, result.base_offset, result.append_time_ms, result.log_start_offset)
        if result.sync_needed:
            done = partial(progress.synced, number, outcome)
            self._when_synced(partition, result, request.timeout_ms, done, progress.asked)
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

    def _find(self, topic: str, topic_id: bytes, index: int) -> Partition:
        if self._worker.is_draining:
            raise NotLeaderOrFollower("the broker is stopping")
        if not topic:
            known = self._worker.table.name_of(topic_id)
            if known is None:
                raise UnknownTopicId(f"no topic has the id {topic_id.hex()}")
            topic = known
        return self._worker.table.get(topic, index)

    def _delete_records(self, call: Call) -> None:
        DeletionInProgress(self._worker, call, self._refusals).start()

    def _when_synced(
        self, partition: Partition, result: AppendResult, timeout_ms: int, done: AckDone, asked: Asked
    ) -> None:
        deadline_ms = self._worker.loop.now_ms() + max(1, timeout_ms)
        partition.answer_when_synced(AckWaiter(result.ack_offset, deadline_ms, done, asked))


class _ProduceInProgress:
    """A Produce request whose partitions are settled one by one; answered after the last."""

    __slots__ = ("_cluster", "_has_failed", "_left", "_outcomes", "_refusals", "asked", "request")

    def __init__(
        self,
        asked: Asked,
        request: produce.ProduceRequest,
        cluster: Callable[[str], Cluster],
        refusals: RefusalLog,
    ) -> None:
        self.asked = asked
        self._cluster = cluster
        self._refusals = refusals
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
            self.asked.fail(unforeseen)

    def refuse_all(self, error: KbrokerError) -> None:
        """Nothing of it is done, for one reason."""
        for number in range(self._left):
            self.settle(number, produce.refused(error))

    def strip(self) -> None:
        """What waits keeps no record: they lie in a frame that is used again."""
        if self._left:
            self.request.strip()

    def _tell_refused(self) -> None:
        """Why, for clients that show the code alone. What a retry may mend is no refusal."""
        for item, outcome in zip(self.request.wanted, self._outcomes, strict=True):
            if outcome.error_code and outcome.error_code not in _MENDED_BY_RETRIES:
                what = f"records for {item.topic or item.topic_id.hex()}-{item.partition}"
                why = outcome.message or f"error {outcome.error_code}"
                self._refusals.say(caller_of(self.asked), what, why, kind=f"{what} {outcome.error_code}")

    def _finish(self) -> None:
        asked, request, outcomes = self.asked, self.request, self._outcomes
        version, correlation_id = asked.request.version, asked.request.correlation_id
        if self._has_failed:
            self._tell_refused()
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
