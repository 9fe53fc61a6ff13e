"""One partition in the worker that owns it: its log, its control page, and who waits for it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kbroker.config import LogConfig
from kbroker.errors import KbrokerError, RequestTimedOut, StorageError
from kbroker.log.damage import Damage
from kbroker.log.flush import Flush
from kbroker.log.log import PartitionLog
from kbroker.log.opening import save_damage
from kbroker.log.positions import LogPosition
from kbroker.shm.control_page import CLOSED, DELETED, ControlPage
from kbroker.types import TopicPartition
from kbroker.workers.io_threads import IoThreads

if TYPE_CHECKING:
    from kbroker.workers.rewriting import Rewrite

log = logging.getLogger(__name__)


class Asker(Protocol):
    """Who waits for an answer."""

    @property
    def is_gone(self) -> bool: ...


class AckWaiter(NamedTuple):
    """A request whose answer waits for the disk. `done(None)` answers it, `done(error)` refuses it.

    It is forgotten when the asker has gone.
    """

    ack_offset: int
    deadline_ms: int
    done: Callable[[KbrokerError | None], None]
    asker: Asker | None = None


class HighWatermarkWaiter(Protocol):
    """Something that looks again when this partition's high watermark has moved: a parked fetch."""

    def look_again(self) -> int: ...

    def abandon(self, error: KbrokerError) -> None: ...


