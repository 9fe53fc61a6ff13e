"""Fetch requests of Kafka clients: look up what is there, or park until there is enough or the time is up.

The records go from the segment to the socket by sendfile; those that the page cache does not have are read on an I/O
thread first.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from kbroker.errors import (
    FencedLeaderEpoch,
    KafkaStorageError,
    RequestError,
    StorageError,
    UnknownLeaderEpoch,
    UnknownTopicId,
    code_of,
)
from kbroker.kafka import fetch
from kbroker.log.log import PartitionLog
from kbroker.log.slices import LogSlice
from kbroker.types import TopicPartition
from kbroker.workers.kafka_connection import FilePart, Part
from kbroker.workers.kafka_service import Call
from kbroker.workers.parking import ParkedFetch

if TYPE_CHECKING:
    from kbroker.workers.worker import Worker

WAIT_MS_MAX = 60_000
FETCH_SESSION_ID_NOT_FOUND = 70
_WITHOUT_SESSION = (0, -1)
_WOULD_BLOCK = (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOTSUP)
_NO_ID = bytes(16)


class Loaded:
    """Records that an I/O thread has read."""

    __slots__ = ("data", "size_bytes")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size_bytes = len(data)


Records = LogSlice | Loaded
Fetched = fetch.FetchedPartition[Records]


def is_cached(piece: LogSlice) -> bool:
    """Whether its first and last byte lie in the page cache, so that a read of it is not likely to wait."""
    probe = bytearray(1)
    try:
        for position in (piece.position, piece.position + piece.size_bytes - 1):
            os.preadv(piece.fd, [probe], position, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno in _WOULD_BLOCK:
            return error.errno != errno.EAGAIN and not piece.cold
        raise StorageError(f"{piece.path}: cannot read at {piece.position}: {error}") from error
    return True


def check_epoch(log: PartitionLog, known_epoch: int) -> None:
    """Raises FencedLeaderEpoch or UnknownLeaderEpoch when the client knows another epoch than this one."""
    if known_epoch >= 0 and known_epoch != log.leader_epoch:
        kind = FencedLeaderEpoch if known_epoch < log.leader_epoch else UnknownLeaderEpoch
        raise kind(f"{log.partition} has leader epoch {log.leader_epoch}, not {known_epoch}")


class KafkaFetch(ParkedFetch):
    """One fetch request from arrival to answer."""

    __slots__ = ("_call", "_items", "_request", "_served", "_worker")

    def __init__(self, worker: Worker, call: Call) -> None:
        super().__init__(worker.loop)
        self._worker = worker
        self._call = call
        self._request = call.request
        self._served: list[list[Fetched]] = []
        self._items: list[tuple[str, bytes, Any]] = []

    def start(self) -> None:
        """Answer at once when there is enough, or something to say; else park."""
        request = self._request
        if request.session_id != 0 and request.session_epoch not in _WITHOUT_SESSION:
            self._call.answer_pieces(
                fetch.encode(self._call.version, self._call.correlation_id, [], error_code=FETCH_SESSION_ID_NOT_FOUND)
            )
            return
        if self._gather() or request.max_wait_ms <= 0:
            self._respond()
            return
        names = (TopicPartition(item.topic, item.index) for topics in self._served for item in topics)
        self._park(names, self._worker.table.serving, min(request.max_wait_ms, WAIT_MS_MAX))

    # --- what there is ---

    def _gather(self) -> bool:
        """Look up each partition. True when there is enough to answer, or something that must not wait."""
        request = self._request
        left = min(request.max_bytes, self._worker.config.kafka.fetch_bytes_max)
        found = 0
        is_urgent = not request.topics
        self._served = []
        by_id = self._call.version >= fetch.TOPIC_IDS
        for topic in request.topics:
            name = (self._worker.table.name_of(topic.topic_id) or "") if by_id else topic.topic
            partitions: list[Fetched] = []
            for item in topic.partitions:
                answer: Fetched = fetch.FetchedPartition(name, topic.topic_id if by_id else _NO_ID, item.partition)
                piece = None
                try:
                    if by_id and not name:
                        raise UnknownTopicId(f"no topic has the id {topic.topic_id.hex()}")
                    # A full answer is looked no further for than the facts that every partition gets.
                    most = min(item.partition_max_bytes, left) if left > 0 or not found else None
                    piece = self._look_up(item, answer, most)
                except (RequestError, StorageError) as error:
                    answer.error_code = code_of(error)
                    is_urgent = True
                is_urgent = is_urgent or answer.diverging is not None
                # At least one batch in all, whatever its size; after that only what fits.
                if piece is not None and (not found or piece.size_bytes <= left):
                    answer.records = piece
                    found += piece.size_bytes
                    left = max(0, left - piece.size_bytes)
                partitions.append(answer)
            self._served.append(partitions)
        return is_urgent or found >= max(1, request.min_bytes)

    def _look_up(self, item: Any, answer: Fetched, max_bytes: int | None) -> LogSlice | None:
        log = self._worker.table.get(answer.topic, answer.index).log
        answer.high_watermark = log.high_watermark
        answer.log_start_offset = log.log_start_offset
        check_epoch(log, item.current_leader_epoch)
        if item.last_fetched_epoch >= 0:
            epoch, end_offset = log.epoch_end_offset(item.last_fetched_epoch)
            if epoch >= 0 and (epoch != item.last_fetched_epoch or end_offset < item.fetch_offset):
                answer.diverging = (epoch, end_offset)
                return None
        if max_bytes is None:
            return None
        piece = log.read(item.fetch_offset, max(1, max_bytes))
        return piece if piece.size_bytes else None

    # --- the answer ---

    def _respond(self) -> None:
        self._is_over = True
        cold: list[Fetched] = []
        for partitions in self._served:
            for item in partitions:
                if isinstance(item.records, LogSlice) and not self._is_cached(item, item.records):
                    cold.append(item)
        if not cold:
            self._answer()
            return
        slices = [item.records for item in cold if isinstance(item.records, LogSlice)]

        def read() -> list[bytes | StorageError]:
            return [_read(piece) for piece in slices]

        def done(data: list[bytes | StorageError] | None, error: BaseException | None) -> None:
            for item, read in zip(cold, data or [StorageError(str(error))] * len(cold), strict=True):
                if isinstance(read, bytes):
                    item.records = Loaded(read)
                else:
                    item.records, item.error_code = None, KafkaStorageError.code
            self._answer()

        self._worker.io.submit(read, done)

    def _is_cached(self, item: Fetched, piece: LogSlice) -> bool:
        try:
            return is_cached(piece)
        except StorageError:
            item.records, item.error_code = None, KafkaStorageError.code
            return True

    def _answer(self) -> None:
        pieces = fetch.encode(
            self._call.version,
            self._call.correlation_id,
            self._served,
            read_committed=self._request.isolation_level == 1,
        )
        self._call.answer_pieces([_part(piece) for piece in pieces])


def _read(piece: LogSlice) -> bytes | StorageError:
    try:
        return piece.read()
    except StorageError as error:
        return error


def _part(piece: bytes | Records) -> Part:
    if isinstance(piece, LogSlice):
        return FilePart(piece.fd, piece.position, piece.size_bytes, piece)
    return piece.data if isinstance(piece, Loaded) else piece
