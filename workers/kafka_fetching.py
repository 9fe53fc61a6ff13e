"""Fetch requests of Kafka clients: look up what is there, or park until there is enough or the time is up.

The records go from the segment to the socket by sendfile; those that the page cache does not have are read on an I/O
thread first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple, Protocol

from kbroker.errors import (
    FencedLeaderEpoch,
    InconsistentTopicId,
    InvalidRequest,
    KafkaStorageError,
    NotLeaderOrFollower,
    OffsetOutOfRange,
    RequestError,
    StorageError,
    UnknownLeaderEpoch,
    UnknownTopicId,
    code_of,
)
from kbroker.kafka import fetch
from kbroker.kafka.cluster import Cluster, Node
from kbroker.kafka.fetch_request import FetchRequest
from kbroker.kafka.fetch_sessions import FetchSessions, WantedPartition
from kbroker.kafka.schema import NO_UUID
from kbroker.log.log import PartitionLog
from kbroker.log.slices import LogSlice
from kbroker.types import TopicPartition
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.kafka_connection import Asked
from kbroker.workers.page_cache import CachedFiles
from kbroker.workers.parking import ParkedFetch, Parking, count_bytes, least_bytes
from kbroker.workers.partition import HighWatermarkWaiter

WAIT_MS_MAX = 60_000
COLD_BYTES_MAX = 1 << 20
"""What one answer reads into memory where the page cache does not have it: whole batches up to this, one at least."""
READ_COMMITTED: Final = 1
_MISLED = (NotLeaderOrFollower.code, FencedLeaderEpoch.code)
_CACHED_FILES = CachedFiles()


class Loaded(bytes):
    """Records that an I/O thread has read."""

    __slots__ = ()

    @property
    def size_bytes(self) -> int:
        return len(self)


Records = LogSlice | Loaded
Fetched = fetch.FetchedPartition[Records]


def check_epoch(log: PartitionLog, known_epoch: int) -> None:
    """Raises FencedLeaderEpoch or UnknownLeaderEpoch when the client knows another epoch than this one."""
    if known_epoch >= 0 and known_epoch != log.leader_epoch:
        kind = FencedLeaderEpoch if known_epoch < log.leader_epoch else UnknownLeaderEpoch
        raise kind(f"{log.partition} has leader epoch {log.leader_epoch}, not {known_epoch}")


class Led(Protocol):
    """A partition that is led here."""

    @property
    def log(self) -> PartitionLog: ...
    @property
    def parked(self) -> set[HighWatermarkWaiter]: ...


class Leads(Protocol):
    """The partitions that a node leads. `get` raises the RequestError that says why one is not served here."""

    @property
    def serving(self) -> Mapping[TopicPartition, Led]: ...
    def get(self, topic: str, index: int) -> Led: ...
    def name_of(self, topic_id: bytes) -> str | None: ...


class FetchSource(NamedTuple):
    """What fetches of one node read from."""

    parking: Parking
    io: IoThreads
    leads: Leads
    sessions: FetchSessions
    cluster: Callable[[str], Cluster]
    """The cluster as a client that reached us at that address sees it."""
    bytes_max: int


class KafkaFetch(ParkedFetch):
    """One fetch request from arrival to answer."""

    __slots__ = ("_asked", "_fetching", "_is_fresh", "_request", "_served", "_source")

    def __init__(self, source: FetchSource, asked: Asked, request: FetchRequest) -> None:
        super().__init__(source.parking, asked)
        self._source = source
        self._asked = asked
        self._request = request
        version = asked.request.version
        self._fetching = source.sessions.open(request, version, source.leads.name_of, source.parking.loop.now_ms())
        self._served: list[Fetched] = []
        self._is_fresh = False
        """All that it answers was written while it waited: the page cache has it."""

    def start(self) -> None:
        """Answer at once when there is enough, or something to say; else park."""
        if self._gather() or self._request.max_wait_ms <= 0:
            self._respond()
            return
        names: list[Any] = []
        self._is_fresh = True
        for item in self._served:
            names.append((item.topic, item.index))  # found as TopicPartitions are, and cost less
            if item.records is not None:
                self._is_fresh = False
        served, self._served = self._served, []  # looked up anew when there is more: what waits keeps little
        if not self._park(names, self._source.leads.serving, min(self._request.max_wait_ms, WAIT_MS_MAX)):
            self._served = served
            self._respond()

    # --- what there is ---

    def _gather(self) -> bool:
        """Look up each partition. True when there is enough to answer, or something that must not wait."""
        request = self._request
        most_bytes = left = min(request.max_bytes, self._source.bytes_max)
        found = reached = most_of_each = 0
        is_urgent = not self._fetching.partitions
        served = self._served = []
        for wanted in self._fetching.partitions:
            answer: Fetched = fetch.FetchedPartition(wanted.topic, wanted.topic_id, wanted.partition)
            served.append(answer)
            try:
                # A full answer is looked no further for than the facts that every partition gets.
                most = min(wanted.max_bytes, left)
                piece = self._look_up(wanted, answer, most if left > 0 or not found else None)
            except (RequestError, StorageError) as error:
                answer.fail(code_of(error))
                is_urgent = True
                continue
            is_urgent = is_urgent or answer.diverging is not None
            most_of_each += wanted.max_bytes
            if piece is None:
                continue
            size_bytes = piece.size_bytes
            # At least one batch in all, whatever its size; after that only what fits.
            fits = not found or size_bytes <= most
            if fits:
                answer.records = piece
                found += size_bytes
                left = max(0, left - size_bytes)
            reached += count_bytes(size_bytes, most, fits and piece.next_offset >= answer.high_watermark)
        return is_urgent or reached >= least_bytes(request.min_bytes, most_bytes, most_of_each)

    def _look_up(self, wanted: WantedPartition, answer: Fetched, max_bytes: int | None) -> LogSlice | None:
        if self._request.is_replica:
            raise InvalidRequest("replicas of other hosts do not fetch here")
        if not wanted.topic:
            raise UnknownTopicId(f"no topic has the id {wanted.topic_id.hex()}")
        log = self._source.leads.get(wanted.topic, wanted.partition).log
        if wanted.topic_id not in (NO_UUID, log.topic_id):
            raise InconsistentTopicId(f"topic {wanted.topic} was deleted and made anew; its id is another one now")
        answer.high_watermark = high_watermark = log.high_watermark
        answer.last_stable_offset = log.last_stable_offset
        answer.log_start_offset = log.log_start_offset
        if wanted.current_leader_epoch != log.leader_epoch:
            check_epoch(log, wanted.current_leader_epoch)
        if wanted.last_fetched_epoch >= 0:
            epoch, end_offset = log.epoch_end_offset(wanted.last_fetched_epoch)
            if epoch < 0:
                raise OffsetOutOfRange(f"{log.partition} has had no leader epoch {wanted.last_fetched_epoch} yet")
            if epoch != wanted.last_fetched_epoch or end_offset < wanted.fetch_offset:
                answer.diverging = (epoch, end_offset)
                return None
        if max_bytes is None or wanted.fetch_offset == high_watermark:
            return None
        isolation = "committed" if self._request.isolation_level == READ_COMMITTED else "uncommitted"
        piece = log.read(wanted.fetch_offset, max(1, max_bytes), isolation=isolation)
        return piece if piece.size_bytes else None

    # --- the answer ---

    def _respond(self) -> None:
        self._is_over = True
        if self._is_fresh:
            self._answer()
            return
        cold: list[Fetched] = []
        left = COLD_BYTES_MAX
        for wanted, item in zip(self._fetching.partitions, self._served, strict=True):
            if not isinstance(item.records, LogSlice) or self._is_cached(item, item.records):
                continue
            if item.records.size_bytes > left:
                if cold:
                    item.records = None  # the next fetch gets them
                    continue
                self._shorten(wanted, item)
            if item.records is not None:
                left -= item.records.size_bytes
                cold.append(item)
        if not cold:
            self._answer()
            return
        slices = [item.records for item in cold if isinstance(item.records, LogSlice)]

        asked = self._asked

        def read() -> list[Loaded | StorageError]:
            return [] if asked.is_gone else [_read(piece) for piece in slices]

        def done(data: list[Loaded | StorageError] | None, error: BaseException | None) -> None:
            if asked.is_gone:
                return
            outcome = data or [StorageError(str(error))] * len(cold)
            for item, piece, read in zip(cold, slices, outcome, strict=True):
                if isinstance(read, Loaded):
                    item.records = read
                else:
                    item.fail(KafkaStorageError.code)
                    with contextlib.suppress(RequestError):  # else nobody is there to look at it
                        self._source.leads.get(item.topic, item.index).log.suspect(piece.base_offset)
            self._step(self._answer)

        self._source.io.submit(read, done)

    def _shorten(self, wanted: WantedPartition, item: Fetched) -> None:
        try:
            item.records = self._look_up(wanted, item, COLD_BYTES_MAX)
        except (RequestError, StorageError) as error:
            item.fail(code_of(error))

    def _fail(self, error: Exception) -> None:
        self._asked.fail(error)

    def _is_cached(self, item: Fetched, piece: LogSlice) -> bool:
        """Whether it lies in the page cache, so that sending it is not likely to wait, or cannot be read at all."""
        now_ms = self._source.parking.loop.now_ms()
        try:
            found = _CACHED_FILES.has(piece.file, piece.position, piece.size_bytes, piece.segment_bytes, now_ms)
        except OSError:
            item.fail(KafkaStorageError.code)
            return True
        return not piece.cold if found is None else found

    def _answer(self) -> None:
        error_code, session_id, shown = self._fetching.result(self._served, self._source.parking.loop.now_ms())
        version, correlation_id = self._asked.request.version, self._asked.request.correlation_id
        read_committed = self._request.isolation_level == READ_COMMITTED
        pieces: list[bytes | Records] | None = None
        if len(shown) == 1 and not error_code:
            pieces = fetch.encode_one(version, correlation_id, shown[0], session_id, read_committed)
        if pieces is None:
            pieces = fetch.encode(
                version,
                correlation_id,
                [list(partitions) for _, partitions in groupby(shown, _topic_of)],
                error_code=error_code,
                session_id=session_id,
                read_committed=read_committed,
                nodes=self._name_leaders(shown) if version >= fetch.NEW_LEADERS else (),
            )
        self._asked.answer(pieces)

    def _name_leaders(self, shown: list[Fetched]) -> Sequence[Node]:
        """Tell who came to the wrong node, or with an old epoch, who leads (KIP-951). The nodes that are named."""
        misled = [item for item in shown if item.error_code in _MISLED]
        if not misled:
            return ()
        cluster = self._source.cluster(self._asked.connection.host)
        for item in misled:
            item.current_leader = cluster.leader_of(item.topic, item.index)
        return cluster.nodes_of(item.current_leader for item in misled)


def _topic_of(item: Fetched) -> tuple[str, bytes]:
    return item.topic, item.topic_id


def _read(piece: LogSlice) -> Loaded | StorageError:
    try:
        return Loaded(piece.read())
    except StorageError as error:
        return error
