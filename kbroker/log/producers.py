"""What a partition knows of idempotent producers: their epochs and the last batches of each, as in Kafka.

Answers "was this batch appended before?" and "does it follow the last one?". Rebuilt from a snapshot and the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest, nsmallest
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

from crc32c import crc32c

from kbroker.errors import DuplicateSequence, InvalidProducerEpoch, OutOfOrderSequence
from kbroker.log.producer_room import ProducerRoom
from kbroker.records.batch import BatchFacts

UNBOUNDED: Final = 1 << 62
SEQUENCE_MAX: Final = 2**31 - 1
BATCHES_KEPT: Final = 5
"""Kafka's clients have at most five requests in flight for a partition."""

SNAPSHOT_HEAD: Final = Struct(
    ">"
    "h"  # version           1
    "I"  # crc               CRC-32C of everything after this field
    "i"  # entry_count       entries that follow
)
assert SNAPSHOT_HEAD.size == 10
_CRC_END: Final = 6

SNAPSHOT_ENTRY: Final = Struct(
    ">"
    "q"  # producer_id
    "h"  # producer_epoch
    "i"  # last_sequence     sequence of the last record of the batch
    "q"  # last_offset       offset of the last record of the batch
    "i"  # offset_delta      last offset minus first offset of the batch
    "q"  # timestamp         the batch's largest timestamp, ms since 1970
    "i"  # coordinator_epoch -1: no transaction marker seen
    "q"  # txn_first_offset  -1: no transaction is open
)
assert SNAPSHOT_ENTRY.size == 46

_COUNT: Final = Struct(">i")
_new = tuple.__new__


