"""A whole batch as it lies in the log, decoded only when somebody looks inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kbroker.clients.records import ConsumerRecord
from kbroker.errors import CorruptMessage
from kbroker.records.batch import ATTRIBUTES_POSITION, CONTROL, Header, read_header
from kbroker.records.codec import decode, iter_batches
from kbroker.types import TopicPartition

Deserializer = Callable[[bytes | None], Any]
_new = tuple.__new__


class RecordBatch:
    """One batch of one partition. Iterating yields its ConsumerRecords, from `first_offset` on.

    `topic`, `partition`; `base_offset`: offset of the batch's first record; `next_offset`: the offset after its last;
    `first_offset`: the first one that the consumer has not had yet; `record_count` and `size_bytes` of the whole batch;
    `max_timestamp` in ms; `data`: Kafka's record batch v2, header included. The data stays valid as long as the batch.
    """

    __slots__ = ("_check_crc", "data", "first_offset", "header", "topic_partition")

    def __init__(
        self, topic_partition: TopicPartition, data: bytes | memoryview, first_offset: int, check_crc: bool
    ) -> None:
        self.topic_partition = topic_partition
        self.data = data
        self.header: Header = read_header(data)
        self.first_offset = max(first_offset, self.header.base_offset)
        self._check_crc = check_crc

    @property
    def topic(self) -> str:
        return self.topic_partition.topic

    @property
    def partition(self) -> int:
        return self.topic_partition.partition

    @property
    def base_offset(self) -> int:
        return self.header.base_offset

    @property
    def next_offset(self) -> int:
        return self.header.next_offset

    @property
    def record_count(self) -> int:
        return self.header.record_count

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    @property
    def max_timestamp(self) -> int:
        return self.header.max_timestamp

    @property
    def leader_epoch(self) -> int:
        return self.header.leader_epoch

    def __len__(self) -> int:
        return self.header.record_count

    def __iter__(self) -> Iterator[ConsumerRecord]:
        """The records, keys and values as bytes. Raises CorruptMessage."""
        return iter(self.records())

    def raw(self) -> Iterator[Any]:
        """The codec's own record objects (offset, timestamp, key, value, headers) of the whole batch: the fastest way.

        `first_offset` is not looked at. Raises CorruptMessage.
        """
        return decode(self.data, check_crc=self._check_crc)

    def records(
        self, key_deserializer: Deserializer | None = None, value_deserializer: Deserializer | None = None
    ) -> list[ConsumerRecord]:
        """All records from `first_offset` on. Raises CorruptMessage naming the partition and offset."""
        topic, partition = self.topic_partition
        epoch = self.header.leader_epoch
        try:
            raw = decode(self.data, check_crc=self._check_crc)
            if self.first_offset > self.header.base_offset:
                first = self.first_offset
                raw = (record for record in raw if record.offset >= first)
            if key_deserializer is None and value_deserializer is None:
                return [
                    _new(
                        ConsumerRecord,
                        (
                            topic,
                            partition,
                            epoch,
                            record.offset,
                            record.timestamp,
                            record.timestamp_type,
                            record.key,
                            record.value,
                            record.headers,
                        ),
                    )
                    for record in raw
                ]
            key_of = key_deserializer or _same
            value_of = value_deserializer or _same
            return [
                ConsumerRecord(
                    topic, partition, epoch, r.offset, r.timestamp, r.timestamp_type,
                    key_of(r.key), value_of(r.value), r.headers,
                )
                for r in raw
            ]  # fmt: skip
        except CorruptMessage as error:
            raise CorruptMessage(f"{self.topic_partition}, batch at offset {self.base_offset}: {error}") from None


def _same(data: bytes | None) -> Any:
    return data


def split(
    topic_partition: TopicPartition, data: bytes | memoryview, first_offset: int, check_crc: bool
) -> list[RecordBatch]:
    """The whole batches in fetched bytes that reach past `first_offset`; markers of transactions are left out."""
    found = []
    for view in iter_batches(data):
        if view[ATTRIBUTES_POSITION + 1] & CONTROL:
            continue
        batch = RecordBatch(topic_partition, view, first_offset, check_crc)
        if batch.next_offset > first_offset:
            found.append(batch)
    return found
