"""Fetch requests: read what is there, or park until there is enough or the time is up."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from kbroker.errors import (
    KafkaStorageError,
    RequestError,
    RequestTimedOut,
    StorageError,
    ThrottlingQuotaExceeded,
    UnknownServerError,
    UnknownTopicId,
    code_of,
)
from kbroker.log.slices import LogSlice
from kbroker.types import TopicPartition
from kbroker.wire import codec
from kbroker.wire import messages as m
from kbroker.workers.doors import Asked
from kbroker.workers.parking import ParkedFetch, count_bytes, least_bytes

if TYPE_CHECKING:
    from kbroker.workers.worker import Worker

log = logging.getLogger(__name__)

WAIT_MS_MAX = 60_000
"""An empty answer comes after this at the latest: a client that is gone keeps its place no longer."""

_WOULD_BLOCK = (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOTSUP)


def read_if_cached(piece: LogSlice) -> bytes | bytearray | None:
    """The slice's bytes when the page cache has all of them; None: read it where waiting does no harm."""
    buffer = bytearray(piece.size_bytes)
    try:
        count = os.preadv(piece.file.fd, [buffer], piece.position, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno in _WOULD_BLOCK:
            return None if piece.cold else piece.read()
        raise StorageError(f"{piece.path}: cannot read at {piece.position}: {error}") from error
    return buffer if count == piece.size_bytes else None


T = TypeVar("T")


def _tried(read: Callable[[LogSlice], T], piece: LogSlice) -> T | StorageError:
    try:
        return read(piece)
    except StorageError as error:
        return error


class FetchInProgress(ParkedFetch):
    """One fetch request from arrival to answer."""

    __slots__ = ("_asked", "_request", "_served", "_worker")

    def __init__(self, worker: Worker, asked: Asked, request: m.Fetch) -> None:
        super().__init__(worker.parking, asked)
        self._worker = worker
        self._asked = asked
        self._request = request
        self._served: list[tuple[m.FetchedPartition, LogSlice | None]] = []

    def start(self) -> None:
        """Answer at once when there is enough, or something to say; else park."""
        self._check_credit()
        if self._gather() or self._request.max_wait_ms <= 0:
            self._respond()
            return
        names = [TopicPartition(item.topic, item.partition) for item in self._request.partitions]
        if not self._park(names, self._worker.table.serving, min(self._request.max_wait_ms, WAIT_MS_MAX)):
            self._respond()

    def cancel(self) -> None:
        """The client has hung up. The front is told all the same: it counts what is not answered."""
        super().cancel()
        if not self._asked.is_gone:
            self._asked.refuse(RequestTimedOut("the client has hung up"))

    def _check_credit(self) -> None:
        """A client that does not take its answers is sent no more. Raises ThrottlingQuotaExceeded."""
        credit = self._request.credit
        taken = credit.received_bytes if credit.incarnation == self._worker.child.incarnation else 0
        waiting = self._asked.door.sent_bytes.get(self._asked.client, 0) - taken
        most = self._worker.config.native.bytes_in_flight_max
        if waiting > most:
            raise ThrottlingQuotaExceeded(
                f"{waiting} bytes of answers were not taken yet, and native.bytes.in.flight.max={most}: take them first"
            )

    def _gather(self) -> bool:
        """Look up each partition. True when there is enough to answer, or an error that must not wait."""
        most_bytes = left = min(self._request.max_bytes, self._worker.config.native.fetch_bytes_max)
        found = reached = most_of_each = 0
        is_urgent = False
        self._served = []
        for item in self._request.partitions:
            answer = m.FetchedPartition(item.topic, item.partition)
            piece = None
            most = min(item.max_bytes, left)
            most_of_each += item.max_bytes
            try:
                if left > 0:
                    piece = self._look_up(item, answer, most)
                if piece is not None:
                    # At least one batch in all, whatever its size; after that only what fits.
                    fits = not found or piece.size_bytes <= left
                    is_all = fits and piece.next_offset >= answer.high_watermark
                    reached += count_bytes(piece.size_bytes, most, is_all)
                    piece = piece if fits else None
            except (RequestError, StorageError) as error:
                answer.error, answer.message = code_of(error), str(error)
                is_urgent = True
            if answer.diverging_offset >= 0:
                is_urgent = True
            if piece is not None:
                found += piece.size_bytes
                left -= piece.size_bytes
            self._served.append((answer, piece))
        return is_urgent or reached >= least_bytes(self._request.min_bytes, most_bytes, most_of_each)

    def _look_up(self, item: m.FetchPartition, answer: m.FetchedPartition, max_bytes: int) -> LogSlice | None:
        partition = self._worker.table.get(item.topic, item.partition)
        if item.topic_id and item.topic_id != partition.topic_id:
            raise UnknownTopicId(f"topic {item.topic} was deleted and made anew; its id is another one now")
        partition_log = partition.log
        answer.high_watermark = answer.last_stable_offset = partition_log.high_watermark
        answer.log_start_offset = partition_log.log_start_offset
        answer.leader_epoch = partition_log.leader_epoch
        if item.last_epoch >= 0:
            epoch, end_offset = partition_log.epoch_end_offset(item.last_epoch)
            # -1: retention has taken that epoch's records, which says nothing about the reader's place.
            if epoch >= 0 and (epoch != item.last_epoch or end_offset < item.offset):
                answer.diverging_offset = min(end_offset, item.offset)
                return None
        piece = partition_log.read(item.offset, max(1, max_bytes))
        return piece if piece.size_bytes else None

    def _respond(self) -> None:
        """Read the bytes: here what is in the page cache, the rest on an I/O thread."""
        self._is_over = True
        found: dict[int, bytes | bytearray | StorageError] = {}
        cold: list[LogSlice] = []
        for _, piece in self._served:
            if piece is not None:
                data = _tried(read_if_cached, piece)
                if data is None:
                    cold.append(piece)
                else:
                    found[id(piece)] = data
        if not cold:
            self._answer(found)
            return

        def done(data: list[bytes | StorageError] | None, error: BaseException | None) -> None:
            if self._asked.is_gone:
                return
            if data is None:
                self._asked.refuse(KafkaStorageError(str(error)))
                return
            found.update((id(piece), read) for piece, read in zip(cold, data, strict=True))
            self._step(partial(self._answer, found))

        def read() -> list[bytes | StorageError]:
            return [] if self._asked.is_gone else [_tried(LogSlice.read, piece) for piece in cold]

        self._worker.io.submit(read, done)

    def _fail(self, error: Exception) -> None:
        log.exception("a fetch that waited")
        self._asked.refuse(UnknownServerError(f"the fetch failed: {error!r:.300}"))

    def _answer(self, found: dict[int, bytes | bytearray | StorageError]) -> None:
        payload: list[bytes | bytearray] = []
        for answer, piece in self._served:
            if piece is None:
                continue
            data = found[id(piece)]
            if isinstance(data, StorageError):
                # One partition's bad disk is no reason to keep the others' records back.
                answer.error, answer.message = data.code, str(data)
                with contextlib.suppress(RequestError):  # else nobody is there to look at it
                    self._worker.table.get(answer.topic, answer.partition).log.suspect(piece.base_offset)
            else:
                answer.frames = 1
                payload.append(data)
        header = codec.encode_answer(
            m.FetchAnswer(self._worker.child.incarnation, [answer for answer, _ in self._served])
        )
        self._asked.answer(header, payload)
