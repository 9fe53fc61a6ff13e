"""The coordinator's log of committed offsets: synced before a commit is answered, replayed at the start."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path

from kbroker.catalog.rebuild import read_topic_id
from kbroker.config import LogConfig
from kbroker.errors import KbrokerError, StorageError
from kbroker.groups.committed import Committed, CommittedOffsets, Place, decode, encode_key, encode_value
from kbroker.log.flush import Flush
from kbroker.log.log import PartitionLog
from kbroker.log.names import PARTITION_METADATA
from kbroker.records.codec import BatchBuilder, decode_list, iter_batches
from kbroker.types import OFFSETS_TOPIC, TopicPartition
from kbroker.workers.io_threads import IoThreads

log = logging.getLogger(__name__)

PARTITION = TopicPartition(OFFSETS_TOPIC, 0)
READ_BYTES = 1 << 20
RETRY_OPEN_MS = 5_000

Done = Callable[[KbrokerError | None], None]
Commits = list[tuple[Place, Committed]]


class OffsetsLog:
    """`offsets` has what is committed and on the disk. Opening it raises StorageError or StartError."""

    def __init__(self, data_dir: Path, config: LogConfig, io: IoThreads, now_ms: int) -> None:
        folder = data_dir / str(PARTITION)
        topic_id = read_topic_id(folder / PARTITION_METADATA) or uuid.uuid4().bytes
        # Not for users' settings: what retention took would be forgotten.
        config = dataclasses.replace(config, retention_ms=-1, retention_bytes=-1, flush_acks_all="fdatasync")
        self.offsets = CommittedOffsets()
        self.on_published: Callable[[], None] = lambda: None
        self._io = io
        self._folder = folder
        self._waiting: deque[tuple[int, Commits, Done]] = deque()
        self.log = PartitionLog.open(folder, PARTITION, topic_id, config, 0, now_ms)
        self._replay()

    def _replay(self) -> None:
        offset = self.log.log_start_offset
        while offset < self.log.next_offset:
            piece = self.log.read(offset, READ_BYTES)
            if not piece.size_bytes:
                return
            for batch in iter_batches(piece.read()):
                for record in decode_list(batch):
                    found = decode(record[3], record[4])
                    if found is not None:
                        self.offsets.put(*found)
            offset = piece.next_offset

    def commit(self, commits: Commits, now_ms: int, done: Done) -> None:
        """Append; `done` follows when the disk has them, or with the error."""
        builder = BatchBuilder(batch_bytes=self.log.config.message_max_bytes)
        for place, committed in commits:
            if not builder.append(now_ms, encode_key(place), encode_value(committed)):
                done(StorageError("more offsets than fit into one batch"))
                return
        try:
            result = self.log.append(builder.build(), now_ms, sync=True)
        except KbrokerError as error:
            done(error)
            return
        self._waiting.append((result.ack_offset, commits, done))
        self._flush()

    def _flush(self) -> None:
        flush = self.log.begin_flush()
        if flush is not None:
            self._io.submit(flush.run, lambda _result, error: self._flushed(flush, error))

    def _flushed(self, flush: Flush, error: BaseException | None) -> None:
        if error is not None:
            self.log.fail_flush(flush, error)
            log.critical("committed offsets: %s; this process ends, so that its successor recovers them", error)
            raise SystemExit(1)
        self.log.finish_flush(flush, 0)
        self.on_published()
        acknowledged = self.log.acknowledged_offset
        while self._waiting and self._waiting[0][0] <= acknowledged:
            _, commits, done = self._waiting.popleft()
            for place, committed in commits:
                self.offsets.put(place, committed)
            done(None)
        if self.log.needs_sync:
            self._flush()

    def close(self, now_ms: int) -> None:
        """Close cleanly, after the I/O threads have ended."""
        try:
            self.log.close(now_ms)
        except StorageError as error:
            log.error("the committed offsets could not be closed cleanly: %s", error)
