"""A whole batch as it lies in the log, decoded only when somebody looks inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

from crc32c import crc32c

from kbroker.clients.records import ConsumerRecord
from kbroker.clients.skips import RAISE_ALL, Skips
from kbroker.errors import CorruptMessage, CorruptRecord, DeserializationError
from kbroker.records.batch import ATTRIBUTES_POSITION, Header
from kbroker.records.codec import decode
from kbroker.types import TopicPartition

Deserializer = Callable[[bytes], Any]
"""Of a key or value; null stays None and is not asked about."""
_new = tuple.__new__


class RecordBatch:
    """One batch of one partition. Iterating yields its ConsumerRecords, from `first_offset` on.

    `topic`, `partition`; `base_offset`: offset of the batch's first record; `next_offset`: the offset after its last;
    `first_offset`: the first one that the consumer has not had yet; `record_count` and `size_bytes` of the whole batch;
    `max_timestamp` in ms; `data`: Kafka's record batch v2, header included. The data stays valid as long as the batch.
    What cannot be read is passed over, or raised as CorruptRecord, as the consumer's `on_corrupt` says.
    """

    __slots__ = (
        "_check_crc",
        "_fault",
        "_follows",
        "_skips",
        "data",
        "first_offset",
        "header",
        "next_offset",
        "topic_partition",
    )

    def __init__(
        self,
        topic_partition: TopicPartition,
        data: bytes | memoryview,
        header: Header,
        first_offset: int,
        check_crc: bool,
        skips: Skips = RAISE_ALL,
        follows: bool = False,
    ) -> None:
        self.topic_partition = topic_partition
        self.data = data
        self.header = header
        base_offset = header.base_offset
        self.next_offset = base_offset + header.last_offset_delta + 1
        self.first_offset = first_offset if first_offset > base_offset else base_offset
        self._check_crc = check_crc
        self._skips = skips
        self._follows = follows  # another batch, right behind which it was read
        self._fault = ""

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
        """The records, keys and values as bytes. Raises CorruptRecord, after those that lie before the damage."""
        found: list[ConsumerRecord] = []
        try:
            self._take_all(None, None, found)
        except CorruptRecord as error:
            return _followed_by(found, error)
        return iter(found)

    def raw(self) -> Iterator[Any]:
        """The codec's own record objects (offset, timestamp, key, value, headers) of the whole batch: the fastest way.

        `first_offset` is not looked at, nor what is damaged: raises CorruptMessage, and the codec's own errors.
        """
        return decode(self.data, check_crc=self._check_crc)

    def records(
        self, key_deserializer: Deserializer | None = None, value_deserializer: Deserializer | None = None
    ) -> list[ConsumerRecord]:
        """All records from `first_offset` on. Raises CorruptRecord, DeserializationError; both name the place."""
        found: list[ConsumerRecord] = []
        self._take_all(key_deserializer, value_deserializer, found)
        return found

    def _take_all(
        self,
        key_deserializer: Deserializer | None,
        value_deserializer: Deserializer | None,
        found: list[ConsumerRecord],
    ) -> None:
        try:
            self.take(self.open(), None, key_deserializer, value_deserializer, found)
        except CorruptRecord as error:
            if not self._skips.passes(error):
                raise

    def open(self) -> Iterator[Any]:
        """The codec's records from `first_offset` on, for `take`. Raises CorruptRecord."""
        if self._fault:
            raise self._corrupt(self.first_offset, self._fault, is_sound=False)
        try:
            raw = decode(self.data, check_crc=self._check_crc)
        except MemoryError:
            raise
        except Exception as error:
            raise self._corrupt(self.first_offset, error, is_sound=False) from error
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
        found: list[ConsumerRecord],
        at: int = -1,
    ) -> None:
        """Append to `found`, which is empty, the next `count` records (None: all) of those that `open` gave; fewer:
        that was the end.

        `at`: no record has a lower offset than this. Raises CorruptRecord and DeserializationError; what lies before is
        in `found`, and `raw` is of no use any more.
        """
        topic, partition = self.topic_partition
        epoch = self.header.leader_epoch
        if at < self.first_offset:
            at = self.first_offset
        if key_deserializer is None and value_deserializer is None:
            try:
                records = [
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
                if not records or (at <= records[0].offset and records[-1].offset < self.next_offset):
                    found += records
                    return
            except MemoryError:
                raise
            except Exception:
                pass
            # Something is wrong with one of them: again, one by one.
            raw = (record for record in self.open() if record.offset >= at)
        end = self.next_offset
        while True:
            key = value = r = None
            stage = "reading"
            try:
                for r in islice(raw, None if count is None else count - len(found)):
                    if not at <= r.offset < end:
                        raise CorruptMessage(f"a record says that it has offset {r.offset}")
                    at = r.offset + 1
                    key, value = r.key, r.value
                    if key_deserializer is not None and key is not None:
                        stage = "key"
                        key = key_deserializer(key)
                    if value_deserializer is not None and value is not None:
                        stage = "value"
                        value = value_deserializer(value)
                    stage = "reading"
                    found.append(
                        _new(
                            ConsumerRecord,
                            (topic, partition, epoch, r.offset, r.timestamp, r.timestamp_type, key, value, r.headers),
                        )
                    )
            except Exception as error:
                if stage == "reading":
                    if isinstance(error, MemoryError):
                        raise
                    raise self._corrupt(at, error) from error
                assert r is not None
                failure = DeserializationError(
                    self.topic_partition, r.offset, stage, error,
                    key=r.key, value=r.value, headers=r.headers, timestamp=r.timestamp,
                )  # fmt: skip
                if not self._skips.passes(failure):
                    raise failure from error
            else:
                return

    def begin_at(self, position: int) -> None:
        """All records before `position` were given out; one that lies there or behind is next."""
        if self._follows and self.header.base_offset < position:
            # Offsets rise from batch to batch, and the CRC does not cover the base offset.
            self._fault = f"a batch says base offset {self.header.base_offset} behind records up to {position - 1}"
        self._follows = False
        if position > self.first_offset:
            self.first_offset = position

    def nearest_end(self) -> int:
        """The offset behind the batch, or if its header does not tell: the nearest that it may be."""
        header = self.header
        if header.last_offset_delta + 1 == header.record_count or self.is_sound():
            return self.next_offset
        return self._nearest_end(self.first_offset)

    def is_sound(self) -> bool:
        """Whether the CRC is right."""
        return crc32c(memoryview(self.data)[ATTRIBUTES_POSITION:]) == self.header.crc

    def _nearest_end(self, at: int) -> int:
        header = self.header
        ends = (self.next_offset, header.base_offset + header.record_count)
        return min((end for end in ends if end > at), default=at + 1)

    def _corrupt(self, at: int, cause: object, *, is_sound: bool = True) -> CorruptRecord:
        """`is_sound`: the header is, of which the CRC tells."""
        end = self.next_offset if is_sound else self._nearest_end(at)
        return CorruptRecord(self.topic_partition, at, max(at, end), cause)


def _followed_by(found: list[ConsumerRecord], error: CorruptRecord) -> Iterator[ConsumerRecord]:
    yield from found
    raise error
