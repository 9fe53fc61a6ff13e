"""What is out of service is named by `kbroker status`, with its cause, for as long as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kbroker.errors import KafkaStorageError
from kbroker.testing import Broker
from kbroker.wire import messages as m

from .disks import memory_disk
from .raw_client import RawClient, batch

DEGRADED = 3


def status(broker: Broker, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kbroker", "status", "--runtime-dir", str(broker.runtime_dir), *options]
    return subprocess.run(command, env=broker.environment, capture_output=True, text=True, timeout=30, check=False)


def outages(broker: Broker) -> dict[str, str]:
    return {outage["what"]: outage["why"] for outage in broker.status()["outages"]}


def fill_last_page(client: RawClient) -> None:
    """Produce until it is refused: a full disk takes what fits into a file's last page."""
    while True:
        client.ask(m.ProduceAnswer, m.Produce("t", 0), batch([bytes(1000)]))


def is_whole(document: dict[str, Any]) -> bool:
    return document["state"] == "ready" and not document["outages"] and document["outages_in_all"] == 0


def test_a_partition_that_cannot_be_opened_and_groups_without_their_log() -> None:
    with Broker() as broker:
        with RawClient(broker.server) as client:
            client.create("t", 2)
            client.produce("t", batch(1))
        assert is_whole(broker.status())
        assert status(broker).returncode == 0
        broker.stop()
        folders = [broker.data_dir / "t-0", broker.data_dir / "__consumer_offsets-0"]
        for folder in folders:
            folder.rename(folder.with_name(f"away.{folder.name}"))
            folder.write_bytes(b"a file where a folder should be")
        broker.start()
        broker.wait_until(lambda: set(outages(broker)) == {"t-0", "groups"})
        document = json.loads(status(broker, "--json").stdout)
        assert document["state"] == "degraded"
        assert document["status"].startswith("1 worker, 1 partition")
        assert all("Not a directory" in outage["why"] for outage in document["outages"])
        told = status(broker)
        assert told.returncode == DEGRADED
        assert "degraded: 1 worker, 1 partition" in told.stdout
        assert "out of service: t-0: " in told.stdout
        for folder in folders:
            folder.unlink()
            folder.with_name(f"away.{folder.name}").rename(folder)
        broker.wait_until(lambda: is_whole(broker.status()), 20)


@pytest.mark.slow
@pytest.mark.root
def test_a_full_disk(tmp_path: Path) -> None:
    with (
        memory_disk(tmp_path / "disk", 16) as disk,
        Broker(data_dir=disk.data_dir) as broker,
        RawClient(broker.server) as client,
    ):
        client.create("t")
        client.produce("t", batch(1))
        filler = disk.fill()
        with pytest.raises(KafkaStorageError):
            fill_last_page(client)
        broker.wait_until(lambda: "writes to t-0" in outages(broker))
        assert "No space left on device" in outages(broker)["writes to t-0"]
        filler.unlink()
        client.produce("t", batch(1))
        broker.wait_until(lambda: is_whole(broker.status()))
        assert "t-0 takes records again" in broker.log


def test_a_runtime_folder_that_somebody_removes() -> None:
    with Broker() as broker:
        with RawClient(broker.server) as client:
            client.create("t")
            shutil.rmtree(broker.runtime_dir)
            broker.wait_until(lambda: "were removed: clients that are connected are served on" in broker.log)
            assert client.produce("t", batch(1)).base_offset == 0
        assert broker.stop() == 0
        assert broker.log.count(" ERROR ") == 1
        broker.start()
        with RawClient(broker.server) as client:
            assert client.produce("t", batch(1)).base_offset == 1
