"""Records waiting to be sent: one open batch for each partition, and the bytes of all that is not answered yet.

No threads, no clock: the producer holds a lock around it and passes the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kbroker.records.codec import BatchBuilder, RecordTuple, decode_list, set_producer
from kbroker.types import TopicPartition

BATCH_HEADER_BYTES = 61
NUMBERS_APART = 1 << 32
"""Between the numbers of two batches there is room for those that one of them may be halved into."""


class Identity:
    """A producer id with its epoch. Sequences of one partition count within one identity."""

    __slots__ = ("producer_epoch", "producer_id")

    def __init__(self, producer_id: int, producer_epoch: int) -> None:
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch


class Outcome:
    """What became of a batch. `error` None: it was appended at `base_offset` (-1: not known)."""

    __slots__ = ("append_time_ms", "base_offset", "error")

    def __init__(self, base_offset: int, append_time_ms: int, error: Exception | None) -> None:
        self.base_offset = base_offset
        self.append_time_ms = append_time_ms
        self.error = error


class Batch:
    """Records of one partition that travel together.

    `number` gives the batches of a partition the order of their records. `payload` is made when the batch is first
    sent; `sequence` -1 means that it has no place among the identity's sequences (yet). One that was too large for the
    broker travels on as its `halves`: its records' outcomes are theirs, and it is `done` when they are.
    """

    __slots__ = (
        "_record_count",
        "_size_bytes",
        "attempts",
        "builder",
        "callbacks",
        "created_ms",
        "halves",
        "identity",
        "number",
        "outcome",
        "parent",
        "payload",
        "retry_at_ms",
        "sent_as_first",
        "sequence",
        "topic_partition",
        "urgent",
        "waiters",
    )

    def __init__(self, topic_partition: TopicPartition, number: int, builder: BatchBuilder, now_ms: int) -> None:
        self.topic_partition = topic_partition
        self.number = number
        self.builder: BatchBuilder | None = builder
        self.created_ms = now_ms
        self._size_bytes = BATCH_HEADER_BYTES
        self._record_count = 0
        self.payload: bytes | bytearray | None = None
        self.identity: Identity | None = None
        self.sequence = -1
        self.attempts = 0
        self.retry_at_ms = 0
        self.sent_as_first = False
        self.urgent = False
        self.outcome: Outcome | None = None
        self.halves: tuple[Batch, Batch] | None = None
        self.parent: Batch | None = None
        # For the threaded or asyncio loop around the core: called when the outcome is known.
        self.waiters: list[Callable[[], object]] | None = None
        self.callbacks: list[Callable[[], object]] | None = None

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self.outcome is not None

    @property
    def record_count(self) -> int:
        """Records in it so far."""
        return self.builder.record_count if self.builder is not None else self._record_count

    @property
    def size_bytes(self) -> int:
        """What it takes of the buffer so far: its size before compression."""
        return self.builder.size_bytes if self.builder is not None else self._size_bytes

    def drop_builder(self) -> None:
        """No record can join any more."""
        if self.builder is not None:
            self._record_count, self._size_bytes = self.builder.record_count, self.builder.size_bytes
            self.builder = None

    def recover(self) -> None:
        """Make it whole again, however far what was being done to it had come. One that was never sent starts over."""
        if self.builder is not None:
            self.builder.recount()
        if not self.attempts:
            self.identity, self.sequence = None, -1

    def close(self, identity: Identity | None, sequence: int) -> None:
        """Give the batch its place among the identity's sequences and make its payload; no record can join after."""
        self.identity, self.sequence = identity, sequence
        if self.builder is not None:
            if identity is not None:
                self.builder.set_producer(identity.producer_id, identity.producer_epoch, sequence)
            self.payload = self.builder.build()
            self.drop_builder()
        elif identity is not None and self.payload is not None:
            # A copy: ZeroMQ may still hold the one that was sent before.
            fresh = bytearray(self.payload)
            set_producer(fresh, identity.producer_id, identity.producer_epoch, sequence)
            self.payload = fresh


