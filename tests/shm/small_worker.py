"""A worker reduced to what shared memory needs: real logs, control pages, a descriptor server, on the real loop.

It runs in a process of its own. Commands come as lines of JSON through one pipe and are answered in order through
another; the loop serves readers meanwhile.
"""

from __future__ import annotations

import json
import os
import resource
import socket
from pathlib import Path
from typing import Any, TextIO

from kbroker.config import LogConfig, make_config
from kbroker.errors import KbrokerError, UnknownTopicOrPartition
from kbroker.log.log import PartitionLog
from kbroker.log.positions import LogPosition
from kbroker.shm.connection import refuse_descriptors
from kbroker.shm.control_page import CLOSED, DELETED, ControlPage
from kbroker.shm.server import DescriptorServer
from kbroker.types import TopicPartition
from kbroker.workers.acceptor import Acceptor
from kbroker.workers.loop import READ, Loop
from tests.log.batches import opened_anew
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
        self.stable: LogPosition | None = None  # None: the high watermark
        self.publish()

    def publish(self) -> None:
        at = self.log.high_watermark_position
        stable = self.stable or at
        self.control_page.publish(
            self.log.log_start_offset,
            at.offset,
            at.position,
            at.segment_base,
            stable.offset,
            stable.position,
            stable.segment_base,
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
        self.listener.setblocking(False)
        refuse_descriptors(self.listener)
        self.server = DescriptorServer(self.loop, self.lookup, self.config.shm)
        self.acceptor = Acceptor(self.loop, (self.listener,), self.server.admit, "readers")
        self.acceptor.start()
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
            self.tell(shared)
        return shared.log.next_offset

    def tell(self, shared: Shared) -> None:
        self.server.published((shared.topic, shared.partition), shared.control_page)

    def hold_stable(self, topic: str, hold: bool, partition: int = 0) -> None:
        """A transaction begins, or ends: the last stable offset stays, or catches up."""
        shared = self.partitions[topic, partition]
        shared.stable = shared.log.high_watermark_position if hold else None
        shared.publish()
        self.tell(shared)

    def repair(self, topic: str, keep_bytes: int | None = None, partition: int = 0) -> int:
        """As after a failed fsync: new files in the place of the old. `keep_bytes`: the disk gives back no more."""
        shared = self.partitions[topic, partition]
        shared.log.failed = "said so by a test"
        shared.log.synced_offset = 0
        if keep_bytes is not None:
            path = shared.log.segments[-1].path
            data = path.read_bytes()
            path.write_bytes(data[:keep_bytes] + bytes(len(data) - keep_bytes))
        shared.log = opened_anew(shared.log, 0)
        shared.control_page.files_replaced()
        shared.publish()
        return shared.log.next_offset

    def limit_descriptors(self, limited: bool) -> None:
        """No further descriptor may be opened, or many."""
        limit, hard = 4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if limited:
            limit = os.dup(0)
            os.close(limit)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))

    def roll(self, topic: str, partition: int = 0) -> None:
        shared = self.partitions[topic, partition]
        shared.log.roll(0)
        shared.publish()

    def write_indexes(self, topic: str, partition: int = 0) -> None:
        for segment in self.partitions[topic, partition].log.segments:
            segment.write_indexes()

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
        self.server.forget((topic, partition))
        shared.log.abandon()
        PartitionLog.purge(PartitionLog.delete(shared.log.folder))

    def let_go(self, topic: str, partition: int = 0) -> None:
        shared = self.partitions.pop((topic, partition))
        shared.control_page.close_page(CLOSED)
        self.server.forget((topic, partition))
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

    def run(self, commands_fd: int, answers_fd: int) -> None:
        """Serve until the pipe of commands is closed."""
        with os.fdopen(commands_fd) as commands, os.fdopen(answers_fd, "w") as answers:
            self.loop.add(commands_fd, READ, lambda _events: self._on_command(commands, answers))
            self.loop.run()

    def _on_command(self, commands: TextIO, answers: TextIO) -> None:
        line = commands.readline()
        if not line:
            self.loop.stop()
            return
        name, arguments = json.loads(line)
        try:
            answer: dict[str, Any] = {"answer": getattr(self, name)(**arguments)}
        except KbrokerError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
