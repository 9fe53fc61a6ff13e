"""Batches for tests of the log, and what is read back."""

from __future__ import annotations

from kbroker.log import PartitionLog
from kbroker.log.freeing import free_at_once, free_file
from kbroker.records.batch import read_header
from kbroker.records.codec import BatchBuilder, RecordTuple, decode_list, iter_batches
from kbroker.types import TopicPartition

PARTITION = TopicPartition("orders", 3)
TOPIC_ID = bytes(range(16))


def batch(
    values: list[bytes] | int = 1,
    *,
    timestamp_ms: int = 1_000,
    producer_id: int = -1,
    producer_epoch: int | None = None,
    sequence: int | None = None,
    codec: int = 0,
    size_bytes: int = 20,
) -> bytearray:
    """A batch of these values, or of so many records, with rising timestamps."""
    if isinstance(values, int):
        values = [b"%d" % n + b"v" * size_bytes for n in range(values)]
    given = producer_id >= 0
    builder = BatchBuilder(
        codec,
        1 << 24,
        producer_id=producer_id,
        producer_epoch=(0 if producer_epoch is None else producer_epoch) if given else -1,
        base_sequence=(0 if sequence is None else sequence) if given else -1,
    )
    for number, value in enumerate(values):
        assert builder.append(timestamp_ms + number, b"k%d" % number, value)
    return builder.build()


def flush(log: PartitionLog, *, force: bool = False) -> None:
    """One group commit, at once."""
    work = log.begin_flush(force_recovery_point=force)
    if work is not None:
        work.run()
        log.finish_flush(work, 0)


def remove(log: PartitionLog, now_ms: int) -> None:
    """The disk's part of what was taken out of the log, at once."""
    work = log.begin_removal()
    if work is not None:
        work.run()
        log.finish_removal(work, now_ms)


def delete_due(log: PartitionLog, now_ms: int) -> int:
    """Free the files whose delay is over, at once. Returns how many."""
    due = log.due_deletions(now_ms)
    for deletion in due:
        free_at_once(free_file(log.storage, deletion.path), deletion.path)
    return len(due)


def opened_anew(log: PartitionLog, now_ms: int) -> PartitionLog:
    """What a worker does after a failed flush: let go of the log, and open it without trusting the page cache."""
    log.abandon()
    return PartitionLog.open(
        log.folder, log.partition, log.topic_id, log.config, 0, now_ms, log.storage, distrust_cache=True
    )


def records(log: PartitionLog, *, up_to: str = "high_watermark", max_bytes: int = 1 << 30) -> list[RecordTuple]:
    """Everything that the log shows, from its start."""
    found: list[RecordTuple] = []
    offset = log.log_start_offset
    while True:
        part = log.read(offset, max_bytes, up_to=up_to)
        if not part.size_bytes:
            # The log may begin in the middle of a batch; a reader leaves out what it did not ask for.
            return [record for record in found if record[0] >= log.log_start_offset]
        data = part.read()
        assert sum(len(b) for b in iter_batches(data)) == len(data), "a slice ends in the middle of a batch"
        assert read_header(data).base_offset == part.base_offset
        for one in iter_batches(data):
            found += decode_list(one)
        assert part.next_offset > offset
        offset = part.next_offset