class Kept(NamedTuple):
    """One batch of a producer that is remembered."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    last_offset: int
    timestamp: int


class Producer:
    """One producer id in this partition. `batches` are its last ones, oldest first, all of `epoch`."""

    __slots__ = ("batches", "complete", "epoch", "seen_ms")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.batches: list[Kept] = []
        self.complete = True  # nothing is missing between the kept batches and those before them
        self.seen_ms = -1


class ProducerStates:
    """All producers of one partition, `ids_max` at most: above it those are forgotten that wrote longest ago. `room`:
    that of all partitions of the process, when it counts there."""

    __slots__ = ("_producers", "forgotten", "ids_max", "room")

    def __init__(self, ids_max: int = UNBOUNDED) -> None:
        self.ids_max = ids_max
        self.forgotten = 0
        """How many were forgotten for want of room."""
        self.room: ProducerRoom | None = None
        self._producers: dict[int, Producer] = {}

    def __len__(self) -> int:
        return len(self._producers)

    def __iter__(self) -> Iterator[tuple[int, Producer]]:
        """The producers with their ids."""
        return iter(self._producers.items())

    def get(self, producer_id: int) -> Producer | None:
        return self._producers.get(producer_id)

    def last_batches(self) -> frozenset[int]:
        """Base offsets of the last batch of each."""
        return frozenset(producer.batches[-1].base_offset for producer in self._producers.values() if producer.batches)

    def check(self, batch: BatchFacts, pending: dict[int, tuple[int, int]]) -> Kept | None:
        """What is known of `batch` already: the batch it repeats, or None when it may be appended.

        `pending` holds epoch and last sequence by producer id for batches checked before this one in the same append,
        and is updated. Raises InvalidProducerEpoch, OutOfOrderSequence, DuplicateSequence.
        """
        _, _, _, last_offset_delta, _, _, _, producer_id, epoch, first, _, _ = batch
        last = _last_sequence(first, last_offset_delta)
        known = self._producers.get(producer_id)
        earlier = pending.get(producer_id)
        if earlier is not None:
            current_epoch, current_last = earlier
        elif known is not None:
            current_epoch, current_last = known.epoch, known.batches[-1].last_sequence if known.batches else -1
        else:
            # Retention or expiry may have removed all that was known: Kafka takes any sequence then, and so do we.
            pending[producer_id] = (epoch, last)
            return None
        if epoch < current_epoch:
            raise InvalidProducerEpoch(
                f"producer {producer_id} has epoch {current_epoch}; a batch of epoch {epoch} comes too late"
            )
        if epoch > current_epoch:
            if first != 0:
                raise OutOfOrderSequence(
                    f"producer {producer_id}: the first sequence of new epoch {epoch} is {first}; 0 is expected"
                )
        else:
            expected = _next_sequence(current_last) if current_last >= 0 else first
            if first != expected:
                if known is not None and known.epoch == epoch:
                    for kept in known.batches:
                        if kept.first_sequence == first and kept.last_sequence == last:
                            return kept
                    if _too_old(known, first, last):
                        raise DuplicateSequence(
                            f"producer {producer_id}: sequence {first} is older than the last {BATCHES_KEPT} batches"
                        )
                raise OutOfOrderSequence(
                    f"producer {producer_id}, epoch {epoch}: sequence {first} follows {current_last}; "
                    f"{expected} is expected"
                )
        pending[producer_id] = (epoch, last)
        return None

    def add(self, batch: BatchFacts, base_offset: int, now_ms: int) -> None:
        """Remember a batch that was appended at `base_offset`. Takes gaps, as a replay of a damaged log has them."""
        _, _, _, last_offset_delta, _, _, max_timestamp, producer_id, epoch, first, _, _ = batch
        producer = self._producers.get(producer_id)
        if producer is None or producer.epoch != epoch:
            if producer is None:
                self._make_room()
            producer = self._producers[producer_id] = Producer(epoch)
            producer.complete = first == 0
        elif producer.batches and _next_sequence(producer.batches[-1].last_sequence) != first:
            producer.batches.clear()
            producer.complete = False
        producer.seen_ms = now_ms
        kept = producer.batches
        last = _last_sequence(first, last_offset_delta)
        # As Kept(…), in half the time.
        kept.append(_new(Kept, (first, last, base_offset, base_offset + last_offset_delta, max_timestamp)))
        if len(kept) > BATCHES_KEPT:
            del kept[0]

    def expire(self, now_ms: int, silent_ms: int) -> int:
        """Forget producers that were silent for `silent_ms`. Returns how many."""
        old = [number for number, p in self._producers.items() if p.seen_ms + silent_ms < now_ms]
        self._forget(old)
        return len(old)

    def forget_oldest(self, count: int) -> None:
        """Forget those whose last batch is the oldest."""
        oldest = nsmallest(count, self._producers.items(), key=_last_offset)
        self._forget([producer_id for producer_id, _ in oldest])
        self.forgotten += len(oldest)
        if self.room is not None:
            self.room.forgot(len(oldest))

    def _forget(self, producer_ids: list[int]) -> None:
        for producer_id in producer_ids:
            del self._producers[producer_id]
        if self.room is not None:
            self.room.held -= len(producer_ids)

    def _make_room(self) -> None:
        """For one more."""
        if len(self._producers) >= self.ids_max:
            self.forget_oldest(self.ids_max // 8 + 1)
        if self.room is not None:
            self.room.took(1)

    def restored(self, now_ms: int) -> None:
        """Start the clock of expiry for everything that came from a snapshot or the log."""
        for producer in self._producers.values():
            producer.seen_ms = now_ms

    def snapshot(self) -> bytes:
        """Kafka's producer snapshot, version 1: the last batch of each producer; then ours, in the same form: the
        earlier batches that are kept. Kafka stops reading before those.
        """
        newest: list[bytes] = []
        earlier: list[bytes] = []
        for producer_id, producer in self._producers.items():
            for number, kept in enumerate(producer.batches):
                packed = SNAPSHOT_ENTRY.pack(
                    producer_id,
                    producer.epoch,
                    kept.last_sequence,
                    kept.last_offset,
                    kept.last_offset - kept.base_offset,
                    kept.timestamp,
                    -1,
                    -1,
                )
                (newest if number == len(producer.batches) - 1 else earlier).append(packed)
        body = b"".join((_COUNT.pack(len(newest)), *newest, _COUNT.pack(len(earlier)), *earlier))
        return SNAPSHOT_HEAD.pack(1, crc32c(body), 0)[:_CRC_END] + body

    @classmethod
    def parse(cls, data: bytes, ids_max: int = UNBOUNDED) -> ProducerStates | None:
        """The producers in a snapshot's bytes, of too many those that wrote last; None when it is damaged or of a newer
        version."""
        states = cls(ids_max)
        try:
            version, crc, count = SNAPSHOT_HEAD.unpack_from(data)
            if version != 1 or crc != crc32c(memoryview(data)[_CRC_END:]):
                return None
            position = SNAPSHOT_HEAD.size
            newest = _entries(data, position, count)
            position += len(newest)
            earlier = memoryview(b"")
            if position < len(data):
                (earlier_count,) = _COUNT.unpack_from(data, position)
                earlier = _entries(data, position + _COUNT.size, earlier_count)
        except (StructError, ValueError):
            return None
        kept: set[int] | None = None
        if count > ids_max:
            last_offsets = ((entry[3], entry[0]) for entry in SNAPSHOT_ENTRY.iter_unpack(newest))
            kept = {producer_id for _, producer_id in nlargest(ids_max, last_offsets)}
            states.forgotten = count - len(kept)
        for part in (earlier, newest):
            for entry in SNAPSHOT_ENTRY.iter_unpack(part):
                if kept is None or entry[0] in kept:
                    states._restore(entry)
        for producer in states._producers.values():
            # Five kept batches in a row show that nothing is missing; with fewer, nobody can know.
            producer.complete = len(producer.batches) >= BATCHES_KEPT or producer.batches[0].first_sequence == 0
        return states

    def _restore(self, entry: tuple[int, ...]) -> None:
        producer_id, epoch, last_sequence, last_offset, delta, timestamp, _, _ = entry
        producer = self._producers.get(producer_id)
        if producer is None or producer.epoch != epoch:
            producer = self._producers[producer_id] = Producer(epoch)
        first = last_sequence - delta if last_sequence >= delta else last_sequence - delta + SEQUENCE_MAX + 1
        if producer.batches and _next_sequence(producer.batches[-1].last_sequence) != first:
            producer.batches.clear()
        producer.batches.append(Kept(first, last_sequence, last_offset - delta, last_offset, timestamp))


def _entries(data: bytes, position: int, count: int) -> memoryview:
    end = position + count * SNAPSHOT_ENTRY.size
    if count < 0 or end > len(data):
        raise ValueError
    return memoryview(data)[position:end]


def _last_offset(item: tuple[int, Producer]) -> int:
    batches = item[1].batches
    return batches[-1].last_offset if batches else -1


def _last_sequence(first: int, delta: int) -> int:
    last = first + delta
    return last if last <= SEQUENCE_MAX else last - SEQUENCE_MAX - 1


def _next_sequence(sequence: int) -> int:
    return sequence + 1 if sequence < SEQUENCE_MAX else 0


def _too_old(producer: Producer, first: int, last: int) -> bool:
    """Whether the batch surely was appended, and is only no longer remembered. Clients take that for success, so it
    must not be said of a batch that a damaged log may have lost.
    """
    return producer.complete and bool(producer.batches) and first <= last < producer.batches[0].first_sequence