class Accumulator:
    """Opens batches and fills them. `free_bytes` of the buffer sinks as records come and rises as batches end.

    A batch takes records until it is `batch_size` bytes; one record larger than that has a batch for itself. The
    buffer may be overdrawn by one record: `send` waits while it is not above zero. `open`: the batches that take more.
    `unfinished`: all batches until everybody has been told of their outcome; the rest can be made anew from them.
    """

    __slots__ = ("_batch_size", "_codec", "_numbers", "buffer_memory", "free_bytes", "open", "unfinished")

    def __init__(self, batch_size: int, buffer_memory: int, codec: int) -> None:
        self._batch_size = batch_size
        self._codec = codec
        self.open: dict[TopicPartition, Batch] = {}
        self.unfinished: dict[Batch, None] = {}  # in the order in which they were opened
        self._numbers: dict[TopicPartition, int] = {}
        self.buffer_memory = buffer_memory
        self.free_bytes = buffer_memory

    def append(
        self,
        batch: Batch,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> bool:
        """Add a record to an open batch. False: it is full, or was sent meanwhile."""
        builder = batch.builder
        if builder is None:
            return False
        size = builder.append(timestamp_ms, key, value, headers)
        self.free_bytes -= size
        return size > 0

    def open_batch(self, topic_partition: TopicPartition) -> Batch | None:
        """The batch that takes the partition's next record, if there is one."""
        return self.open.get(topic_partition)

    def new_batch(self, topic_partition: TopicPartition, now_ms: int, bytes_max: int = 0) -> Batch:
        """Open a batch; the one before is closed to further records. `bytes_max`: its own bound, if not 0."""
        number = self._numbers.get(topic_partition, 0)
        self._numbers[topic_partition] = number + NUMBERS_APART
        size = min(self._batch_size, bytes_max) if bytes_max else self._batch_size
        batch = Batch(topic_partition, number, BatchBuilder(self._codec, size), now_ms)
        self.unfinished[batch] = None
        self.open[topic_partition] = batch
        self.free_bytes -= BATCH_HEADER_BYTES
        return batch

    def halve(self, batch: Batch) -> tuple[Batch, Batch]:
        """Two batches of the records of one that was sent and refused; they have no place among the sequences yet."""
        assert batch.payload is not None
        records = decode_list(batch.payload)
        middle = len(records) // 2
        halves = self._half(batch, 0, records[:middle]), self._half(batch, middle, records[middle:])
        # From here on it stands for them: `recover` finds them by it.
        batch.halves = halves
        self.unfinished.update(dict.fromkeys(halves))
        batch.payload = None
        self.free_bytes += batch.size_bytes - sum(half.size_bytes for half in halves)
        return halves

    def _half(self, batch: Batch, index: int, records: Sequence[RecordTuple]) -> Batch:
        builder = BatchBuilder(self._codec, batch.size_bytes + BATCH_HEADER_BYTES)
        for _, timestamp_ms, _, key, value, headers in records:
            builder.append(timestamp_ms, key, value, headers)
        half = Batch(batch.topic_partition, batch.number + index, builder, batch.created_ms)
        half.parent, half.urgent = batch, True
        return half

    def is_open(self, batch: Batch) -> bool:
        """Whether the batch may still take records."""
        return self.open.get(batch.topic_partition) is batch

    def seal(self, batch: Batch) -> None:
        """The batch takes no more records."""
        if self.open.get(batch.topic_partition) is batch:
            del self.open[batch.topic_partition]

    def release(self, batch: Batch) -> None:
        """The batch has ended; its bytes are free again."""
        batch.drop_builder()
        self.free_bytes += batch.size_bytes
        batch.payload = None

    def forget(self, batch: Batch) -> None:
        """Everybody has been told of the batch's outcome."""
        self.unfinished.pop(batch, None)

    def recover(self) -> None:
        """Set everything right from `unfinished`: a change may have been interrupted anywhere. Nothing stays open."""
        self.open = {}
        held_bytes = 0
        batches = list(self.unfinished)
        for batch in batches:
            if batch.done:
                continue  # its bytes are free
            if batch.halves is not None:
                missing = [half for half in batch.halves if not half.done and half not in self.unfinished]
                self.unfinished.update(dict.fromkeys(missing))
                batches += missing
                continue
            batch.recover()
            if batch.record_count:
                held_bytes += batch.size_bytes
            else:
                self.forget(batch)
        self.free_bytes = self.buffer_memory - held_bytes
