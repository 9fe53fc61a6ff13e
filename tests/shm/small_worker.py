"""A worker reduced to what shared memory needs: real logs, control pages, a descriptor server, on the real loop.

Run as a process of its own: `small_worker.py FOLDER NAME=VALUE…`. Commands come as lines of JSON on standard input and
are answered in order on standard output; the loop serves readers meanwhile.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from kbroker.config import LogConfig, make_config
from kbroker.errors import KbrokerError, UnknownTopicOrPartition
from kbroker.log.log import PartitionLog
from kbroker.shm.control_page import CLOSED, DELETED, ControlPage
from kbroker.shm.server import DescriptorServer
from kbroker.types import TopicPartition
from kbroker.workers.loop import READ, Loop
from tests.shm.batches import make_batch

SEGMENT_BYTES = 1 << 20


class Shared:
    """A partition with its log and page."""

    def __init__(self, folder: Path, topic: str, partition: int, topic_id: bytes, config: LogConfig) -> None:
        self.topic = topic
        self.partition = partition
        self.topic_id = topic_id
        place = folder / f"{topic}-{partition}"
        place.mkdir(exist_ok=True)
        self.log = PartitionLog.open(place, TopicPartition(topic, partition), topic_id, config, 0, 0)
        self.control_page = ControlPage.create(self.log.leader_epoch, os.getpid())
        self.publish()

    def publish(self) -> None:
        at = self.log.high_watermark_position
        self.control_page.publish(
            self.log.log_start_offset, at.offset, at.position, at.segment_base, at.offset, at.position, at.segment_base
        )


class SmallWorker:
    """Serves `shm.sock` in its folder until told to stop."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.config = make_config(settings)
        self.loop = Loop()
        self.partitions: dict[tuple[str, int], Shared] = {}
        path = folder / "shm.sock"
        path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        path.chmod(0o777)
        self.listener.listen(4096)
        self.server = DescriptorServer(self.listener, self.loop, self.lookup, self.config.shm)
        self.topics_made = 0

    def lookup(self, topic: str, partition: int) -> Shared:
        try:
            return self.partitions[topic, partition]
        except KeyError:
            raise UnknownTopicOrPartition(f"{topic}-{partition} is not here") from None

    # Commands

    def create(self, topic: str, partition: int = 0) -> None:
        """A partition, new or as its folder has it."""
        known = self.folder / f"{topic}-{partition}" / "partition.metadata"
        self.topics_made += 0 if known.exists() else 1
        topic_id = f"{topic:>12.12}{0:04}".encode()
        shared = Shared(self.folder, topic, partition, topic_id, self.config.log)
        self.partitions[topic, partition] = shared

    def append(self, topic: str, count: int, size_bytes: int = 100, partition: int = 0, batches: int = 1) -> int:
        """`batches` batches of `count` records each. Returns the next offset."""
        shared = self.partitions[topic, partition]
        for _ in range(batches):
            data = make_batch(shared.log.next_offset, count, size_bytes)
            shared.log.append(bytearray(data), 0, sync=False)
            shared.publish()
            self.server.published(topic, partition, shared.log.high_watermark)
        return shared.log.next_offset

    def roll(self, topic: str, partition: int = 0) -> None:
        shared = self.partitions[topic, partition]
        shared.log.roll(0)
        shared.publish()

    def drop_oldest(self, topic: str, count: int, partition: int = 0) -> int:
        """Take the oldest segments away, files and all, as retention does after its delay. Returns the log start."""
        shared = self.partitions[topic, partition]
        paths = [segment.path for segment in shared.log.drop_oldest(count)]
        shared.publish()
        for path in paths:
            path.unlink()
        return shared.log.log_start_offset

    def delete(self, topic: str, partition: int = 0) -> None:
        shared = self.partitions.pop((topic, partition))
        shared.control_page.close_page(DELETED)
        self.server.forget(topic, partition)
        shared.log.abandon()
        PartitionLog.purge(PartitionLog.delete(shared.log.folder))

    def let_go(self, topic: str, partition: int = 0) -> None:
        shared = self.partitions.pop((topic, partition))
        shared.control_page.close_page(CLOSED)
        self.server.forget(topic, partition)
        shared.log.close(0)

    def die_while_publishing(self, topic: str, partition: int = 0) -> None:
        """Leave the page as a kill in the middle of a publish does, and be killed."""
        page = self.partitions[topic, partition].control_page
        page._cells[2] += 1
        os.kill(os.getpid(), 9)

    def facts(self) -> dict[str, int]:
        return {
            "connections": self.server.connection_count,
            "descriptors": len(os.listdir("/proc/self/fd")),
            "armed": len(self.server._armed),
            "handovers": len(self.server._handovers),
        }

    def pid(self) -> int:
        return os.getpid()

    # The process

    def run(self) -> None:
        self.loop.add(0, READ, self._on_command)
        self.loop.run()

    def _on_command(self, _events: int) -> None:
        line = sys.stdin.readline()
        if not line:
            self.loop.stop()
            return
        name, arguments = json.loads(line)
        try:
            answer: dict[str, Any] = {"answer": getattr(self, name)(**arguments)}
        except KbrokerError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    SmallWorker(Path(sys.argv[1]), dict(part.split("=", 1) for part in sys.argv[2:])).run()
