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
    code_of,
)
from kbroker.kafka import (
    list_offsets,
    listings,
    log_dirs,
    metadata,
    offset_for_leader_epoch,
    produce,
    topic_partitions,
)
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import Cluster
from kbroker.log.positions import AppendResult
from kbroker.types import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, TopicPartition
from kbroker.workers.disk_room import disk_room
from kbroker.workers.kafka_door import KafkaDoor
from kbroker.workers.kafka_fetching import KafkaFetch, check_epoch
from kbroker.workers.kafka_forwarding import Forwarding
from kbroker.workers.kafka_listeners import kafka_sockets
from kbroker.workers.kafka_nodes import nodes_for
from kbroker.workers.kafka_service import Call, KafkaService
from kbroker.workers.partition import AckWaiter, Partition

if TYPE_CHECKING:
    from kbroker.workers.worker import Worker

MAX_TIMESTAMP = -3
EARLIEST_LOCAL_TIMESTAMP = -4
"""Of what lies on this host; nothing lies elsewhere."""
LATEST_TIERED_TIMESTAMP = -5

_NOTHING = memoryview(b"")
AckDone = Callable[[KbrokerError | None], None]
LeaderOf = Callable[[int], tuple[int, int] | None]


class KafkaLeader:
    """A worker's Kafka side."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._forwarding = Forwarding(worker)
        worker.control.on_forwarded = self._forwarding.answered
        self.service = KafkaService(
            {
                ApiKey.PRODUCE: self._produce,
                ApiKey.FETCH: self._fetch,
                ApiKey.LIST_OFFSETS: self._list_offsets,
                ApiKey.OFFSET_FOR_LEADER_EPOCH: self._offset_for_leader_epoch,
                ApiKey.METADATA: self._metadata,
                ApiKey.DESCRIBE_TOPIC_PARTITIONS: self._topic_partitions,
                ApiKey.DESCRIBE_LOG_DIRS: self._log_dirs,
                ApiKey.LIST_GROUPS: self._list_groups,
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
        call.answer(metadata.answer(call.request, call.version, cluster))

    def _topic_partitions(self, call: Call) -> None:
        call.answer(topic_partitions.answer(call.request, self._cluster(call.host)))

    def _log_dirs(self, call: Call) -> None:
        folder = self._worker.config.data_dir
        sizes = {(name.topic, name.partition): p.log.size_bytes for name, p in self._worker.table.serving.items()}
        call.answer(log_dirs.answer(call.request, str(folder), sizes, *disk_room(folder)))

    def _list_groups(self, call: Call) -> None:
        # Clients ask every node and merge: the coordinator lists them all.
        call.answer(listings.groups(call.request, ()))

    def _cluster(self, host: str) -> Cluster:
        table, child = self._worker.table, self._worker.child
        return Cluster(child.cluster_id, nodes_for(child, host), table.topics, table.name_of, self._epoch_of)

    def _epoch_of(self, topic: str, index: int, known_epoch: int) -> int:
        own = self._worker.table.serving.get(TopicPartition(topic, index))
        return known_epoch if own is None else own.log.leader_epoch

    # --- produce ---

    def _produce(self, call: Call) -> None:
        request = call.request
        acks = request.acks
        try:
            items = produce.wanted(request)
        except InvalidRequest as error:
            if acks == 0:
                raise
            failed = produce.failed(error.code, str(error))
            count = sum(len(topic.partition_data) for topic in request.topic_data)
            call.answer(produce.answer(request, [failed] * count, lambda _number: None))
            return
        progress = _ProduceInProgress(call, len(items), partial(self._leader_of, items))
        for number, item in enumerate(items):
            try:
                partition = self._find(item)
                produce.check_not_empty(item.batches)
                result = self._worker.append(partition, item.batches, acks)
            except (RequestError, StorageError) as error:
                progress.settle(number, produce.failed(code_of(error), str(error)))
                continue
            outcome = _appended(result)
            if result.sync_needed:
                self._when_synced(partition, result, request.timeout_ms, partial(progress.synced, number, outcome))
            else:
                progress.settle(number, outcome)
        progress.strip(items)

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

    def _leader_of(self, items: list[produce.Wanted], number: int) -> tuple[int, int] | None:
        item = items[number]
        table = self._worker.table
        topic = table.topics.get(item.topic or table.name_of(item.topic_id) or "")
        if topic is None or not 0 <= item.partition < len(topic.partitions):
            return None
        known = topic.partitions[item.partition]
        return None if known.leader == self._worker.node else (known.leader, known.leader_epoch)

    def _when_synced(self, partition: Partition, result: AppendResult, timeout_ms: int, done: AckDone) -> None:
        deadline_ms = self._worker.loop.now_ms() + max(1, timeout_ms)
        partition.answer_when_synced(AckWaiter(result.ack_offset, deadline_ms, done))

    # --- fetch and the like ---

    def _fetch(self, call: Call) -> None:
        KafkaFetch(self._worker, call).start()

    def _list_offsets(self, call: Call) -> None:
        call.answer(list_offsets.answer(call.request, self._find_offset))

    def _find_offset(self, topic: str, index: int, known_epoch: int, timestamp_ms: int) -> list_offsets.Found:
        try:
            log = self._worker.table.get(topic, index).log
            check_epoch(log, known_epoch)
            if timestamp_ms in (EARLIEST_TIMESTAMP, EARLIEST_LOCAL_TIMESTAMP):
                offset = log.log_start_offset
                return list_offsets.Found(0, offset, -1, log.epochs.at(offset))
            if timestamp_ms == LATEST_TIMESTAMP:
                return list_offsets.Found(0, log.high_watermark, -1, log.leader_epoch)
            if timestamp_ms == LATEST_TIERED_TIMESTAMP:
                return list_offsets.Found()
            if timestamp_ms == MAX_TIMESTAMP:
                timestamp_ms = max(segment.max_timestamp for segment in log.segments)
                place = log.offset_for_timestamp(timestamp_ms) if timestamp_ms >= 0 else None
            elif timestamp_ms < 0:
                raise InvalidRequest(f"timestamp {timestamp_ms} means nothing")
            else:
                place = log.offset_for_timestamp(timestamp_ms)
        except (RequestError, StorageError) as error:
            return list_offsets.Found(code_of(error))
        if place is None:
            return list_offsets.Found(0, -1, -1, -1)
        return list_offsets.Found(0, place[0], place[1], log.epochs.at(place[0]))

    def _offset_for_leader_epoch(self, call: Call) -> None:
        call.answer(offset_for_leader_epoch.answer(call.request, self._find_epoch_end))

    def _find_epoch_end(self, topic: str, index: int, known_epoch: int, epoch: int) -> offset_for_leader_epoch.Found:
        try:
            log = self._worker.table.get(topic, index).log
            check_epoch(log, known_epoch)
        except (RequestError, StorageError) as error:
            return offset_for_leader_epoch.Found(code_of(error))
        return offset_for_leader_epoch.Found(0, *log.epoch_end_offset(epoch))


class _ProduceInProgress:
    """A Produce request whose partitions are settled one by one; answered after the last."""

    __slots__ = ("_call", "_leader_of", "_left", "_outcomes")

    def __init__(self, call: Call, count: int, leader_of: LeaderOf) -> None:
        self._call = call
        self._leader_of = leader_of
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
            outcome = produce.failed(code_of(error), str(error))
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
                call.answer(produce.answer(request, self._outcomes, self._leader_of))
            else:
                call.answer_pieces(
                    (produce.encode_success(call.version, call.correlation_id, request, self._outcomes),)
                )
            return
        failed = next((outcome for outcome in self._outcomes if outcome.error_code), None)
        if failed is not None:
            # Nobody reads an answer: hanging up is how such a producer learns that it must look for the leader.
            raise InvalidRequest(f"acks=0 and error {failed.error_code}: {failed.message}")
        call.answer_pieces(())


def _appended(result: AppendResult) -> produce.Outcome:
    return produce.Outcome(0, None, result.base_offset, result.append_time_ms, result.log_start_offset)
