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
    codec,
    coordination,
    listings,
    log_dirs,
    metadata,
    produce,
    topic_partitions,
)
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import Cluster
from kbroker.log.positions import AppendResult
from kbroker.types import NO_EPOCH, TopicPartition
from kbroker.workers.disk_room import disk_room
from kbroker.workers.kafka_connection import Asked
from kbroker.workers.kafka_door import KafkaDoor
from kbroker.workers.kafka_forwarding import Forwarding
from kbroker.workers.kafka_listeners import kafka_sockets
from kbroker.workers.kafka_nodes import nodes_for
from kbroker.workers.kafka_records import KafkaRecords
from kbroker.workers.kafka_service import Call, KafkaService
from kbroker.workers.partition import AckWaiter, Partition

if TYPE_CHECKING:
    from kbroker.workers.worker import Worker

AckDone = Callable[[KbrokerError | None], None]


class KafkaLeader:
    """A worker's Kafka side."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._forwarding = Forwarding(worker)
        worker.control.on_forwarded = self._forwarding.answered
        records = KafkaRecords(worker.loop, worker.io, worker.table, self._cluster, worker.config.kafka)
        self.service = KafkaService(
            {
                **records.serves,
                ApiKey.METADATA: self._metadata,
                ApiKey.DESCRIBE_TOPIC_PARTITIONS: self._topic_partitions,
                ApiKey.FIND_COORDINATOR: self._find_coordinator,
                ApiKey.DESCRIBE_CLUSTER: self._describe_cluster,
                ApiKey.DESCRIBE_LOG_DIRS: self._log_dirs,
                ApiKey.LIST_GROUPS: self._list_groups,
            },
            self._forward,
            by_hand={ApiKey.PRODUCE: self._produce},
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

    def _find_coordinator(self, call: Call) -> None:
        call.answer(coordination.coordinator_found(call.request, call.version, self._cluster(call.host)))

    def _describe_cluster(self, call: Call) -> None:
        call.answer(coordination.cluster_described(call.request, self._cluster(call.host)))

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
        # Owners begin with 1: what the catalog says before it was told of that is no epoch to compare with.
        return own.log.leader_epoch if own is not None else known_epoch or NO_EPOCH

    # --- produce ---

    def _produce(self, asked: Asked) -> None:
        head = asked.request
        request = produce.read(head.version, head.body)
        acks = request.acks
        outcomes: list[produce.Outcome] = []
        waiting = None
        try:
            request.check()
        except InvalidRequest as error:
            if acks == 0:
                raise
            self._answer_produce(asked, request, [produce.failed(error.code, str(error))] * len(request.wanted))
            return
        for number, item in enumerate(request.wanted):
            try:
                partition = self._find(item)
                produce.check_not_empty(item.batches)
                result = self._worker.append(partition, item.batches, acks)
            except (RequestError, StorageError) as error:
                outcomes.append(produce.failed(code_of(error), str(error)))
                continue
            outcomes.append(
                produce.Outcome(0, None, result.base_offset, result.append_time_ms, result.log_start_offset)
            )
            if result.sync_needed:
                waiting = waiting or _ProduceInProgress(outcomes, partial(self._answer_produce, asked, request))
                waiting.count += 1
                self._when_synced(partition, result, request.timeout_ms, partial(waiting.synced, number))
        if waiting is not None:
            request.strip()
        else:
            self._answer_produce(asked, request, outcomes)

    def _answer_produce(self, asked: Asked, request: produce.ProduceRequest, outcomes: list[produce.Outcome]) -> None:
        version, correlation_id = asked.request.version, asked.request.correlation_id
        failed = None
        for outcome in outcomes:
            if outcome.error_code:
                failed = outcome
                break
        if request.acks == 0:
            if failed is not None:
                # Nobody reads an answer: hanging up is how such a producer learns that it must look for the leader.
                raise InvalidRequest(f"acks=0 and error {failed.error_code}: {failed.message}")
            asked.answer(())
        elif failed is None:
            asked.answer((produce.encode_success(version, correlation_id, request, outcomes),))
        else:
            message = produce.answer(request, outcomes, partial(self._cluster, asked.connection.host))
            asked.answer(codec.write_response(ApiKey.PRODUCE, version, correlation_id, message))

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

    def _when_synced(self, partition: Partition, result: AppendResult, timeout_ms: int, done: AckDone) -> None:
        deadline_ms = self._worker.loop.now_ms() + max(1, timeout_ms)
        partition.answer_when_synced(AckWaiter(result.ack_offset, deadline_ms, done))


class _ProduceInProgress:
    """A Produce request that waits for the disk: for `count` of its partitions."""

    __slots__ = ("_answer", "_outcomes", "count")

    def __init__(self, outcomes: list[produce.Outcome], answer: Callable[[list[produce.Outcome]], None]) -> None:
        self._outcomes = outcomes
        self._answer = answer
        self.count = 0

    def synced(self, number: int, error: KbrokerError | None) -> None:
        """The disk has one partition's batches, or does not."""
        if error is not None:
            self._outcomes[number] = produce.failed(code_of(error), str(error))
        self.count -= 1
        if not self.count:
            self._answer(self._outcomes)
