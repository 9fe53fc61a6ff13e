"""Looking up offsets by time, for clients of either protocol: the records are looked into beside the loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kbroker.errors import CorruptMessage, KbrokerError, NotLeaderOrFollower, RequestTimedOut, StorageError
from kbroker.log import timestamps
from kbroker.log.log import PartitionLog
from kbroker.log.timestamps import Stretch
from kbroker.records.expand import Budget
from kbroker.workers.record_work import RecordWork, Unwanted

Place = tuple[int, int]
"""Offset and timestamp in ms."""
Found = Callable[[Place | None, KbrokerError | None], None]


class OffsetLookup:
    """One look-up in one partition, segment after segment; `found` is called once, on the loop."""

    def __init__(
        self, work: RecordWork, log: PartitionLog, timestamp_ms: int, found: Found, is_unwanted: Callable[[], bool]
    ) -> None:
        """`is_unwanted()`: the client has hung up. What has not begun is then not done; `found` gets an error."""
        self._work = work
        self._log = log
        self._timestamp_ms = timestamp_ms
        self._found = found
        self._is_unwanted = is_unwanted
        self._budget = Budget(log.config.decompressed_bytes_max)

    def start(self) -> None:
        """Begin; a look-up that no record can answer is answered at once."""
        if self._is_unwanted():
            self._found(None, RequestTimedOut("the client has hung up"))
        elif self._work.is_full:
            self._found(None, RequestTimedOut(f"{self._log.partition}: too many look-ups by time wait; try again"))
        else:
            self._go_on(-1)

    def _go_on(self, after_base: int) -> None:
        log = self._log
        try:
            where = timestamps.stretch(log, self._timestamp_ms, after_base)
        except StorageError as error:
            self._found(None, error)
            return
        except OSError as error:
            self._found(None, StorageError(f"{log.partition}: cannot look up timestamp {self._timestamp_ms}: {error}"))
            return
        if where is None:
            self._found(None, None)
        else:
            steps = timestamps.steps(where, self._timestamp_ms, self._budget)
            self._work.look_up(steps, partial(self._looked, where), self._is_unwanted)

    def _looked(self, where: Stretch, place: Place | None, error: BaseException | None) -> None:
        log = self._log
        if log.lock is None:
            self._found(None, NotLeaderOrFollower(f"{log.partition} is not served here any longer"))
        elif error is not None:
            self._found(None, _refusal(log, error))
        elif place is None:
            self._go_on(where.segment.base_offset)
        elif place[0] < log.log_start_offset:
            self._go_on(-1)  # it was deleted meanwhile
        else:
            self._found(place if place[0] < log.high_watermark else None, None)


def _refusal(log: PartitionLog, error: BaseException) -> KbrokerError:
    if isinstance(error, KbrokerError):
        return error
    if isinstance(error, Unwanted):
        return RequestTimedOut("the client has hung up")
    if isinstance(error, OSError):
        return StorageError(f"{log.partition}: cannot be looked up in: {error}")
    return CorruptMessage(f"{log.partition}: the records cannot be read: {error!r:.200}")
