"""Reads partitions straight out of the page cache, through the descriptors that a worker on this host hands out."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from kbroker.clients.backoff import backoff_ms
from kbroker.clients.cluster import Cluster
from kbroker.clients.consumer_core import Cursor
from kbroker.errors import (
    BrokerUnavailable,
    KbrokerError,
    StorageError,
    ThrottlingQuotaExceeded,
    UnsupportedVersion,
)
from kbroker.shm.errors import ConnectionLost, ShmRefused
from kbroker.shm.partition import ShmPartition
from kbroker.shm.reader import ShmConnection
from kbroker.wire.messages import NodeInfo

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 2.0
CONNECT_ATTEMPTS = 5
"""After so many failures with one incarnation of a worker it is read through ZeroMQ."""


def machine_hindrance() -> str:
    """Why this machine cannot read through shared memory; empty when it can."""
    machine = platform.machine()
    return "" if machine == "x86_64" else f"lock-free reads are promised on x86-64 only, this is {machine}"


@dataclass
class Worker:
    """What is known of one worker process: the connection to it, or why there is none."""

    incarnation: int
    connection: ShmConnection | None = None
    fd: int = -1
    hindrance: str = ""
    attempts: int = 0
    retry_at_ms: int = 0
    opened: dict[Cursor, ShmPartition] = field(default_factory=dict)
    refused: set[Cursor] = field(default_factory=set)


class Place(NamedTuple):
    """Where a cursor is read, as long as it keeps its ticket and the metadata their version."""

    ticket: int
    version: int
    worker: Worker
    partition: ShmPartition


class ShmSource:
    """Opens and reads partitions for cursors. `on_error` hears what the worker refuses for one partition; if the caller
    `insists` on shared memory, also what could be read another way.
    """

    def __init__(
        self,
        cluster: Cluster,
        boot_id: str,
        read_bytes: int,
        committed: bool,
        check_crcs: bool,
        on_error: Callable[[Cursor, KbrokerError], None],
        *,
        insists: bool = False,
    ) -> None:
        self._cluster = cluster
        self._boot_id = boot_id
        self._read_bytes = read_bytes
        self._committed = committed
        self._check_crcs = check_crcs
        self._on_error = on_error
        self._insists = insists
        self._workers: dict[int, Worker] = {}
        self._places: dict[Cursor, Place] = {}
        self._machine = machine_hindrance()
        self.reason = ""

    def serves(self, cursor: Cursor) -> bool:
        """Whether this cursor is to be read here, not through ZeroMQ. `reason` says why not."""
        place = self._places.get(cursor)
        if place is not None and place.version == self._cluster.view.version:
            return True
        node = self._node_of(cursor)
        if node is None:
            return False  # nobody owns it at the moment; the fetches look after metadata
        reason = self._hindrance(node)
        if not reason:
            worker = self._worker(node)
            reason = worker.hindrance
            if not reason and cursor in worker.refused:
                reason = f"{cursor.topic_partition} was refused by its worker"
        if reason:
            self.reason = reason
        return not reason

    def read(self, cursors: list[Cursor], now: int) -> bool:
        """Read for these cursors, in their order; whether anything came. May wait for a descriptor."""
        came = False
        version = self._cluster.view.version
        for cursor in cursors:
            place = self._places.get(cursor)
            try:
                if place is None or place.ticket != cursor.ticket or place.version != version:
                    place = self._find_place(cursor, now)
                    if place is None:
                        continue
                data = place.partition.read(self._read_bytes)
                if data and cursor.put(data, self._check_crcs):
                    came = True
            except KbrokerError as error:
                self._refused(cursor, error, now)
        return came

    def dispatch(self, now: int) -> None:
        """Take the wake-ups that have come, before `arm`; notice who has hung up. Not needed before `read`: the pages
        that are shared tell more, and sooner."""
        for worker in self._workers.values():
            if worker.connection is not None:
                self._dispatch(worker, now)

    def arm(self, cursors: list[Cursor], now: int) -> bool:
        """Ask to be woken for these. False: do not sleep."""
        wanted: dict[int, list[ShmPartition]] = {}
        for cursor in cursors:
            place = self._places.get(cursor)
            if place is not None:
                wanted.setdefault(id(place.worker), []).append(place.partition)
        sleep = True
        for worker in self._workers.values():
            partitions = wanted.get(id(worker))
            if partitions and worker.connection is not None:
                try:
                    sleep = worker.connection.arm(partitions) and sleep
                except ConnectionLost as error:
                    self._lose(worker, now, str(error))
                    sleep = False
        return sleep

    def next_retry_ms(self, now: int) -> int | None:
        """When a worker that could not be reached is tried again."""
        return min(
            (w.retry_at_ms for w in self._workers.values() if w.connection is None and w.retry_at_ms > now),
            default=None,
        )

    def facts_of(self, cursor: Cursor) -> int:
        """The high watermark as published last; -1: not read here."""
        place = self._places.get(cursor)
        return int(place.partition.facts().high_watermark) if place is not None else -1

    def forget(self, keep: set[Cursor]) -> None:
        """Close what no cursor in `keep` reads."""
        for worker in self._workers.values():
            for cursor in [cursor for cursor in worker.opened if cursor not in keep]:
                self._close_partition(worker, cursor)
            worker.refused &= keep

    def close(self) -> None:
        """Close every connection."""
        for worker in self._workers.values():
            self._drop(worker)

    # --- inside ---

    def _node_of(self, cursor: Cursor) -> NodeInfo | None:
        return self._cluster.view.nodes.get(self._cluster.view.leader(cursor.topic_partition))

    def _hindrance(self, node: NodeInfo) -> str:
        if self._machine:
            return self._machine
        if not self._boot_id or self._cluster.view.boot_id != self._boot_id:
            return "the broker runs on another host"
        if not node.shm_path:
            return "the broker does not offer it (shm.enable)"
        if not os.access(node.shm_path, os.R_OK | os.W_OK):
            return f"no access to {node.shm_path} from here"
        return ""

    def _worker(self, node: NodeInfo) -> Worker:
        worker = self._workers.get(node.node)
        if worker is None or worker.incarnation != node.incarnation:
            if worker is not None:
                self._drop(worker)
            worker = self._workers[node.node] = Worker(node.incarnation)
        return worker

    def _connect(self, worker: Worker, node: NodeInfo, now: int) -> ShmConnection | None:
        if now < worker.retry_at_ms:
            return None
        try:
            connection = ShmConnection(node.shm_path, CONNECT_TIMEOUT_S)
        except (ShmRefused, UnsupportedVersion) as error:
            if worker.hindrance != str(error):
                log.warning("%s; %s", error, "trying again" if self._insists else "reading through ZeroMQ")
            self._fail(worker, now, str(error))
            worker.hindrance = str(error)
            return None
        except BrokerUnavailable as error:
            self._fail(worker, now, str(error))
            return None
        worker.connection = connection
        worker.fd = connection.fileno()
        self._cluster.watch(worker.fd)
        return connection

    def _find_place(self, cursor: Cursor, now: int) -> Place | None:
        """Where to read it now; None: it cannot be read yet."""
        node = self._node_of(cursor)
        if node is None:
            return None
        worker = self._worker(node)
        partition = worker.opened.get(cursor)
        known = self._places.get(cursor)
        if partition is None or known is None or known.ticket != cursor.ticket:
            if partition is not None:
                self._close_partition(worker, cursor)  # it was sought, or the other way went on from here
            partition = self._open(worker, node, cursor, now)
            if partition is None:
                return None
        place = self._places[cursor] = Place(cursor.ticket, self._cluster.view.version, worker, partition)
        return place

    def _open(self, worker: Worker, node: NodeInfo, cursor: Cursor, now: int) -> ShmPartition | None:
        connection = worker.connection or self._connect(worker, node, now)
        if connection is None:
            return None
        topic, number = cursor.topic_partition
        partition = connection.open(
            topic, number, cursor.fetch_offset, cursor.fetch_epoch, topic_id=cursor.topic_id, committed=self._committed
        )
        worker.opened[cursor] = partition
        worker.attempts = 0
        return partition

    def _refused(self, cursor: Cursor, error: KbrokerError, now: int) -> None:
        """Opening or reading has failed."""
        node = self._node_of(cursor)
        assert node is not None
        worker = self._worker(node)
        if isinstance(error, ConnectionLost):
            self._lose(worker, now, str(error))
        elif self._insists:
            self._close_partition(worker, cursor)
            self._on_error(cursor, error)
        elif isinstance(error, ThrottlingQuotaExceeded):
            worker.refused.add(cursor)
            log.warning("%s: %s; it is read through ZeroMQ", cursor.topic_partition, error)
        elif isinstance(error, StorageError):
            self._close_partition(worker, cursor)
            worker.refused.add(cursor)
            log.warning("%s: %s; it is read through ZeroMQ", cursor.topic_partition, error)
        else:
            self._close_partition(worker, cursor)
            self._on_error(cursor, error)

    def _dispatch(self, worker: Worker, now: int) -> None:
        assert worker.connection is not None
        try:
            worker.connection.dispatch()
        except ConnectionLost as error:
            # What was published before is still to be read: the partitions are read once more, then let go.
            self._read_rest(worker)
            self._lose(worker, now, str(error))
        except KbrokerError as error:
            self._lose(worker, now, str(error))

    def _read_rest(self, worker: Worker) -> None:
        for cursor, partition in list(worker.opened.items()):
            if self._places[cursor].ticket == cursor.ticket and cursor.buffered_bytes < self._read_bytes:
                with contextlib.suppress(KbrokerError):
                    cursor.put(partition.read(self._read_bytes), self._check_crcs)

    def _lose(self, worker: Worker, now: int, why: str) -> None:
        log.info("%s", why)
        self._drop(worker)
        self._fail(worker, now, why)

    def _fail(self, worker: Worker, now: int, why: str) -> None:
        worker.attempts += 1
        settings = self._cluster.settings
        worker.retry_at_ms = now + backoff_ms(worker.attempts, settings.retry_backoff_ms, settings.retry_backoff_max_ms)
        if worker.attempts >= CONNECT_ATTEMPTS:
            worker.hindrance = why
        self._cluster.want_metadata()

    def _drop(self, worker: Worker) -> None:
        if worker.connection is not None:
            self._cluster.unwatch(worker.fd)
            worker.connection.close()
            worker.connection = None
        for cursor in worker.opened:
            self._places.pop(cursor, None)
        worker.opened.clear()

    def _close_partition(self, worker: Worker, cursor: Cursor) -> None:
        partition = worker.opened.pop(cursor, None)
        if partition is not None:
            self._places.pop(cursor, None)
            partition.close()
