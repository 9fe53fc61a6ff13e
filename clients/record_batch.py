"""A whole batch as it lies in the log, decoded only when somebody looks inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

from kbroker.clients.records import ConsumerRecord
from kbroker.errors import CorruptMessage
from kbroker.records.batch import Header
from kbroker.records.codec import decode
from kbroker.types import TopicPartition

Deserializer = Callable[[bytes | None], Any]
_new = tuple.__new__


class RecordBatch:
    """One batch of one partition. Iterating yields its ConsumerRecords, from `first_offset` on.

    `topic`, `partition`; `base_offset`: offset of the batch's first record; `next_offset`: the offset after its last;
    `first_offset`: the first one that the consumer has not had yet; `record_count` and `size_bytes` of the whole batch;
    `max_timestamp` in ms; `data`: Kafka's record batch v2, header included. The data stays valid as long as the batch.
    """

    __slots__ = ("_check_crc", "data", "first_offset", "header", "next_offset", "topic_partition")

    def __init__(
        self,
        topic_partition: TopicPartition,
        data: bytes | memoryview,
        header: Header,
        first_offset: int,
        check_crc: bool,
    ) -> None:
        self.topic_partition = topic_partition
        self.data = data
        self.header = header
        base_offset = header.base_offset
        self.next_offset = base_offset + header.last_offset_delta + 1
        self.first_offset = first_offset if first_offset > base_offset else base_offset
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
        return self.take(self.open(), None, key_deserializer, value_deserializer)

    def open(self) -> Iterator[Any]:
        """The codec's records from `first_offset` on, for `take`. Raises CorruptMessage."""
        try:
            raw = decode(self.data, check_crc=self._check_crc)
        except CorruptMessage as error:
            raise self._corrupt(error) from None
        if self.first_offset > self.header.base_offset:
            first = self.first_offset
            return (record for record in raw if record.offset >= first)
        return chain(raw)  # the codec's own iterator cannot be gone on with

    def take(
        self,
        raw: Iterator[Any],
        count: int | None,
        key_deserializer: Deserializer | None,
        value_deserializer: Deserializer | None,
    ) -> list[ConsumerRecord]:
        """The next `count` records (None: all) of those that `open` gave; fewer: that was the end. Raises likewise."""
        topic, partition = self.topic_partition
        epoch = self.header.leader_epoch
        try:
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
                    for record in islice(raw, count)
                ]
            key_of = key_deserializer or _same
            value_of = value_deserializer or _same
            return [
                ConsumerRecord(
                    topic, partition, epoch, r.offset, r.timestamp, r.timestamp_type,
                    key_of(r.key), value_of(r.value), r.headers,
                )
                for r in islice(raw, count)
            ]  # fmt: skip
        except CorruptMessage as error:
            raise self._corrupt(error) from None

    def _corrupt(self, error: CorruptMessage) -> CorruptMessage:
        return CorruptMessage(f"{self.topic_partition}, batch at offset {self.base_offset}: {error}")


def _same(data: bytes | None) -> Any:
    return data
