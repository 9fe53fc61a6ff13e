"""DeleteRecords at the worker that leads the partitions: answered when the disk has their new beginnings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kbroker.errors import KbrokerError, PolicyViolation, RequestError, StorageError, code_of
from kbroker.kafka import delete_records
from kbroker.kafka.delete_records import Deletion, Result
from kbroker.workers.gathering import Gathering
from kbroker.workers.kafka_service import Call
from kbroker.workers.refusal_log import RefusalLog

if TYPE_CHECKING:
    from kbroker.workers.worker import Worker


class DeletionInProgress:
    """A request whose partitions are settled one by one; answered after the last."""

    def __init__(self, worker: Worker, call: Call, refusals: RefusalLog) -> None:
        self._worker = worker
        self._refusals = refusals
        self._call = call

    def start(self) -> None:
        """Begin with every partition."""
        items = delete_records.wanted(self._call.request)
        gathering: Gathering[Result] = Gathering(self._answer)
        gathering.expect(len(items))
        for number, item in enumerate(items):
            self._delete(item, gathering.token_of(number))

    def _delete(self, item: Deletion, settle: Callable[[Result], None]) -> None:
        start = -1

        def done(error: KbrokerError | None) -> None:
            settle(Result(0, start) if error is None else Result(code_of(error)))

        try:
            led = self._worker.table.get(item.topic, item.partition)
            call = self._call
            timeout_ms = call.request.timeout_ms
            start = self._worker.delete_records(led, item.before_offset, timeout_ms, done, call, call.caller)
        except (RequestError, StorageError) as error:
            if isinstance(error, PolicyViolation):  # the answer has no place for the reason
                self._refusals.say(
                    self._call.caller, f"DeleteRecords of {item.topic:.249}-{item.partition}", str(error)
                )
            settle(Result(code_of(error)))

    def _answer(self, results: Sequence[Result]) -> None:
        self._call.answer(delete_records.answer(self._call.request, results))
