"""What a consumer does when it is asked for records: Consumer and its asyncio twin stand on it (see steps.py)."""

from __future__ import annotations

from kbroker.clients.cluster import Cluster, now_ms
from kbroker.clients.consumer_core import ConsumerCore, Cursor
from kbroker.clients.consumer_options import ConsumerOptions
from kbroker.clients.group_session import GroupSession
from kbroker.clients.producer_options import whole_number
from kbroker.clients.reader import Reader
from kbroker.clients.record_batch import RecordBatch
from kbroker.clients.records import ConsumerRecord
from kbroker.clients.skips import Skips
from kbroker.clients.steps import Steps
from kbroker.errors import ClientClosed, ConcurrentAccess, KbrokerError
from kbroker.types import TopicPartition
from kbroker.wire.messages import CorruptReported, ReportCorrupt

FOREVER_MS = 1 << 40
ITERATED_AT_ONCE = 128
"""Records that an iteration decodes ahead. So few stay in the processor's cache, and make less than the 700 objects
that the garbage collector waits for: 500 at once take a quarter longer."""


class Iteration:
    """One `for` over a consumer. `begun`: it has asked for records."""

    __slots__ = ("begun",)

    def __init__(self) -> None:
        self.begun = False


class ConsumerReading:
    """Polls and iterations. What they stand on is made by ConsumerSteps."""

    options: ConsumerOptions
    _cluster: Cluster
    _core: ConsumerCore
    _reader: Reader
    _skips: Skips
    _group: GroupSession | None
    _closed: bool
    _read_last: tuple[object, object]
    """Who asked for records last, and in which thread or task."""
    _POLL: object = None
    """Who a poll is, in `_read_last`; None: it leaves no trace there."""

    def _user(self) -> object:
        """The thread, or the task, that is running."""
        raise NotImplementedError

    def _poll(self, timeout_ms: int, max_records: int | None) -> Steps[dict[TopicPartition, list[ConsumerRecord]]]:
        self._begin(self._POLL)
        count = self.options.max_poll_records if max_records is None else whole_number("max_records", max_records, 1)
        cursor = yield from self._next(whole_number("timeout_ms", timeout_ms, 0, FOREVER_MS), count)
        found: dict[TopicPartition, list[ConsumerRecord]] = {}
        while cursor is not None:
            records = cursor.take(count)
            before = found.setdefault(cursor.topic_partition, records)
            if before is not records:
                before += records
            count -= len(records)
            try:
                cursor = self._ready(count) if count else None
            except Exception:
                break  # what is found is not lost; the next call raises
        return found

    def _poll_batches(self, timeout_ms: int) -> Steps[list[RecordBatch]]:
        self._begin(self._POLL)
        deadline = now_ms() + whole_number("timeout_ms", timeout_ms, 0, FOREVER_MS)
        while True:
            if self._group is not None and self._group.attention:
                yield from self._group.follow()
            found: list[RecordBatch] = []
            try:
                while (cursor := self._core.next_ready()) is not None:
                    found += cursor.take_batches()
            except KbrokerError:
                if not found:
                    raise  # else what is found is not lost; the next call raises
            now = now_ms()
            if found:
                self._reader.keep_going(now)
                return found
            if not self._reader.gather(now):
                left = deadline - now
                if left <= 0:
                    return []
                yield from self._sleep(left)

    def _iterate(self, iteration: Iteration, timeout_ms: int) -> Steps[Cursor | None]:
        """A partition with the next records for an iteration; None: there was none in time."""
        if iteration.begun:
            self._check_alone(iteration)
        iteration.begun = True
        self._begin(iteration)
        cursor = yield from self._next(timeout_ms, ITERATED_AT_ONCE)
        return cursor

    def _more(self, iteration: Iteration, cursor: Cursor, records: list[ConsumerRecord]) -> list[ConsumerRecord]:
        """The batch's next records after these, which were yielded; empty: look for others."""
        self._cluster.user.enter()
        try:
            self._check_alone(iteration)
            if cursor.records is not records:
                return []  # who moves the cursor inside the loop cuts `records` short, and puts another in its place
            cursor.finish()
            options = self.options
            if cursor.opened is not None:
                cursor.decode(ITERATED_AT_ONCE, options.key_deserializer, options.value_deserializer)
            return cursor.records
        finally:
            self._cluster.user.leave()

    def _next(self, timeout_ms: int, count: int) -> Steps[Cursor | None]:
        """A partition with decoded records, `count` or fewer; None: there was none in time."""
        now = now_ms()
        deadline = now + timeout_ms
        if self._group is not None and self._group.attention:
            yield from self._group.follow()
        cursor = self._ready(count)
        if cursor is not None:
            self._reader.keep_going(now)
        while cursor is None:
            if self._reader.gather(now):
                cursor = self._ready(count)
                if cursor is not None:
                    break
            elif now >= deadline:
                return None
            else:
                yield from self._sleep(deadline - now)
                if self._group is not None and self._group.attention:
                    yield from self._group.follow()
            now = now_ms()
        return cursor

    def _ready(self, count: int) -> Cursor | None:
        """As `_next`, of what is there already."""
        options = self.options
        while (cursor := self._core.next_ready()) is not None:
            try:
                if cursor.records or cursor.decode(count, options.key_deserializer, options.value_deserializer):
                    return cursor
            except BaseException:
                self._core.give_back()
                raise
        return None

    def _begin(self, who: object) -> None:
        """The caller asks for records: those that it had are done with."""
        self._check()
        if who is not None:
            self._read_last = (who, self._user())
        self._core.settle()
        if self._skips.corrupt:
            self._report_corrupt()
        if self._group is not None:
            self._group.polls += 1

    def _report_corrupt(self) -> None:
        """Tell the owners where records were corrupt: only readers look at their checksums. Nobody waits for it."""
        reported = set()
        while self._skips.corrupt:
            place, offset = self._skips.corrupt.popleft()
            if (place, offset) not in reported:
                reported.add((place, offset))
                request = ReportCorrupt(place.topic, place.partition, offset)
                self._cluster.ask_owner(place, request, CorruptReported, lambda _reply: None)

    def _check_alone(self, iteration: Iteration) -> None:
        """Raises ConcurrentAccess when another thread, or task, has asked for records since this iteration did."""
        who, user = self._read_last
        if who is not iteration and user != self._user():
            raise ConcurrentAccess(
                "Consumer is not safe for multi-threaded access: another thread or task has read from it in the middle "
                "of this iteration; give each one a consumer of its own"
            )

    def _sleep(self, left_ms: int) -> Steps[None]:
        group = self._group
        if group is not None and group.attention:
            return
        rest_ms = self._reader.rest_ms(min(left_ms, 60_000))
        if rest_ms > 0:
            if group is not None:
                group.waiting = True
                rest_ms = group.rest_ms(rest_ms)
            try:
                yield rest_ms
            finally:
                if group is not None:
                    group.waiting = False
            if self._closed:
                raise ClientClosed("this consumer was closed")

    def _check(self) -> None:
        """Raises ClientClosed, ForkedClient."""
        self._cluster.guard.check("consumer")
        if self._closed:
            raise ClientClosed("this consumer was closed")
