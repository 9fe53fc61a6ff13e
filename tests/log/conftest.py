"""A folder and a disk that fails on request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kbroker.config import LogConfig
from kbroker.log import PartitionLog

from .batches import PARTITION, TOPIC_ID
from .disks import FailingDisk

Open = Callable[..., PartitionLog]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "orders-3"


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def open_log(folder: Path, disk: FailingDisk) -> Open:
    """Opens the log of the folder; keywords are settings."""

    def make(
        now_ms: int = 9_000, leader_epoch: int = 0, topic_id: bytes = TOPIC_ID, **settings: object
    ) -> PartitionLog:
        config = LogConfig(**settings)  # type: ignore[arg-type]  # the tests' own keywords
        return PartitionLog.open(folder, PARTITION, topic_id, config, leader_epoch, now_ms, disk)

    return make