class Partition:
    """Flushes in groups, publishes. All of it on the loop's thread, but for the flush itself."""

    def __init__(self, topic_partition: TopicPartition, partition_log: PartitionLog, page: ControlPage) -> None:
        self.name = topic_partition
        self.log = partition_log
        self.control_page = page
        self.parked: set[HighWatermarkWaiter] = set()
        self.rewrites: deque[Rewrite] = deque()
        """What is on its way through `Rewriting` to be appended."""
        self.is_rewritten = partition_log.policy is not None
        """Whether what is appended must come through `Rewriting`: its topic asks more of records, or did until now."""
        self.told = ""
        """The last complaint about the disk; empty once it took something again."""
        self.refuses = ""
        """Why the disk did not take the last append, or takes none; empty when it does."""
        self.refused_bytes = 0
        """The size of that append."""
        self._waiters: deque[AckWaiter] = deque()
        self._start_waiters: deque[AckWaiter] = deque()  # for the log start offset to be on the disk
        self._is_flushing = False
        self._is_writing_back = False
        self._is_removing = False
        self._published = -1
        self._is_saving_damage = False
        self._is_damage_unsaved = False
        self._has_left = False
        self._when_left: Callable[[], None] | None = None

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self.name.topic

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self.name.partition

    @property
    def topic_id(self) -> bytes:
        """The topic's id, 16 bytes."""
        return self.log.topic_id

    @property
    def has_waiters(self) -> bool:
        """Whether an answer waits for the disk."""
        return bool(self._waiters) or bool(self._start_waiters)

    def configure(self, config: LogConfig) -> None:
        """Other settings, from now on."""
        self.log.configure(config)
        self.is_rewritten = self.log.policy is not None or bool(self.rewrites)

    def tell_once(self, complaint: str) -> None:
        """Log what is wrong with the disk, unless that was the last thing said."""
        if self.told != complaint:
            self.told = complaint
            log.error("%s", complaint)

    @property
    def has_left(self) -> bool:
        """Whether it is served here no longer."""
        return self._has_left

    def refuse(self, why: str, size_bytes: int = 0) -> None:
        """The disk did not take an append of that size, or takes none. The log tells it once."""
        self.refuses = why
        self.refused_bytes = size_bytes
        self.tell_once(f"{why}; records for it are refused until the disk takes them again")

    def take_again(self) -> None:
        """The disk has taken something, after something was wrong with it."""
        self.told = ""
        if self.refuses:
            self.refuses = ""
            log.info("%s takes records again", self.name)

    def answer_when_synced(self, waiter: AckWaiter) -> None:
        """Call `waiter.done` when a flush has carried its offset to the disk."""
        self._waiters.append(waiter)

    def delete_records(
        self, before_offset: int, deadline_ms: int, done: Callable[[KbrokerError | None], None], asker: Asker
    ) -> int:
        """Begin the log at that offset; `done` is called when a flush has carried that to the disk.

        Returns the log start offset. Raises OffsetOutOfRange.
        """
        start = self.log.delete_records(before_offset)
        self.show()
        self._start_waiters.append(AckWaiter(start, deadline_ms, done, asker))
        return start

    # --- flushing ---

    def flush(
        self,
        io: IoThreads,
        now_ms: Callable[[], int],
        flushed: Callable[[Partition], None],
        ended: Callable[[], None] | None = None,
    ) -> bool:
        """Begin a group commit of all that was appended, unless one is running; True: it was begun.

        `flushed` is called after it, unless the partition has been left meanwhile; `ended` in any case.
        """
        if self._is_flushing or self._has_left or self.log.failed:
            return False
        flush = self.log.begin_flush()
        if flush is None:
            return False
        self._is_flushing = True

        def done(_result: None, error: BaseException | None) -> None:
            self._is_flushing = False
            self._flushed(flush, error, now_ms())
            if self._has_left:
                self._end()
            else:
                flushed(self)
            if ended is not None:
                ended()

        io.submit(flush.run, done)
        return True

    def _flushed(self, flush: Flush, error: BaseException | None, now_ms: int) -> None:
        if error is None:
            self.log.finish_flush(flush, now_ms)
            if flush.point_error is not None:
                self.refuse(f"{self.name}: no new recovery point can be written: {flush.point_error}")
            return
        self.log.fail_flush(flush, error if isinstance(error, OSError) else OSError(str(error)))
        self._disk_failed(error)

    def _disk_failed(self, error: BaseException) -> None:
        log.error("%s: a flush failed, nothing more is acknowledged from it: %s", self.name, error)
        self.fail_waiters(StorageError(f"{self.name}: the disk did not take the records: {error}"))

    def write_back(self, io: IoThreads, failed: Callable[[Partition], None], ended: Callable[[], None]) -> bool:
        """Have the disk begin with what was appended; True: it was begun, and `ended` is called after it.

        `failed` is called as well, when the disk says that it cannot, unless the partition has been left meanwhile.
        """
        if self._is_writing_back or self._has_left:
            return False
        work = self.log.begin_write_back()
        if work is None:
            return False
        self._is_writing_back = True

        def done(_result: None, error: BaseException | None) -> None:
            self._is_writing_back = False
            if error is not None and not self.log.failed:
                self.log.fail(error)
                self._disk_failed(error)
            if self._has_left:
                self._end()
            elif error is not None:
                failed(self)
            ended()

        io.submit(work.run, done, wakes=False)
        return True

    def remove(self, io: IoThreads, now_ms: Callable[[], int]) -> None:
        """Have the files of segments that were taken out of the log renamed, unless that is under way."""
        if self._is_removing or self._has_left:
            return
        work = self.log.begin_removal()
        if work is None:
            return
        self._is_removing = True

        def done(_result: None, error: BaseException | None) -> None:
            self._is_removing = False
            self.log.finish_removal(work, now_ms())
            if error is not None:
                self.tell_once(f"{self.name}: old segments cannot be removed, tried again every second: {error}")
            if self._has_left:
                self._end()

        io.submit(work.run, done)

    @property
    def is_flushing(self) -> bool:
        """Whether a group commit is running."""
        return self._is_flushing

    # --- damage ---

    def note_damage(self, found: list[Damage], io: IoThreads) -> None:
        """Places in the log are corrupt: the operators' log tells the new ones, the folder remembers them."""
        new = [damage for damage in found if self.log.damage.add(damage)]
        for damage in new:
            log.error("%s: %s", self.name, damage.told(self.name))
        if new:
            self._is_damage_unsaved = True
            self._save_damage(io)

    def _save_damage(self, io: IoThreads) -> None:
        if self._is_saving_damage or self._has_left:
            return
        self._is_saving_damage, self._is_damage_unsaved = True, False

        def saved(_result: None, error: BaseException | None) -> None:
            self._is_saving_damage = False
            if error is not None:
                self.tell_once(f"{self.name}: what is corrupt cannot be written down: {error}")
            if self._has_left:
                self._end()
            elif self._is_damage_unsaved:
                self._save_damage(io)

        io.submit(partial(save_damage, self.log, self.log.damage.encode()), saved)

    # --- publishing ---

    def publish(self) -> bool:
        """Show readers the new high watermark, answer what waited for it. False when it has not moved."""
        if self._has_left:
            return False  # it was left in the turn in which it was appended to: its page is gone
        mark = self.log.high_watermark_position
        has_moved = mark.offset != self._published
        if has_moved:
            self._published = mark.offset
            self._show(mark)
        if self._waiters or self._start_waiters:
            self._answer_waiters()
        return has_moved

    def _answer_waiters(self) -> None:
        acknowledged = self.log.acknowledged_offset
        while self._waiters and self._waiters[0].ack_offset <= acknowledged:
            self._waiters.popleft().done(None)
        while self._start_waiters and self._start_waiters[0].ack_offset <= self.log.durable_log_start_offset:
            self._start_waiters.popleft().done(None)

    def show(self) -> None:
        """Write the log's present bounds to the control page."""
        self._show(self.log.high_watermark_position)

    def _show(self, mark: LogPosition) -> None:
        self.control_page.publish(
            log_start_offset=self.log.log_start_offset,
            high_watermark=mark.offset,
            high_watermark_position=mark.position,
            segment_base=mark.segment_base,
            last_stable_offset=mark.offset,
            lso_position=mark.position,
            lso_segment_base=mark.segment_base,
        )

    def expire_waiters(self, now_ms: int) -> None:
        """Refuse what waits for the disk and whose time-out has passed, forget what nobody waits for any longer; what
        it did stands."""
        for waiters in (self._waiters, self._start_waiters):
            late: list[AckWaiter] = []
            for _ in range(len(waiters)):
                waiter = waiters.popleft()
                if waiter.asker is not None and waiter.asker.is_gone:
                    continue
                (late if waiter.deadline_ms <= now_ms else waiters).append(waiter)
            for waiter in late:
                waiter.done(RequestTimedOut(f"{self.name}: the disk did not confirm it in time"))

    def fail_waiters(self, error: KbrokerError) -> None:
        """Refuse all that waits for the disk."""
        waiters = [*self._waiters, *self._start_waiters]
        self._waiters.clear()
        self._start_waiters.clear()
        for waiter in waiters:
            waiter.done(error)

    # --- the end ---

    def leave(self, deleted: bool, error: KbrokerError, then: Callable[[], None]) -> None:
        """No longer served here: everybody who waits is told, and the control page says why.

        `then` is called when no I/O thread writes to the log's files any more: at once, or after what runs.
        """
        self.fail_waiters(error)
        for waiter in list(self.parked):
            waiter.abandon(error)
        self.parked.clear()
        self.control_page.close_page(DELETED if deleted else CLOSED)
        self.control_page.free()
        self._has_left = True
        self._when_left = then
        self._end()

    def _end(self) -> None:
        if self._is_flushing or self._is_writing_back or self._is_removing or self._is_saving_damage:
            return
        # Whoever waits for the end knows this partition, which must not know it for longer: a circle would keep the
        # files of a deleted partition open, and their space taken, until a garbage collection.
        then, self._when_left = self._when_left, None
        if then is not None:
            then()
