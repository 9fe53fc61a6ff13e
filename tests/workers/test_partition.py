"""A partition in its worker, apart from everything that the processes' tests show."""

from __future__ import annotations

from pathlib import Path

from kbroker.config import LogConfig
from kbroker.errors import NotLeaderOrFollower
from kbroker.log.log import PartitionLog
from kbroker.shm.control_page import ControlPage
from kbroker.types import TopicPartition
from kbroker.workers.partition import Partition

from ..log.batches import batch

NAME = TopicPartition("t", 0)


def test_who_is_left_in_the_turn_of_an_append_publishes_nothing(tmp_path: Path) -> None:
    log = PartitionLog.open(tmp_path / "t-0", NAME, bytes(16), LogConfig(), 1, 9_000)
    partition = Partition(NAME, log, ControlPage.create(1, 1))
    assert partition.publish()
    partition.log.append(batch(1), 9_000, sync=False)
    left: list[bool] = []
    partition.leave(False, NotLeaderOrFollower("moved"), lambda: left.append(True))
    assert left == [True]
    assert not partition.publish()
    log.abandon()
