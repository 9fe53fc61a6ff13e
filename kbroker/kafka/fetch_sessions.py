"""Fetch sessions (KIP-227): a client's partitions are remembered, so that requests and answers carry only changes.

`open` says what a request wants to read; `Fetching.result` says which of the answers are news. Pure: time and the ids
of new sessions come in.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from kbroker.kafka.fetch import TOPIC_IDS, FetchedPartition, R
from kbroker.kafka.fetch_request import AskedPartition, FetchRequest

FETCH_SESSION_ID_NOT_FOUND: Final = 70
INVALID_FETCH_SESSION_EPOCH: Final = 71
FETCH_SESSION_TOPIC_ID_ERROR: Final = 106

NO_SESSION: Final = 0
"""The session id of a request or answer that belongs to none."""
PARTITIONS_MAX: Final = 200_000
"""Of all sessions together, some 40 MB. A session that would be more is not begun, and one that grows past it ends."""

_BEGIN: Final = 0
_END: Final = -1
_EPOCH_MAX: Final = 2**31 - 1

_new = tuple.__new__  # makes a NamedTuple in half the time

Key = tuple[str | bytes, int]
"""A partition as its requests name it: topic or topic id, and number."""


class WantedPartition:
    """A partition that is read: from where, how much, and in a session what its reader was told last.

    `topic` is empty while nobody knows a topic with that id."""

    __slots__ = (
        "current_leader_epoch",
        "fetch_offset",
        "last_fetched_epoch",
        "max_bytes",
        "partition",
        "told_high_watermark",
        "told_log_start_offset",
        "topic",
        "topic_id",
    )

    def __init__(self, topic: str, asked: AskedPartition) -> None:
        self.topic = topic
        self.told_high_watermark = -1
        self.told_log_start_offset = -1
        (
            _,
            self.topic_id,
            self.partition,
            self.fetch_offset,
            self.max_bytes,
            self.current_leader_epoch,
            self.last_fetched_epoch,
        ) = asked

    def ask(self, asked: AskedPartition) -> None:
        """Read on as a later request says."""
        _, _, _, self.fetch_offset, self.max_bytes, self.current_leader_epoch, self.last_fetched_epoch = asked

    def tell(self, answer: FetchedPartition[R]) -> bool:
        """Remember what is answered. Whether it is news: records, other bounds, or something wrong."""
        if answer.error_code or answer.diverging is not None:
            self.told_high_watermark = -1  # when all is well again, that is news
            return True
        is_news = (
            answer.records is not None
            or answer.high_watermark != self.told_high_watermark
            or answer.log_start_offset != self.told_log_start_offset
        )
        self.told_high_watermark = answer.high_watermark
        self.told_log_start_offset = answer.log_start_offset
        return is_news


class FetchSession:
    """What one client reads. `next_epoch` is what its next request must carry."""

    __slots__ = ("by_id", "created_ms", "evictable", "next_epoch", "partitions", "session_id", "used_ms")

    def __init__(self, session_id: int, by_id: bool, partitions: dict[Key, WantedPartition], now_ms: int) -> None:
        self.session_id = session_id
        self.by_id = by_id
        self.partitions = partitions
        self.next_epoch = 1
        self.created_ms = self.used_ms = now_ms
        self.evictable: tuple[int, int] | None = None


class Result(NamedTuple):
    """How a request is answered, besides the answers of its partitions."""

    error_code: int
    session_id: int
    shown: list[Any]


class Fetching:
    """One request: what it reads, and which session it begins or goes on with. `error_code`: it reads nothing."""

    __slots__ = ("_begins", "_by_id", "_epoch", "_session", "_sessions", "error_code", "partitions")

    def __init__(
        self,
        sessions: FetchSessions,
        partitions: list[WantedPartition],
        by_id: bool,
        *,
        begins: bool = False,
        session: FetchSession | None = None,
        error_code: int = 0,
    ) -> None:
        self._sessions = sessions
        self._by_id = by_id
        self._begins = begins
        self._session = session
        self._epoch = session.next_epoch if session is not None else 0
        self.partitions = partitions
        self.error_code = error_code

    def result(self, served: list[FetchedPartition[R]], now_ms: int) -> Result:
        """What to send of the answers, which are in the order of `partitions`. To be asked once."""
        if self.error_code:
            return Result(self.error_code, NO_SESSION, [])
        session = self._session
        if session is not None:
            return self._changes(session, served)
        if not self._begins:
            return _new(Result, (0, NO_SESSION, served))
        session = self._sessions.begin(self.partitions, self._by_id, now_ms)
        if session is None:
            return Result(0, NO_SESSION, served)
        for wanted, answer in zip(self.partitions, served, strict=True):
            wanted.tell(answer)
        return Result(0, session.session_id, served)

    def _changes(self, session: FetchSession, served: list[FetchedPartition[R]]) -> Result:
        if session.next_epoch != self._epoch:
            # The client has asked again meanwhile, and will not look at this answer.
            return Result(INVALID_FETCH_SESSION_EPOCH, session.session_id, [])
        shown = []
        for wanted, answer in zip(self.partitions, served, strict=True):
            if wanted.tell(answer):
                shown.append(answer)
                if answer.records is not None:
                    # Who got records comes last the next time, so that everybody's turn comes.
                    key = _key(wanted, session.by_id)
                    if session.partitions.pop(key, None) is not None:
                        session.partitions[key] = wanted
        return _new(Result, (0, session.session_id, shown))


class FetchSessions:
    """All sessions of a node: at most `slots_max`, by Kafka's rules of eviction.

    When all slots are taken, the session that was not used for `evict_ms` gives way, else the smallest of those older
    than `evict_ms`, if it is smaller than the new one; else the new one is not begun, which its client copes with.
    `new_id` makes a random number from 1 to 2^31-1.
    """

    def __init__(
        self,
        slots_max: int,
        new_id: Callable[[], int],
        *,
        evict_ms: int = 120_000,
        partitions_max: int = PARTITIONS_MAX,
    ) -> None:
        self._slots_max = slots_max
        self._new_id = new_id
        self._evict_ms = evict_ms
        self._partitions_max = partitions_max
        self._by_id: OrderedDict[int, FetchSession] = OrderedDict()  # the one that was used longest ago comes first
        self._evictable: list[tuple[int, int]] = []  # size and id of sessions older than evict_ms, sorted
        self._partition_count = 0

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def partition_count(self) -> int:
        """Partitions of all sessions."""
        return self._partition_count

    def open(
        self, request: FetchRequest, version: int, name_of: Callable[[bytes], str | None], now_ms: int
    ) -> Fetching:
        """What a request of that version reads. `name_of` knows the topics by their ids."""
        by_id = version >= TOPIC_IDS
        session_id, epoch = request.session_id, request.session_epoch
        if epoch in (_BEGIN, _END):
            if session_id != NO_SESSION:
                self._remove(session_id)
            wanted: dict[Key, WantedPartition] = {}
            _ask(wanted, request.asked, by_id, name_of)
            return Fetching(self, list(wanted.values()), by_id, begins=epoch == _BEGIN)
        session = self._by_id.get(session_id)
        code = 0
        if session is None:
            code = FETCH_SESSION_ID_NOT_FOUND
        elif session.next_epoch != epoch:
            code = INVALID_FETCH_SESSION_EPOCH
        elif session.by_id != by_id:
            code = FETCH_SESSION_TOPIC_ID_ERROR
        if session is None or code:
            return Fetching(self, [], by_id, error_code=code)
        return self._go_on(session, request, name_of, now_ms)

    def _go_on(
        self, session: FetchSession, request: FetchRequest, name_of: Callable[[bytes], str | None], now_ms: int
    ) -> Fetching:
        partitions = session.partitions
        before = len(partitions)
        _ask(partitions, request.asked, session.by_id, name_of)
        for gone in request.forgotten:
            partitions.pop((gone.topic_id if session.by_id else gone.topic, gone.partition), None)
        self._partition_count += len(partitions) - before
        if not partitions:
            self._remove(session.session_id)
            return Fetching(self, [], session.by_id)
        if self._partition_count > self._partitions_max:
            # The client begins anew, and learns then that there is no room.
            self._remove(session.session_id)
            return Fetching(self, [], session.by_id, error_code=FETCH_SESSION_ID_NOT_FOUND)
        if session.by_id:
            for wanted in partitions.values():
                if not wanted.topic:
                    wanted.topic = name_of(wanted.topic_id) or ""
        session.next_epoch = session.next_epoch + 1 if session.next_epoch < _EPOCH_MAX else 1
        self._touch(session, now_ms)
        return Fetching(self, list(partitions.values()), session.by_id, session=session)

    def begin(self, partitions: list[WantedPartition], by_id: bool, now_ms: int) -> FetchSession | None:
        """A new session with those partitions; None: there is no room for it."""
        size = len(partitions)
        if self._partition_count + size > self._partitions_max:
            return None
        if len(self._by_id) >= self._slots_max and not self._make_room(size, now_ms):
            return None
        session_id = self._new_id()
        while session_id in self._by_id:
            session_id = self._new_id()
        session = FetchSession(session_id, by_id, {_key(item, by_id): item for item in partitions}, now_ms)
        self._by_id[session_id] = session
        self._partition_count += size
        return session

    def _make_room(self, size: int, now_ms: int) -> bool:
        oldest = next(iter(self._by_id.values()), None)
        if oldest is None:
            return False
        if now_ms - oldest.used_ms > self._evict_ms:
            self._remove(oldest.session_id)
            return True
        if self._evictable and self._evictable[0][0] < size:
            self._remove(self._evictable[0][1])
            return True
        return False

    def _touch(self, session: FetchSession, now_ms: int) -> None:
        session.used_ms = now_ms
        self._by_id.move_to_end(session.session_id)
        if now_ms - session.created_ms > self._evict_ms:
            key = (len(session.partitions), session.session_id)
            if key != session.evictable:
                self._not_evictable(session)
                session.evictable = key
                insort(self._evictable, key)

    def _not_evictable(self, session: FetchSession) -> None:
        if session.evictable is not None:
            del self._evictable[bisect_left(self._evictable, session.evictable)]
            session.evictable = None

    def _remove(self, session_id: int) -> None:
        session = self._by_id.pop(session_id, None)
        if session is not None:
            self._partition_count -= len(session.partitions)
            self._not_evictable(session)


def _key(wanted: WantedPartition, by_id: bool) -> Key:
    return wanted.topic_id if by_id else wanted.topic, wanted.partition


def _ask(
    wanted: dict[Key, WantedPartition],
    asked: list[AskedPartition],
    by_id: bool,
    name_of: Callable[[bytes], str | None],
) -> None:
    """Take in what a request says of its partitions. One that it names twice is read as it said last."""
    for item in asked:
        key = (item.topic_id if by_id else item.topic, item.partition)
        found = wanted.get(key)
        if found is None:
            wanted[key] = WantedPartition((name_of(item.topic_id) or "") if by_id else item.topic, item)
        else:
            found.ask(item)
