"""The producer's decisions: what to send when, what to send again, when to give up. No I/O, no threads, no clock.

Events come in as calls with the time, effects go out as values. Per partition at most `max_in_flight` batches are
unanswered. With idempotence each batch has a sequence, so that the broker drops repeats and refuses gaps; what comes
back refused for a gap before it is sent again in order.

Two rules keep records in order where the broker knows nothing of a producer yet and would take any sequence: until the
first batch of an identity is acknowledged (and again after a long silence) only one is in flight; and a batch that
failed for good leaves a gap, behind which a partition drains and starts over with a new producer id.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from kbroker.clients.accumulator import Accumulator, Batch, Identity, Outcome
from kbroker.clients.backoff import backoff_ms
from kbroker.errors import (
    DuplicateSequence,
    InvalidProducerEpoch,
    LeaderNotAvailable,
    MessageTooLarge,
    NetworkError,
    NotLeaderOrFollower,
    OutOfOrderSequence,
    RequestTimedOut,
    RetriableError,
    UnknownProducerId,
    UnknownTopicOrPartition,
)
from kbroker.types import TopicPartition

SEQUENCE_MODULUS = 2**31
SILENCE_MS = 600_000
"""After this long without an acknowledgement the broker may have forgotten the producer."""


class SendBatch(NamedTuple):
    """Effect: send the batch's payload to its partition's owner and report as `acknowledged` or `failed`."""

    batch: Batch
    attempt: int


class BatchDone(NamedTuple):
    """Effect: the batch's outcome is known."""

    batch: Batch


class NeedProducerId(NamedTuple):
    """Effect: ask the broker for a producer id and report it as `identified`."""


class NeedMetadata(NamedTuple):
    """Effect: what is known of this topic may be out of date."""

    topic: str


Effect = SendBatch | BatchDone | NeedProducerId | NeedMetadata

_STALE = (NotLeaderOrFollower, LeaderNotAvailable, UnknownTopicOrPartition)
_NOT_APPENDED_RENEW = (OutOfOrderSequence, UnknownProducerId)


@dataclass(slots=True)
class ProducerSettings:
    """The limits that the core keeps. `linger_ms` is how long a batch waits for more records."""

    linger_ms: int = 5
    max_in_flight: int = 5
    retries: int = 2**31 - 1
    retry_backoff_ms: int = 20
    retry_backoff_max_ms: int = 1000
    delivery_timeout_ms: int = 120_000
    idempotent: bool = True
    acks: int = -1


class PartitionQueue:
    """The batches of one partition: `waiting` to be sent in order, then `in_flight` in order."""

    __slots__ = (
        "acked_ms",
        "identity",
        "in_flight",
        "next_sequence",
        "renewing",
        "topic_partition",
        "trouble",
        "waiting",
    )

    def __init__(self, topic_partition: TopicPartition) -> None:
        self.topic_partition = topic_partition
        self.waiting: deque[Batch] = deque()
        self.in_flight: list[Batch] = []
        self.identity: Identity | None = None
        self.next_sequence = 0
        self.acked_ms: int | None = None
        self.renewing = False
        self.trouble: Exception | None = None  # why batches wait, for the one who is told that they came too late

    def put_back(self, batch: Batch) -> None:
        """Into `waiting`, at its place in the order of the records."""
        for index, other in enumerate(self.waiting):
            if other.number > batch.number:
                self.waiting.insert(index, batch)
                return
        self.waiting.append(batch)

    def fly(self, batch: Batch) -> None:
        """Into `in_flight`, at its place."""
        in_flight = self.in_flight
        batch.sent_as_first = not in_flight or in_flight[0].number > batch.number
        in_flight.append(batch)
        if len(in_flight) > 1 and in_flight[-2].number > batch.number:
            in_flight.sort(key=_number)

    def strip(self, batch: Batch) -> None:
        """The broker surely has not appended `batch` and never will, nor what follows it: they lose their sequences."""
        batch.sequence = -1
        for other in self.waiting:
            if other.number > batch.number:
                other.sequence = -1

    def follows_stripped(self, batch: Batch) -> bool:
        """Whether a batch before this one has lost its sequence, so that this one cannot have been appended either."""
        return any(other.number < batch.number and other.attempts and other.sequence < 0 for other in self.waiting)


