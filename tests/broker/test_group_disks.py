"""Groups on a disk that is full: told to come again, not crash-looped, and served when there is space."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbroker.testing import Broker

from .disks import memory_disk
from .test_group_requests import GroupClient, commit

pytestmark = [pytest.mark.root, pytest.mark.slow]

COORDINATOR_NOT_AVAILABLE = 15


def test_groups_on_a_full_disk(tmp_path: Path) -> None:
    settings = {"process.heartbeat.timeout.ms": 20_000}
    with (
        memory_disk(tmp_path / "disk", 16) as disk,
        Broker(settings, workers=1, data_dir=disk.data_dir, listeners="PLAINTEXT://127.0.0.1:0") as broker,
    ):
        with GroupClient(broker) as client:
            client.create("t")
            assert commit(client, "g", 7) == 0
            pid = broker.pid("coordinator")
            filler = disk.fill()
            refused = [code for code in (commit(client, "g", offset) for offset in range(100, 400)) if code]
            assert set(refused) == {COORDINATOR_NOT_AVAILABLE}
            assert broker.pid("coordinator") == pid
        # Its successor finds the disk as full, and waits for space as well.
        broker.kill_and_wait("coordinator")
        pid = broker.pid("coordinator")
        with GroupClient(broker) as client:
            broker.wait_until(lambda: bool(commit(client, "g", 500)))
            filler.unlink()
            broker.wait_until(lambda: commit(client, "g", 9) == 0, 30)
            assert broker.pid("coordinator") == pid
        assert "tried again" in broker.log
        assert "groups are served again" in broker.log
