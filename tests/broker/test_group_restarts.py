"""The coordinator killed again and again while its log is rolled and compacted: no acknowledged commit is lost."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker

from .test_group_requests import GroupClient, commit

pytestmark = pytest.mark.slow

GROUPS = 50
KILLS = 6


class Committing:
    """Commits ever larger offsets of many groups; `acknowledged` has the last of each that was answered."""

    def __init__(self, broker: Broker) -> None:
        self.acknowledged: dict[str, int] = {}
        self._broker = broker
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def has_passed(self, offset: int) -> bool:
        """Whether a larger one was acknowledged."""
        return max(self.acknowledged.values(), default=0) > offset

    def _run(self) -> None:
        offset = 0
        while not self._over.is_set():
            with contextlib.suppress(OSError), GroupClient(self._broker) as client:
                while not self._over.is_set():
                    offset += 1
                    group = f"group-{offset % GROUPS}"
                    if commit(client, group, offset, metadata="x" * 200) == 0:
                        self.acknowledged[group] = offset

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def committed(client: GroupClient) -> dict[str, int]:
    types = codec.request_types(ApiKey.OFFSET_FETCH)
    asked = [types.OffsetFetchRequestGroup(group_id=f"group-{number}", topics=None) for number in range(GROUPS)]
    found: dict[str, int] = {}
    for group in client.call(ApiKey.OFFSET_FETCH, 8, groups=asked).groups:
        assert group.error_code == 0
        for topic in group.topics:
            found[group.group_id] = topic.partitions[0].committed_offset
    return found


def test_commits_while_the_log_is_compacted_and_the_coordinator_dies() -> None:
    settings: dict[str, Any] = {"offsets.topic.segment.bytes": 1 << 16, "log.segment.delete.delay.ms": 0}
    chance = random.Random(4)
    with Broker(settings, workers=1, listeners="PLAINTEXT://127.0.0.1:0") as broker:
        with GroupClient(broker) as client:
            client.create("t")
        committing = Committing(broker)
        try:
            for _ in range(KILLS):
                reached = len(committing.acknowledged) and max(committing.acknowledged.values())
                wanted = reached + chance.randrange(200, 900)
                broker.wait_until(partial(committing.has_passed, wanted), 60)
                broker.kill_and_wait("coordinator")
        finally:
            committing.stop()
        broker.wait_until(lambda: "compaction has freed" in broker.log)
        with GroupClient(broker) as client:
            found = committed(client)
        assert len(found) == GROUPS
        assert {group: offset for group, offset in found.items() if offset < committing.acknowledged[group]} == {}
        sizes = [path.stat().st_size for path in (broker.data_dir / "__consumer_offsets-0").glob("*.log")]
        assert sum(sizes) < 1 << 19
        assert "damaged" not in broker.log


def test_the_cleaners_settings_act_on_it_also_when_they_change(tmp_path: Path) -> None:
    file = tmp_path / "kbroker.toml"
    file.write_text("log.cleaner.min.compaction.lag.ms = 86400000\n")
    settings: dict[str, Any] = {"offsets.topic.segment.bytes": 1 << 16, "log.segment.delete.delay.ms": 0}
    with Broker(settings, workers=1, config=file, listeners="PLAINTEXT://127.0.0.1:0") as broker:
        with GroupClient(broker) as client:
            client.create("t")
        folder = broker.data_dir / "__consumer_offsets-0"
        committing = Committing(broker)
        try:
            broker.wait_until(lambda: len(list(folder.glob("*.log"))) > 3, 60)
            assert "compaction has freed" not in broker.log
            file.write_text("log.cleaner.min.compaction.lag.ms = 0\n")
            broker.kill("supervisor", signal.SIGHUP)
            broker.wait_until(lambda: "compaction has freed" in broker.log, 60)
        finally:
            committing.stop()
