"""A worker: owns a set of partitions, serves their clients, hands their descriptors to readers on this host.

One loop, one thread; what may block goes to the I/O threads. At the end of each turn of the loop everything that was
appended in it is published at once, and one group commit is begun for each partition on whose disk somebody waits.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from kbroker.config import Config, make_config
from kbroker.errors import (
    InvalidRequest,
    KafkaStorageError,
    KbrokerError,
    MessageTooLarge,
    NotLeaderOrFollower,
    PolicyViolation,
    RequestError,
    StorageError,
    ThrottlingQuotaExceeded,
    UnknownTopicId,
    code_of,
)
from kbroker.log.damage import Damage, Repair
from kbroker.log.log import PartitionLog
from kbroker.log.positions import AppendResult, SegmentInfo
from kbroker.log.storage import DISK
from kbroker.shm.connection import refuse_descriptors
from kbroker.shm.server import DescriptorServer
from kbroker.types import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, worker_node
from kbroker.wire import codec, endpoints
from kbroker.wire import messages as m
from kbroker.wire.control import CatalogUpdate, Join
from kbroker.wording import counted
from kbroker.workers.acceptor import Acceptor
from kbroker.workers.background_writes import BackgroundWrites
from kbroker.workers.caller import Caller
from kbroker.workers.change_log import ChangeLog
from kbroker.workers.child import ChildContext
from kbroker.workers.control_link import ControlLink
from kbroker.workers.dear_time import LARGE_BYTES, DearTime
from kbroker.workers.disk_probe import DiskProbes
from kbroker.workers.doors import REPEATED_BYTES_MAX, REPEATED_MAX, Asked
from kbroker.workers.fetching import FetchInProgress
from kbroker.workers.freed_space import FreedSpace
from kbroker.workers.front import hello_answer
from kbroker.workers.front_link import FrontDialler
from kbroker.workers.group_commits import GroupCommits
from kbroker.workers.in_turns import SLICE, InTurns
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.kafka_leader import KafkaLeader
from kbroker.workers.local_door import LocalClient, LocalDoor
from kbroker.workers.loop import Loop
from kbroker.workers.offset_lookup import OffsetLookup, Place
from kbroker.workers.outages import outage_facts
from kbroker.workers.parking import Parking
from kbroker.workers.partition import AckWaiter, Asker, Partition
from kbroker.workers.record_work import RecordWork
from kbroker.workers.rewriting import Rewriting
from kbroker.workers.scrubbing import Scrub
from kbroker.workers.stream_connection import Streams
from kbroker.workers.table import PartitionTable

log = logging.getLogger(__name__)

HOUSEKEEPING_MS = 1000
LARGE_WAITING_BYTES_MAX = 64 << 20
"""Large requests of native clients that wait for their turn; with more they are refused, retriable."""
QUESTIONS_PER_MS = 100
"""A look-up of many offsets takes the loop a millisecond for so many, in all its slices."""
RETENTION_DELAY_MS = 30_000
"""After a start nothing is taken out for this long, as in Kafka: whoever writes old records can still read them."""


class Worker:
    """One worker process. `run()` returns when the supervisor asks for the end."""

    def __init__(self, child: ChildContext) -> None:
        assert child.worker_index is not None
        self.child = child
        self.config: Config = child.config
        self._given = child.config  # as the file and the flags have it, before what was altered
        self._altered: dict[str, str] = {}
        self.node = int(worker_node(child.worker_index))
        self.loop = Loop()
        self.io = IoThreads(self.loop, self.config.server.io_threads, "io")
        self.commits = GroupCommits(self.loop, self._commit)
        self.freed_space = FreedSpace(self.loop, self.io, DISK)
        self.probes = DiskProbes(self.io, DISK, self._disk_takes)
        self.background = BackgroundWrites(self.config.server.io_threads, self._write_back, self._flush)
        self.parking = Parking(self.loop)
        self.has_catalog = False
        self.is_draining = False
        self.change_log = ChangeLog(self.loop)
        self.table = PartitionTable(self)
        self._dirty: set[Partition] = set()
        # Before the doors' own: who waits for what a turn publishes is answered in that turn.
        self.loop.at_turn_end(self._end_turn, self._dirty)
        self._unflushed: dict[int, set[Partition]] = {}
        """Partitions that were appended to, by the time (ms) within which they are to be on the disk."""
        self._answers: list[tuple[Asked, AppendResult]] = []
        self._repeated: dict[bytes, m.Produce] = {}
        """Headers that were decoded before: a producer sends the same one with each batch of a partition."""
        self.scrub = Scrub(
            self.loop, self.table.serving, lambda: self.config.log.scrub_bytes_per_second, self._found_damage
        )
        self.record_work = RecordWork(self.loop)
        self.dear_time = DearTime(self.loop)
        self._large_bytes = 0  # of large native requests that wait for their turn
        self.rewriting = Rewriting(self.record_work, self.now_ms, self._is_served)
        first_ms = min(RETENTION_DELAY_MS, self.config.log.retention_check_interval_ms)
        self._next_retention_ms = self.loop.now_ms() + first_ms

        runtime = self.config.runtime_dir
        self.streams = Streams(self.loop)
        self.door = LocalDoor(self.streams, child.listeners["door"], self._serve, self.config.native)
        self.front = FrontDialler(child, self.streams, self._serve)
        shm_path = ""
        self.descriptors: DescriptorServer | None = None
        if self.config.shm.enabled and "shm" in child.listeners:
            self.descriptors = DescriptorServer(self.loop, self.table.get, self.config.shm)
            refuse_descriptors(child.listeners["shm"])
            readers = Acceptor(self.loop, (child.listeners["shm"],), self.descriptors.admit, "readers of shared memory")
            readers.start()
            shm_path = str(runtime / endpoints.worker_shm(child.worker_index))
        self.control = ControlLink(
            self.streams,
            child,
            Join(
                child.incarnation,
                child.name,
                self.node,
                endpoints.unix(runtime / endpoints.worker_door(child.worker_index)),
                shm_path,
            ),
            self._update_catalog,
        )
        self.kafka = KafkaLeader(self) if child.kafka_ports else None
        self._requests: dict[type, Any] = {
            m.Produce: self._produce,
            m.Fetch: self._fetch,
            m.ListOffsets: self._list_offsets,
            m.DeleteRecords: self._delete_records,
            m.RepairLog: self._repair_log,
            m.ReportCorrupt: self._report_corrupt,
            m.Hello: self._hello,
        }

    @staticmethod
    def now_ms() -> int:
        """Wall-clock milliseconds, for timestamps and retention."""
        return time.time_ns() // 1_000_000

    # --- start and end ---

    def run(self) -> None:
        """Serve until told to end."""
        self.child.attach(self.loop)
        self.child.on_peers = self._follow_peers
        self.child.on_drain = self._drain
        self.child.on_reload = self._reload
        self.door.listen()
        self.loop.at_turn_end(self.streams.flush, self.streams.unsent)
        self.loop.at_turn_end(self.commits.end_turn, self.commits.wanted)
        self.loop.call_every(HOUSEKEEPING_MS, self._keep_house)
        self.scrub.start()
        self._follow_peers()
        self.loop.run()
        if self.kafka is not None:
            self.kafka.door.close()
        self.door.close()
        self.front.close()
        self.control.close()

    def _follow_peers(self) -> None:
        self.control.follow_peers()
        self.front.follow_peers()

    def _update_catalog(self, update: CatalogUpdate) -> None:
        if update.full:
            self.has_catalog = True
        if update.altered != self._altered:
            self._altered = update.altered
            self._reload(self._given)
        self.table.update(update)

    def catalog_done(self) -> None:
        """An update of the catalog was done; after the first one this worker serves."""
        if self.kafka is not None and not self.is_draining:
            self.kafka.door.listen()
        self._report()
        self.child.ready(counted(len(self.table.serving), "partition"))

    def _reload(self, config: Config) -> None:
        self._given = config
        self.config = make_config(self._altered, config)
        self.table.configure()

    def _drain(self) -> None:
        """Take nothing new, finish what is in flight, close every log cleanly, end."""
        self.is_draining = True
        if self.kafka is not None:
            self.kafka.door.stop_listening()
        for partition in self.table.serving.values():
            partition.publish()

        self.scrub.end()

        def closed() -> None:
            self.io.close(1)
            self.loop.call_soon(self.loop.stop)

        self._when_answered(partial(self.table.close_all, closed))

    def _when_answered(self, then: Callable[[], None]) -> None:
        if not self.rewriting.is_idle or any(partition.has_waiters for partition in self.table.serving.values()):
            self.loop.call_later(5, partial(self._when_answered, then))
        else:
            then()

    # --- requests ---

    def _serve(self, asked: Asked) -> None:
        if len(asked.header) < LARGE_BYTES:
            self._serve_now(asked)
        elif self.dear_time.is_free:
            self._serve_large(asked)
        elif asked.payload or self._large_bytes + len(asked.header) > LARGE_WAITING_BYTES_MAX:
            asked.refuse(ThrottlingQuotaExceeded("too many large requests wait already; try again"))
        else:
            self._large_bytes += len(asked.header)
            self.dear_time.later("", partial(self._serve_later, asked))

    def _serve_later(self, asked: Asked) -> None:
        """A large request has waited for its turn."""
        self._large_bytes -= len(asked.header)
        if not asked.is_gone:
            self._serve_large(asked)

    def _serve_large(self, asked: Asked) -> None:
        began_ns = time.thread_time_ns()
        self._serve_now(asked)
        self.dear_time.spent((time.thread_time_ns() - began_ns) // 1_000_000)

    def _serve_now(self, asked: Asked) -> None:
        try:
            repeated = self._repeated.get(asked.header)
            if repeated is not None:
                self._produce(asked, repeated)
                return
            request = codec.decode_request(codec.unpack_request(asked.header))
            serve = self._requests.get(type(request))
            if serve is None:
                raise InvalidRequest(f"{request.OP} goes to the coordinator, through the front, not to a worker")
            serve(asked, request)
        except KbrokerError as error:
            asked.refuse(error)
        else:
            if type(request) is m.Produce and len(asked.header) <= REPEATED_BYTES_MAX:
                if len(self._repeated) >= REPEATED_MAX:
                    self._repeated.clear()
                self._repeated[asked.header] = request

    def _hello(self, asked: Asked, request: m.Hello) -> None:
        if isinstance(asked.door, LocalClient):
            asked.door.introduce(request.client_id)
        asked.answer(codec.encode_answer(hello_answer(self.child, self.node)))

    def _produce(self, asked: Asked, request: m.Produce) -> None:
        if request.acks not in (-1, 0, 1):
            raise InvalidRequest(f"produce.acks must be -1 (all), 0 or 1, not {request.acks}")
        if self.is_draining:
            raise NotLeaderOrFollower("the broker is stopping")
        partition = self.table.get(request.topic, request.partition)
        if request.topic_id and request.topic_id != partition.topic_id:
            raise UnknownTopicId(f"topic {request.topic} was deleted and made anew; its id is another one now")
        payload = asked.payload
        batches = payload[0] if len(payload) == 1 else self._joined(payload)
        payload.clear()  # what waits for its answer keeps no frame
        if partition.is_rewritten:
            self.rewriting.rewrite(partition, batches, partial(self._rewritten, partition, request, asked))
        else:
            self._append(partition, batches, request, asked)

    def _rewritten(
        self,
        partition: Partition,
        request: m.Produce,
        asked: Asked,
        batches: bytes | bytearray | memoryview,
        error: KbrokerError | None,
    ) -> None:
        try:
            if error is not None:
                raise error
            self._append(partition, batches, request, asked)
        except KbrokerError as refusal:
            asked.refuse(refusal)

    def _joined(self, payload: list[memoryview]) -> bytearray:
        """The payload frames of a produce request that has not one of them."""
        if not payload:
            raise InvalidRequest("produce has no payload frame")
        most = self.config.native.frame_bytes_max
        if sum(map(len, payload)) > most:
            raise MessageTooLarge(f"the payload frames are larger than native.frame.bytes.max={most} together")
        return bytearray().join(payload)

    def _append(
        self, partition: Partition, batches: bytes | bytearray | memoryview, request: m.Produce, asked: Asked
    ) -> None:
        """Append what a native client sent, and answer it when it may be answered."""
        result = self.append(partition, batches, request.acks)
        if result.sync_needed:
            deadline_ms = self.loop.now_ms() + max(1, request.timeout_ms)
            done = partial(_answer_synced, asked, result)
            partition.answer_when_synced(AckWaiter(result.ack_offset, deadline_ms, done, asked))
        else:
            self._answers.append((asked, result))

    def _is_served(self, partition: Partition) -> bool:
        return self.table.serving.get(partition.name) is partition

    def append(self, partition: Partition, batches: bytes | bytearray | memoryview, acks: int) -> AppendResult:
        """Append what a client of either protocol sent; it is published at the end of this turn.

        Raises RequestError for bad batches, StorageError when the disk does not take them.
        """
        try:
            result = partition.log.append(batches, time.time_ns() // 1_000_000, sync=acks == -1)
        except StorageError as error:
            if partition.log.failed:
                self._disk_failed(partition, partition.log.failed)
            else:
                partition.refuse(str(error), len(batches))
                self.probes.want(partition)
            raise
        if partition.told:
            partition.take_again()
        self._dirty.add(partition)
        return result

    def append_together(self, partition: Partition, requests: list[memoryview], acks: int) -> AppendResult | None:
        """As `append`, for one new batch of each request. None: nothing was done, append them one by one."""
        result = partition.log.append_together(requests, time.time_ns() // 1_000_000, sync=acks == -1)
        if result is not None:
            if partition.told:
                partition.take_again()
            self._dirty.add(partition)
        return result

    def delete_records(
        self,
        partition: Partition,
        before_offset: int,
        timeout_ms: int,
        done: Callable[[KbrokerError | None], None],
        asker: Asker,
        caller: Caller,
    ) -> int:
        """Begin the partition's log at that offset (-1: at the high watermark); `done` follows when it is on the disk.

        Returns the log start offset. Raises OffsetOutOfRange, PolicyViolation.
        """
        policy = partition.log.config.cleanup_policy
        if "delete" not in policy:
            raise PolicyViolation(f"{partition.name} has cleanup.policy={','.join(policy)}, without `delete`")
        wanted = partition.log.high_watermark if before_offset == -1 else before_offset
        before = partition.log.log_start_offset
        start = partition.delete_records(wanted, self.loop.now_ms() + max(1, timeout_ms), done, asker)
        self._dirty.add(partition)  # the end of this turn flushes it
        if start > before:
            self.change_log.records_deleted(caller, str(partition.name), start)
        self._take_out(partition, partition.log.drop_deleted)
        return start

    def _delete_records(self, asked: Asked, request: m.DeleteRecords) -> None:
        partition = self.table.get(request.topic, request.partition)
        start = -1

        def done(error: KbrokerError | None) -> None:
            if error is None:
                asked.answer(codec.encode_answer(m.RecordsDeleted(start)))
            else:
                asked.refuse(error)

        start = self.delete_records(partition, request.before_offset, request.timeout_ms, done, asked, asked.caller)

    def _repair_log(self, asked: Asked, request: m.RepairLog) -> None:
        partition = self.table.get(request.topic, request.partition)
        repair = Repair.ACCEPT_LOSS if request.accept_loss else Repair.PAST_CORRUPTION
        log.info("%s: its log is repaired%s", partition.name, ", a loss accepted" if request.accept_loss else "")

        def repaired(opened: PartitionLog | None, error: KbrokerError | None) -> None:
            if opened is None:
                asked.refuse(error or KafkaStorageError(f"{partition.name} could not be repaired"))
                return
            passed_over = [f"offsets {damage.offsets} ({damage.what})" for damage in opened.recovery.accepted]
            pending = [damage.told(partition.name) for damage in opened.damage.pending]
            asked.answer(codec.encode_answer(m.LogRepaired(passed_over, pending)))

        self.table.repair(partition, repair, repaired)

    def _report_corrupt(self, asked: Asked, request: m.ReportCorrupt) -> None:
        """Only the checksum tells, and that only readers look at."""
        partition = self.table.get(request.topic, request.partition)
        partition.log.suspect(request.offset)
        asked.answer(codec.encode_answer(m.CorruptReported()))

    def _fetch(self, asked: Asked, request: m.Fetch) -> None:
        if not request.partitions:
            raise InvalidRequest("fetch.partitions must name at least one partition")
        FetchInProgress(self, asked, request).start()

    def _list_offsets(self, asked: Asked, request: m.ListOffsets) -> None:
        def done(found: list[m.OffsetFound]) -> None:
            asked.answer(codec.encode_answer(m.OffsetsAnswer(found)))
            if len(found) > SLICE:
                self.dear_time.spent(len(found) // QUESTIONS_PER_MS)

        InTurns(self.loop, request.partitions, partial(self._find, asked), done).start()

    def _find(self, asked: Asked, query: m.OffsetQuery, settle: Callable[[m.OffsetFound], None]) -> None:
        found = m.OffsetFound(query.topic, query.partition)

        def looked(place: Place | None, error: KbrokerError | None) -> None:
            if error is not None:
                found.error, found.message = code_of(error), str(error)
            elif place is not None:
                found.offset, found.timestamp_ms = place
            settle(found)

        try:
            partition_log = self.table.get(query.topic, query.partition).log
            found.leader_epoch = partition_log.leader_epoch
            if query.timestamp_ms == EARLIEST_TIMESTAMP:
                found.offset = partition_log.log_start_offset
            elif query.timestamp_ms == LATEST_TIMESTAMP:
                found.offset = partition_log.high_watermark
            elif query.timestamp_ms < 0:
                raise InvalidRequest(f"timestamp {query.timestamp_ms} means nothing; -2 earliest, -1 latest, or ≥ 0")
            else:
                OffsetLookup(self.record_work, partition_log, query.timestamp_ms, looked, lambda: asked.is_gone).start()
                return
        except (RequestError, StorageError) as error:
            found.error, found.message = code_of(error), str(error)
        settle(found)

    # --- the end of a turn ---

    def _end_turn(self) -> None:
        dirty = [*self._dirty]
        self._dirty.clear()
        # Readers first: who waits for a record waits longer than who has sent it.
        for partition in dirty:
            if not partition.publish():
                continue
            if self.descriptors is not None:
                self.descriptors.published(partition.name, partition.control_page)
            if partition.parked:
                self.parking.wake(partition.parked)
        for partition in dirty:
            if partition.has_waiters:
                self.commits.want(partition)  # which writes all of it at once
            else:
                if partition.log.flush_due:
                    self.background.want_flush(partition)
                if partition.log.write_back_due:
                    self.background.want_write_back(partition)
            unflushed = self._unflushed.get(partition.log.config.flush_interval_ms)
            if unflushed is None or partition not in unflushed:
                self._flush_later(partition)
        for asked, result in self._answers:
            asked.answer(_header_for(result))
        self._answers.clear()

    def _commit(self, partition: Partition) -> None:
        partition.flush(self.io, self.now_ms, self._flushed)

    def _write_back(self, partition: Partition, ended: Callable[[], None]) -> bool:
        return partition.write_back(self.io, self._flushed, ended)

    def _flush(self, partition: Partition, ended: Callable[[], None]) -> bool:
        return partition.flush(self.io, self.now_ms, self._flushed, ended)

    def _flushed(self, partition: Partition) -> None:
        if partition.log.failed:
            self._disk_failed(partition, partition.log.failed)
            return
        if partition.refuses:
            self.probes.want(partition)
        # The end of this turn publishes, and sees whether somebody waits for the next commit.
        self._dirty.add(partition)

    def _disk_failed(self, partition: Partition, why: str) -> None:
        """Records are refused, and read on, until the disk takes writes again: then the log is opened anew."""
        self.table.remember_failure(partition, why)
        partition.refuse(f"{partition.name}: {why}")
        self.probes.want(partition)

    def _disk_takes(self, partition: Partition) -> None:
        if partition.log.failed:
            self.table.reopen(partition, partition.log.failed)
        else:
            partition.log.want_recovery_point()
            partition.take_again()

    # --- in the background ---

    def _flush_later(self, partition: Partition) -> None:
        interval_ms = partition.log.config.flush_interval_ms
        unflushed = self._unflushed.get(interval_ms)
        if unflushed is None:
            unflushed = self._unflushed[interval_ms] = set()
            self.loop.call_later(interval_ms, partial(self._flush_all, interval_ms))
        unflushed.add(partition)

    def _flush_all(self, interval_ms: int) -> None:
        for partition in self._unflushed.pop(interval_ms):
            if self._is_served(partition):
                if partition.is_flushing:
                    self._flush_later(partition)
                else:
                    self.background.want_flush(partition)

    def _keep_house(self) -> None:
        now_ms = self.loop.now_ms()
        for partition in self.table.serving.values():
            partition.expire_waiters(now_ms)
            if partition.log.suspects:
                self.scrub.suspect(partition)
        self._report()
        self.probes.look_again()
        if now_ms >= self._next_retention_ms:
            self._next_retention_ms = now_ms + self.config.log.retention_check_interval_ms
            for partition in list(self.table.serving.values()):
                self._retain(partition)
        for partition in self.table.serving.values():
            partition.remove(self.io, self.now_ms)
            self.freed_space.free_files(partition.log.due_deletions(self.now_ms()))

    def _found_damage(self, partition: Partition, found: list[Damage]) -> None:
        partition.note_damage(found, self.io)
        self._report()

    def _report(self) -> None:
        stalled_ms = self.io.stalled_ms()
        self.child.report(
            **self.table.counts(),
            **outage_facts(self.table.outages()),
            io_stalled_ms=stalled_ms,
            waiting_fetches=self.parking.fetches,
        )

    def _retain(self, partition: Partition) -> None:
        def take() -> list[SegmentInfo]:
            now_ms = self.now_ms()
            partition.log.maybe_roll(now_ms)
            return partition.log.retain(now_ms)

        self._take_out(partition, take)

    def _take_out(self, partition: Partition, take: Callable[[], list[SegmentInfo]]) -> None:
        """`take`: what takes segments out of the partition's log."""
        try:
            removed = take()
        except (StorageError, OSError) as error:
            partition.tell_once(f"retention failed: {error}")
            return
        if removed:
            partition.remove(self.io, self.now_ms)
            partition.show()
            log.info(
                "%s: %s past retention or deleted, the log starts at %d now",
                partition.name,
                counted(len(removed), "segment"),
                partition.log.log_start_offset,
            )

    def forget(self, partition: Partition) -> None:
        """A partition is no longer served here: its readers are woken, and no flush is due for it."""
        if self.descriptors is not None:
            self.descriptors.forget(partition.name)
        for unflushed in self._unflushed.values():
            unflushed.discard(partition)  # flush.ms may be longer than this process lives


def _answer_synced(asked: Asked, result: AppendResult, error: KbrokerError | None) -> None:
    if error is None:
        asked.answer(_header_for(result))
    else:
        asked.refuse(error)


def _header_for(result: AppendResult) -> bytes:
    return codec.encode_produced(result.base_offset, result.next_offset, result.log_start_offset, result.append_time_ms)


def main(child: ChildContext) -> None:
    """A worker's process, after the fork."""
    gc.freeze()
    Worker(child).run()