class ProducerCore:
    """The state machine of one producer."""

    def __init__(self, settings: ProducerSettings, accumulator: Accumulator) -> None:
        self.settings = settings
        self.accumulator = accumulator
        self.identity: Identity | None = None
        self._asked_identity = False
        self._queues: dict[TopicPartition, PartitionQueue] = {}
        # Partitions with batches waiting or in flight.
        self._active: dict[TopicPartition, PartitionQueue] = {}
        # Those that the next `drain` looks at (a dict for its order), and those that it looks at from a time on.
        self._look: dict[PartitionQueue, None] = {}
        self._later: list[tuple[int, int, PartitionQueue]] = []
        self._tie = itertools.count()
        self._by_age: deque[Batch] = deque()

    # --- events ---

    def opened(self, batch: Batch) -> None:
        """A batch was opened and has its first record."""
        queue = self._queues.get(batch.topic_partition)
        if queue is None:
            queue = self._queues[batch.topic_partition] = PartitionQueue(batch.topic_partition)
        self._active[batch.topic_partition] = queue
        self._by_age.append(batch)
        if queue.waiting or not self.settings.linger_ms:
            self._look[queue] = None  # the one before it is full
        else:
            self._look_later(queue, batch.created_ms + self.settings.linger_ms)
        queue.waiting.append(batch)

    def hasten(self, batch: Batch) -> None:
        """Do not wait for more records for this batch."""
        batch.urgent = True
        self._look[self._queues[batch.topic_partition]] = None

    def hasten_all(self) -> None:
        """The buffer is full: do not wait for more records at all."""
        self._look.update(dict.fromkeys(self._active.values()))

    def identified(self, producer_id: int, producer_epoch: int) -> None:
        """The broker gave a producer id."""
        self.identity = Identity(producer_id, producer_epoch)
        self._asked_identity = False

    def identity_failed(self) -> None:
        """The broker did not give a producer id; the next `drain` asks again."""
        self._asked_identity = False

    def drain(self, now_ms: int, sendable: Callable[[TopicPartition], bool]) -> list[Effect]:
        """Everything that may be sent now. `sendable` says whether a partition's owner can be reached."""
        while self._later and self._later[0][0] <= now_ms:
            self._look[heapq.heappop(self._later)[2]] = None
        effects: list[Effect] = []
        look, self._look = self._look, {}
        for queue in look:
            if queue.waiting:
                self._drain_queue(queue, now_ms, sendable, effects)
        return effects

    def acknowledged(
        self, batch: Batch, attempt: int, base_offset: int, append_time_ms: int, now_ms: int
    ) -> list[Effect]:
        """The broker appended the batch (or says that it had done so before)."""
        queue = self._answered(batch, attempt)
        if queue is None:
            return []
        queue.acked_ms = now_ms
        queue.trouble = None
        return self._end(queue, batch, Outcome(base_offset, append_time_ms, None))

    def failed(self, batch: Batch, attempt: int, error: Exception, now_ms: int) -> list[Effect]:
        """The broker refused the batch, or nobody knows what became of it (a RetriableError)."""
        if isinstance(error, DuplicateSequence):
            return self.acknowledged(batch, attempt, -1, -1, now_ms)
        queue = self._answered(batch, attempt)
        if queue is None:
            return []
        if not isinstance(error, OutOfOrderSequence):  # that follows from the trouble of a batch before
            queue.trouble = error
        effects: list[Effect] = []
        if isinstance(error, _STALE):
            effects.append(NeedMetadata(batch.topic_partition.topic))
        if self.settings.acks == 0:
            return effects + self._end(queue, batch, Outcome(-1, -1, error))
        if isinstance(error, MessageTooLarge) and batch.record_count > 1:
            # The topic's limit was lowered, or another one is in force than metadata said.
            effects.append(NeedMetadata(batch.topic_partition.topic))
            self._halve(queue, batch)
            return effects
        if self._again(queue, batch, error):
            if now_ms < self._deadline_ms(batch):
                batch.retry_at_ms = now_ms + backoff_ms(
                    batch.attempts, self.settings.retry_backoff_ms, self.settings.retry_backoff_max_ms
                )
                if self.settings.idempotent and queue.renewing and queue.follows_stripped(batch):
                    batch.sequence = -1
                queue.put_back(batch)
                self._look_later(queue, batch.retry_at_ms)
                return effects
            error = self._too_late(queue, batch)
        return effects + self._fail(queue, batch, error)

    def tick(self, now_ms: int) -> list[Effect]:
        """Batches that were not acknowledged within the delivery time-out fail."""
        effects: list[Effect] = []
        while (oldest := self._oldest()) is not None and now_ms >= self._deadline_ms(oldest):
            queue = self._queues[oldest.topic_partition]
            if oldest in queue.in_flight:
                queue.in_flight.remove(oldest)
            else:
                queue.waiting.remove(oldest)
            effects += self._fail(queue, oldest, self._too_late(queue, oldest))
        return effects

    def abort(self, error: Exception) -> list[Effect]:
        """Everything that is not acknowledged fails now."""
        effects: list[Effect] = []
        for queue in tuple(self._active.values()):
            batches = [*queue.in_flight, *queue.waiting]
            queue.in_flight.clear()
            queue.waiting.clear()
            for batch in batches:
                effects += self._fail(queue, batch, error)
        return effects

    def recover(self, now_ms: int) -> list[Effect]:
        """Make everything anew from the accumulator's batches: an event was interrupted in the middle, anywhere, and
        all links were given up.

        What was sent is sent again, as after a lost connection. What was not gets its sequence under a new identity,
        since nobody knows which one comes next under the old.
        """
        self.accumulator.recover()
        queues, self._queues = self._queues, {}
        self._asked_identity = False
        self._active, self._look, self._later = {}, {}, []
        for topic_partition, old in queues.items():
            queue = self._queues[topic_partition] = PartitionQueue(topic_partition)
            queue.identity, queue.trouble = old.identity, old.trouble
            queue.renewing = True
        batches = list(self.accumulator.unfinished)
        self._by_age = deque(sorted(batches, key=_age))
        effects: list[Effect] = []
        lost = []
        for batch in sorted(batches, key=_number):
            if batch.done:
                effects += _done(batch)
                continue
            if batch.halves is not None:
                continue
            queue = self._queues.setdefault(batch.topic_partition, PartitionQueue(batch.topic_partition))
            self._active[batch.topic_partition] = queue
            if batch.attempts:
                queue.in_flight.append(batch)
                lost.append(batch)
            else:
                queue.waiting.append(batch)
                self._look[queue] = None
        for batch in lost:
            error = NetworkError("the caller was interrupted while the batch was on its way")
            effects += self.failed(batch, batch.attempts, error, now_ms)
        return effects

    # --- questions ---

    def batches(self) -> Iterable[Batch]:
        """All batches whose outcome is open."""
        for queue in self._active.values():
            yield from queue.in_flight
            yield from queue.waiting

    def waiting_topics(self) -> set[str]:
        """Topics with something to send."""
        return {tp.topic for tp, queue in self._active.items() if queue.waiting}

    def next_due_ms(self) -> int | None:
        """When `drain` or `tick` may have something to do, if nothing else happens before."""
        oldest = self._oldest()
        if oldest is None:
            return None
        due_ms = oldest.created_ms + self.settings.delivery_timeout_ms
        if self._later and self._later[0][0] < due_ms:
            due_ms = self._later[0][0]
        return due_ms

    # --- inside ---

    def _oldest(self) -> Batch | None:
        by_age = self._by_age
        while by_age and (by_age[0].outcome is not None or by_age[0].halves is not None):
            by_age.popleft()
        return by_age[0] if by_age else None

    def _look_later(self, queue: PartitionQueue, when_ms: int) -> None:
        heapq.heappush(self._later, (when_ms, next(self._tie), queue))

    def _deadline_ms(self, batch: Batch) -> int:
        return batch.created_ms + self.settings.delivery_timeout_ms

    def _ready(self, batch: Batch, now_ms: int) -> bool:
        if batch.attempts:
            return now_ms >= batch.retry_at_ms
        return (
            batch.urgent
            or now_ms - batch.created_ms >= self.settings.linger_ms
            or not self.accumulator.is_open(batch)
            or self.accumulator.free_bytes <= 0
        )

    def _window(self, queue: PartitionQueue, now_ms: int) -> int:
        """How many batches may be in flight. See the rules at the top."""
        if not self.settings.idempotent:
            return self.settings.max_in_flight
        known = queue.acked_ms is not None and now_ms - queue.acked_ms < SILENCE_MS
        return self.settings.max_in_flight if known else 1

    def _drain_queue(
        self,
        queue: PartitionQueue,
        now_ms: int,
        sendable: Callable[[TopicPartition], bool],
        effects: list[Effect],
    ) -> None:
        in_flight_max = self._window(queue, now_ms)
        while queue.waiting and len(queue.in_flight) < in_flight_max:
            batch = queue.waiting[0]
            if not self._ready(batch, now_ms):
                if not batch.attempts:
                    self._look_later(queue, batch.created_ms + self.settings.linger_ms)
                return
            if not sendable(queue.topic_partition):
                self._look[queue] = None
                effects.append(NeedMetadata(queue.topic_partition.topic))
                return
            if queue.waiting[0] is not batch:
                continue  # to answer, a link to a dead process was given up: what was in flight on it goes first
            if batch.sequence < 0 and self.settings.idempotent:
                if not self._identify(queue, effects):
                    self._look[queue] = None
                    return
                in_flight_max = self._window(queue, now_ms)
                if len(queue.in_flight) >= in_flight_max:
                    return  # the identity is new
            queue.waiting.popleft()
            self.accumulator.seal(batch)
            if batch.builder is not None or (batch.sequence < 0 and self.settings.idempotent):
                self._close(queue, batch)
            batch.attempts += 1
            queue.fly(batch)
            effects.append(SendBatch(batch, batch.attempts))

    def _close(self, queue: PartitionQueue, batch: Batch) -> None:
        if queue.identity is None:
            batch.close(None, -1)
            return
        batch.close(queue.identity, queue.next_sequence)
        queue.next_sequence = (queue.next_sequence + batch.record_count) % SEQUENCE_MODULUS

    def _identify(self, queue: PartitionQueue, effects: list[Effect]) -> bool:
        """Give the partition an identity that may take new batches. False: not yet."""
        if queue.identity is not None and not queue.renewing:
            return True
        if queue.in_flight or any(other.sequence >= 0 for other in queue.waiting):
            return False  # what has a sequence ends under the old identity first
        if self.identity is None or self.identity is queue.identity:
            if not self._asked_identity:
                self._asked_identity = True
                effects.append(NeedProducerId())
            return False
        queue.identity = self.identity
        queue.next_sequence = 0
        queue.acked_ms = None
        queue.renewing = False
        return True

    def _halve(self, queue: PartitionQueue, batch: Batch) -> None:
        """The batch was refused for its size: its halves take its place, in the queue and among the sequences."""
        sequence = batch.sequence
        halves = self.accumulator.halve(batch)
        at = self._by_age.index(batch)
        for half in halves:
            half.close(batch.identity, sequence)
            if sequence >= 0:
                sequence = (sequence + half.record_count) % SEQUENCE_MODULUS
            self._by_age.insert(at, half)
            queue.put_back(half)

    def _answered(self, batch: Batch, attempt: int) -> PartitionQueue | None:
        """Take the batch out of flight; None: this answer is to an attempt that was given up."""
        queue = self._queues[batch.topic_partition]
        if batch.attempts != attempt or batch not in queue.in_flight:
            return None
        queue.in_flight.remove(batch)
        self._look[queue] = None
        return queue

    def _again(self, queue: PartitionQueue, batch: Batch, error: Exception) -> bool:
        """Whether the batch is to be sent again after this error."""
        if batch.attempts > self.settings.retries:
            return False
        if isinstance(error, RetriableError):
            return True
        if not isinstance(error, _NOT_APPENDED_RENEW) or not self.settings.idempotent:
            return False
        if isinstance(error, OutOfOrderSequence) and not batch.sent_as_first:
            return True  # refused for a batch before it, which comes first now
        if queue.renewing or isinstance(error, UnknownProducerId):
            # Surely not appended: a gap that we know of, or the broker forgot us. It starts over under a new id.
            queue.renewing = True
            queue.strip(batch)
            return True
        return False  # the broker has lost what it had acknowledged: the caller must know

    def _too_late(self, queue: PartitionQueue, batch: Batch) -> Exception:
        why = f"; the last error was: {queue.trouble}" if queue.trouble is not None else ""
        return RequestTimedOut(
            f"{batch.record_count} records for {batch.topic_partition} were not acknowledged within "
            f"delivery_timeout_ms={self.settings.delivery_timeout_ms}{why}"
        )

    def _fail(self, queue: PartitionQueue, batch: Batch, error: Exception) -> list[Effect]:
        if batch.sequence >= 0 or isinstance(error, InvalidProducerEpoch):
            queue.renewing = True
        return self._end(queue, batch, Outcome(-1, -1, error))

    def _end(self, queue: PartitionQueue, batch: Batch, outcome: Outcome) -> list[Effect]:
        if queue.waiting:
            self._look[queue] = None
        batch.outcome = outcome
        self.accumulator.seal(batch)
        self.accumulator.release(batch)
        if not queue.in_flight and not queue.waiting:
            self._active.pop(queue.topic_partition, None)
        return _done(batch)


def _done(batch: Batch) -> list[Effect]:
    """The batch is done, and with its other half also the one that it was a half of."""
    effects: list[Effect] = [BatchDone(batch)]
    parent = batch.parent
    while parent is not None and parent.halves is not None and all(half.done for half in parent.halves):
        parent.outcome = Outcome(-1, -1, None)
        effects.append(BatchDone(parent))
        parent = parent.parent
    return effects


def _number(batch: Batch) -> int:
    return batch.number


def _age(batch: Batch) -> int:
    return batch.created_ms
