"""What `Producer.send` returns: the outcome of one record, to come."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from kbroker.clients.accumulator import Batch, Outcome
from kbroker.clients.gate import Gate
from kbroker.clients.records import RecordMetadata
from kbroker.errors import RequestTimedOut


class Completer(Protocol):
    """The producer, as its futures see it."""

    def watch_batch(self, batch: Batch, waiter: Callable[[], object]) -> bool:
        """Send the batch soon and call `waiter` when it has ended; False: it has ended already."""
        ...

    def add_callback(self, batch: Batch, future: RecordFuture, callback: Callable[[Any], object], error: bool) -> None:
        """Call back from the producer's thread when the batch has ended."""
        ...


class RecordFuture:
    """The outcome of one record. Light on purpose: all records of a batch share its outcome.

    `is_done` tells whether the outcome is known. Waiting with `get` also hurries the record: its batch is sent without
    waiting for `linger_ms`.
    """

    __slots__ = ("_batch", "_index", "_producer", "_timestamp")

    def __init__(self, producer: Completer, batch: Batch, index: int, timestamp_ms: int) -> None:
        self._producer = producer
        self._batch = batch
        self._index = index
        self._timestamp = timestamp_ms

    @property
    def _outcome(self) -> Outcome | None:
        """The outcome of the batch, or of that half of a half … of it that the record is in."""
        while self._batch.outcome is not None and self._batch.halves is not None:
            first, second = self._batch.halves
            if self._index < first.record_count:
                self._batch = first
            else:
                self._batch, self._index = second, self._index - first.record_count
        return self._batch.outcome

    @property
    def is_done(self) -> bool:
        """Whether the record was acknowledged, or given up."""
        return self._outcome is not None

    def succeeded(self) -> bool:
        """Whether the record was acknowledged as `acks` asks."""
        outcome = self._outcome
        return outcome is not None and outcome.error is None

    def failed(self) -> bool:
        """Whether the record was given up."""
        outcome = self._outcome
        return outcome is not None and outcome.error is not None

    @property
    def exception(self) -> Exception | None:
        """Why the record was given up; None while not known, and when it succeeded."""
        outcome = self._outcome
        return outcome.error if outcome is not None else None

    def get(self, timeout: float | None = None) -> RecordMetadata:
        """Wait for the outcome, at most `timeout` seconds (None: until `delivery_timeout_ms` decides).

        Raises RequestTimedOut when the wait is over (the record may still arrive), else the error that the record
        failed with: MessageTooLarge, UnknownTopicOrPartition, OutOfOrderSequence, …
        """
        batch = self._batch
        if batch.outcome is None:
            ended = Gate()
            if self._producer.watch_batch(batch, ended.open) and not ended.wait(timeout):
                raise RequestTimedOut(
                    f"no acknowledgement for a record to {batch.topic_partition} within {timeout} s; it may yet arrive"
                )
        return self.metadata()

    def watch(self, waiter: Callable[[], object]) -> bool:
        """Hurry the record, and call `waiter` from the producer's thread when the outcome is known; False: it is."""
        return self._producer.watch_batch(self._batch, waiter)

    def metadata(self) -> RecordMetadata:
        """The outcome, which must be known. Raises the error that the record failed with."""
        outcome = self._outcome
        assert outcome is not None
        if outcome.error is not None:
            raise outcome.error
        topic, partition = self._batch.topic_partition
        offset = outcome.base_offset + self._index if outcome.base_offset >= 0 else -1
        timestamp = outcome.append_time_ms if outcome.append_time_ms >= 0 else self._timestamp
        return RecordMetadata(topic, partition, offset, timestamp)

    def add_callback(self, callback: Callable[..., object], *args: Any, **kwargs: Any) -> RecordFuture:
        """Call `callback(*args, RecordMetadata, **kwargs)` from the producer's thread when the record was acknowledged.

        It must not block: everything that is sent waits for it. What it raises is logged. Returns this future.
        """
        self._producer.add_callback(self._batch, self, functools.partial(callback, *args, **kwargs), False)
        return self

    def add_errback(self, callback: Callable[..., object], *args: Any, **kwargs: Any) -> RecordFuture:
        """As add_callback, with the error, when the record was given up."""
        self._producer.add_callback(self._batch, self, functools.partial(callback, *args, **kwargs), True)
        return self
