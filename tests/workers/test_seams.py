"""Where the parts of a worker meet: what is still out at one of them when another lets go."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kbroker.catalog.topics import CHANGES_MAX
from kbroker.config import make_config
from kbroker.errors import KafkaStorageError, KbrokerError, ThrottlingQuotaExceeded
from kbroker.kafka import produce
from kbroker.kafka.apis import ApiKey
from kbroker.log.damage import Repair
from kbroker.types import TopicPartition
from kbroker.wire.control import CatalogUpdate
from kbroker.wire.messages import PartitionInfo, TopicInfo, TopicResult
from kbroker.workers.caller import NATIVE, Caller
from kbroker.workers.coordinator import CHANGES_WAITING_MAX, Coordinator
from kbroker.workers.dear_time import DearTime
from kbroker.workers.in_turns import SLICE
from kbroker.workers.kafka_leader import KafkaLeader
from kbroker.workers.table import PartitionTable
from kbroker.workers.worker import Worker

from ..log.batches import batch
from .test_background_writes import ManualLoop, ManualThreads

NAME = TopicPartition("t", 0)


class SmallWorker:
    """What a table needs of its worker."""

    def __init__(self, data_dir: Path) -> None:
        self.config = make_config({"log.dir": str(data_dir)})
        self.loop = ManualLoop()
        self.io = ManualThreads()
        self.node = 1
        self.has_catalog = True
        self.is_draining = False
        self.child = SimpleNamespace(memory_deaths=0, incarnation=1, remembered={})
        self.control = SimpleNamespace(coordinator_incarnation=1, send=lambda _message: True)
        self.freed_space = SimpleNamespace(free_folder=lambda *_: None)
        self.descriptors = None
        self._unflushed: dict[int, set[Any]] = {}

    @staticmethod
    def now_ms() -> int:
        return 0

    def catalog_done(self) -> None:
        """Nothing more."""

    def forget(self, partition: Any) -> None:
        Worker.forget(cast(Worker, self), partition)


@pytest.fixture
def worker(tmp_path: Path) -> SmallWorker:
    return SmallWorker(tmp_path)


@pytest.fixture
def table(worker: SmallWorker) -> PartitionTable:
    """With one partition, served."""
    made = PartitionTable(cast(Worker, worker))
    topic = TopicInfo("t", topic_id=b"t" * 16, partitions=[PartitionInfo(0, 1, 0)], settings={})
    made.update(CatalogUpdate(1, 1, True, [topic], [], [], {}))
    while worker.io.queue:
        worker.io.run_one()
    assert NAME in made.serving
    return made


def test_a_repair_is_answered_when_the_topic_goes_before_its_folder_is_free(
    worker: SmallWorker, table: PartitionTable
) -> None:
    partition = table.serving[NAME]
    partition.log.append(batch([b"x"]), 0, sync=True)
    assert partition.flush(cast(Any, worker.io), worker.now_ms, lambda _partition: None)
    told: list[KbrokerError | None] = []
    table.repair(partition, Repair.PAST_CORRUPTION, lambda _log, error: told.append(error))
    table.update(CatalogUpdate(1, 2, True, [], [], [], {}))  # it is deleted while the flush still has the files
    assert not told
    while worker.io.queue:
        worker.io.run_one()
    assert [type(error) for error in told] == [KafkaStorageError]


def test_nothing_is_due_for_a_partition_that_was_left(worker: SmallWorker, table: PartitionTable) -> None:
    worker._unflushed[2**63 - 1] = {table.serving[NAME]}  # flush.ms as Kafka has it: the timer never comes
    table.update(CatalogUpdate(1, 2, True, [], [], [], {}))
    assert worker._unflushed == {2**63 - 1: set()}


def test_what_a_produce_for_many_partitions_keeps_while_it_waits_counts_as_memory(worker: SmallWorker) -> None:
    kept = [0]
    holds = [0]

    def count_kept(more: int) -> None:
        kept[0] += more

    def hold() -> None:
        holds[0] += 1

    def release() -> None:
        holds[0] -= 1

    failed: list[Exception] = []
    connection = SimpleNamespace(
        count_kept=count_kept,
        hold=hold,
        release=release,
        dear_time=DearTime(worker.loop),
        call_later=worker.loop.call_later,
        client_host="127.0.0.1",
    )
    asked = SimpleNamespace(
        connection=connection,
        request=SimpleNamespace(api_key=ApiKey.PRODUCE, version=9, correlation_id=1, size_bytes=5_000),
        fail=failed.append,
    )
    count = 2 * SLICE
    wanted = [produce.Wanted("t", b"", number, memoryview(b"")) for number in range(count)]
    request = produce.ProduceRequest(None, 1, 1000, [], wanted)
    leader = cast(Any, object.__new__(KafkaLeader))
    leader._worker, leader._cluster, leader._refusals = worker, None, None

    def fails(*_: object) -> None:
        raise ZeroDivisionError("nobody foresaw it")

    leader._find = fails
    leader._produce_each(asked, request)
    assert (kept, holds) == ([5_000], [1])
    while worker.loop.timers:
        worker.loop.timers.pop(0)[1]()
    assert (kept, holds) == ([0], [0])
    assert [type(error) for error in failed] == [ZeroDivisionError], "the loop hears nothing of it"


def test_changes_that_wait_to_be_committed_are_bounded() -> None:
    coordinator = cast(Any, object.__new__(Coordinator))
    coordinator.changes, coordinator.is_committing = deque(), True  # the disk is slow
    answers: list[list[TopicResult]] = []
    names = [f"t{number}" for number in range(CHANGES_MAX)]
    for _ in range(CHANGES_WAITING_MAX // CHANGES_MAX + 1):
        coordinator.change_each(names, [list] * CHANGES_MAX, 1_000, answers.append, Caller(NATIVE))
    assert len(coordinator.changes) == CHANGES_WAITING_MAX
    assert [{result.error for result in results} for results in answers] == [{ThrottlingQuotaExceeded.code}]
    assert [result.name for result in answers[0]] == names
