"""Invariant 10: what a disk may hold up is no loop's work. A whole broker is watched, call by call."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from kbroker.errors import RetriableError
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker
from kbroker.wire import messages as m

from .kafka_client import KafkaClient
from .raw_client import RawClient, batch
from .test_group_requests import GroupClient, commit

pytestmark = pytest.mark.slow


class Call(NamedTuple):
    """One line of `disk_watch`."""

    process: str
    thread: str
    call: str
    path: str
    stack: str


class Watch:
    """A broker whose disk calls are written down."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self._folder = folder
        shutil.copy(Path(__file__).with_name("disk_watch.py"), folder / "sitecustomize.py")
        broker.environment["DISK_WATCH"] = str(folder)
        broker.environment["PYTHONPATH"] = f"{folder}:{broker.environment['PYTHONPATH']}"

    def calls(self) -> list[Call]:
        """So far."""
        lines = (self._folder / "calls").read_text().splitlines()
        return [Call(*line.split("\t")) for line in lines]

    def forget(self) -> None:
        """What the start has done: nobody was served by then."""
        (self._folder / "calls").write_text("")

    def fail_syncs_of(self, name: str, fail: bool) -> None:
        """From now on; of files of that name."""
        mark = self._folder / f"fail-{name}"
        mark.touch() if fail else mark.unlink()


def is_allowed(call: Call) -> bool:
    """Whether a loop may do that; ARCHITECTURE.md says why, under "Known limits"."""
    is_serving = "loop.py:run" in call.stack  # else it has ended, and nobody waits for it any more
    begins_segment = call.call == "create" and "log.py:roll" in call.stack
    is_memory = call.path.startswith("/memfd:")
    return not is_serving or is_memory or (begins_segment and call.path.endswith((".log", ".index", ".timeindex")))


def test_no_loop_does_what_a_disk_may_hold_up(tmp_path: Path) -> None:
    """Produce, roll, retention, deleted records, compaction of offsets, a failed sync, a deleted topic, the end."""
    settings = {
        "log.retention.check.interval.ms": 50,
        "log.segment.delete.delay.ms": 1,
        "offsets.topic.segment.bytes": 1 << 20,
        "log.cleaner.min.cleanable.ratio": 0,
        "listeners": "PLAINTEXT://127.0.0.1:0",
    }
    broker = Broker(settings)
    watch = Watch(tmp_path, broker)
    with broker, RawClient(broker.server) as client, KafkaClient(broker, 1) as kafka, GroupClient(broker) as groups:
        client.create("t", segment_bytes=str(1 << 20), retention_bytes=str(2 << 20))
        client.create("kept", segment_bytes=str(1 << 20))
        assert commit(groups, "g", 1) == 0
        watch.forget()

        for _ in range(12):
            client.produce("t", batch([bytes(400_000)]), acks=1)
            client.produce("kept", batch([bytes(400_000)]))
        folder = broker.data_dir / "t-0"
        broker.wait_until(lambda: len(list(folder.glob("*.log*"))) <= 3)
        client.ask(m.RecordsDeleted, m.DeleteRecords("kept", 0, 6))
        kept = broker.data_dir / "kept-0"
        broker.wait_until(lambda: not (kept / "00000000000000000000.log").exists())
        types = codec.request_types(ApiKey.DESCRIBE_LOG_DIRS)
        assert kafka.ask(ApiKey.DESCRIBE_LOG_DIRS, 4, types.DescribeLogDirsRequest(topics=None)).results

        offsets = broker.data_dir / "__consumer_offsets-0"
        for number in range(600):
            assert commit(groups, "g", number, metadata="m" * 4000) == 0
            if (offsets / "compaction-checkpoint").exists():
                break
        broker.wait_until(lambda: bool(commit(groups, "g", 7) or "compaction has freed" in broker.log))

        (active,) = sorted(path.name for path in kept.glob("*.log"))[-1:]
        watch.fail_syncs_of(active, True)
        with pytest.raises(RetriableError):
            client.ask(m.ProduceAnswer, m.Produce("kept", 0), batch(1))
        watch.fail_syncs_of(active, False)
        broker.wait_until(lambda: "kept-0 is in service again" in broker.log)
        client.ask_until_served(m.ProduceAnswer, m.Produce("kept", 0), batch(1))

        client.ask(m.TopicResults, m.DeleteTopics(["t"]))
        broker.wait_until(lambda: not list(broker.data_dir.glob("t-0*")))
        client.ask(m.TopicResults, m.AlterSettings("kept", {"retention.ms": "-1"}))
        broker.stop()

        calls = [call for call in watch.calls() if call.process.startswith(("worker", "coordinator"))]
        did = {(call.process, call.call) for call in calls if call.thread == "other"}
        for process in ("worker 0", "coordinator"):
            assert {(process, name) for name in ("fdatasync", "fsync", "rename", "unlink")} <= did
        on_loops = [call for call in calls if call.thread == "loop" and not is_allowed(call)]
        assert not on_loops, "\n".join(" ".join(call) for call in dict.fromkeys(on_loops))
