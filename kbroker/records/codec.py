"""Records to batch and back, for native clients and look-ups by timestamp; the broker's data path never comes here.

Cython from aiokafka does the record loop. Compression and the header around it are ours: aiokafka's own decompression
has no bound on its output, and its CRC runs at a fifteenth of the speed of `crc32c`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from operator import attrgetter
from struct import Struct
from typing import Any

from crc32c import crc32c

from kbroker.errors import CorruptMessage
from kbroker.records.batch import (
    ATTRIBUTES_POSITION,
    CODEC_MASK,
    CRC_POSITION,
    HEADER,
    HEADER_BYTES,
    LAST_OFFSET_DELTA_POSITION,
    LENGTH_END,
    LENGTH_POSITION,
    MAGIC,
    MAX_TIMESTAMP_POSITION,
    Header,
    read_header,
    write_crc,
)
from kbroker.records.compression import OUTPUT_BYTES_MAX, compress, decompress

Headers = Sequence[tuple[str, bytes | None]]
RecordTuple = tuple[int, int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
"""offset, timestamp in ms, timestamp type (0 CreateTime, 1 LogAppendTime), key, value, headers."""

_INT = Struct(">i")
_SHORT = Struct(">h")
_FROM_MAX_TIMESTAMP = Struct(">qqhii")  # max_timestamp, producer_id, producer_epoch, base_sequence, record_count
assert MAX_TIMESTAMP_POSITION + _FROM_MAX_TIMESTAMP.size == HEADER_BYTES
_NO_BOUND = 1 << 30
_SLICE_RECORDS = 500
_NO_HEADERS: list[tuple[str, bytes | None]] = []
_to_tuple = attrgetter("offset", "timestamp", "timestamp_type", "key", "value", "headers")


@cache
def _aiokafka() -> Any:
    """Its record code. On first use: importing it brings asyncio and a whole client, 50 ms of a broker's start."""
    from aiokafka.record import default_records

    return default_records


def is_fast() -> bool:
    """Whether aiokafka's compiled record code is in use; its Python twin gives the same results at a tenth of the
    speed."""
    module: str = _aiokafka().DefaultRecordBatch.__module__
    return module.startswith("aiokafka.record._crecords")


class BatchBuilder:
    """Collects the records of one batch. Not thread-safe.

    `codec` is 0 to 4; `batch_bytes` bounds the uncompressed batch, header included: `append` then returns 0, except
    that a first record always fits. The producer fields are -1 for a producer that is not idempotent.
    """

    __slots__ = ("_append", "_buffer", "_builder", "_max_timestamp", "_producer", "codec", "record_count")

    def __init__(
        self,
        codec: int = 0,
        batch_bytes: int = 65_536,
        *,
        producer_id: int = -1,
        producer_epoch: int = -1,
        base_sequence: int = -1,
        transactional: bool = False,
    ) -> None:
        self.codec = codec
        self.record_count = 0
        self._producer = (producer_id, producer_epoch, base_sequence)
        self._max_timestamp = -1
        self._buffer: object = None
        self._builder = _aiokafka().DefaultRecordBatchBuilder(
            MAGIC, 0, int(transactional), producer_id, producer_epoch, base_sequence, batch_bytes
        )
        self._append = self._builder.append

    def append(self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: Headers = ()) -> int:
        """Add a record at the next offset delta. Returns the bytes that it took; 0: the batch is full."""
        added = self._append(self.record_count, timestamp_ms, key, value, list(headers) if headers else _NO_HEADERS)
        if added is None:
            return 0
        if not self.record_count:
            # The codec gives out its own buffer and goes on filling it: so we need not let it compute the CRC of all.
            self._buffer = self._builder.build()
        if timestamp_ms > self._max_timestamp:
            self._max_timestamp = timestamp_ms
        self.record_count += 1
        return added.size  # type: ignore[no-any-return]  # the codec has no types

    @property
    def size_bytes(self) -> int:
        """Size of the uncompressed batch so far, header included."""
        size: int = self._builder.size()
        return size

    def set_producer(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        """Give the producer fields when they are known only now; before build()."""
        self._producer = (producer_id, producer_epoch, base_sequence)

    def recount(self) -> None:
        """Bring the facts here in line with the codec's: `append` may have been interrupted between the two."""
        header = read_header(self._builder.build())
        self.record_count, self._max_timestamp = header.record_count, header.max_timestamp

    def build(self) -> bytearray:
        """The batch: base offset 0, leader epoch -1, compressed when that makes it smaller.

        Call it last; it may be called again when it was interrupted.
        """
        batch = self._buffer
        if not isinstance(batch, bytearray) or len(batch) != self._builder.size():
            batch = bytearray(self._builder.build())  # a codec that works in another way, or an empty batch
        # Only what the codec has not written as it must be: making the header anew takes twice the time.
        _INT.pack_into(batch, LENGTH_POSITION, len(batch) - LENGTH_END)
        _INT.pack_into(batch, LAST_OFFSET_DELTA_POSITION, self.record_count - 1)
        _FROM_MAX_TIMESTAMP.pack_into(
            batch, MAX_TIMESTAMP_POSITION, self._max_timestamp, *self._producer, self.record_count
        )
        write_crc(batch, 0, len(batch))
        return compress_batch(batch, self.codec) if self.codec else batch


def rewritten_batch(header: Header, next_offset: int, records: Sequence[RecordTuple]) -> bytearray:
    """A batch of records that stood in others, each at its own offset again.

    `header` says what all those batches have in common: producer, attributes, leader epoch. The new batch covers the
    offsets from its base offset up to `next_offset`, also where no record is left; none at all: an empty batch.
    """
    builder = _aiokafka().DefaultRecordBatchBuilder(
        magic=MAGIC,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=_NO_BOUND,
    )
    max_timestamp = -1
    for offset, timestamp, _, key, value, headers in records:
        builder.append(offset - header.base_offset, timestamp, key, value, headers)
        max_timestamp = max(max_timestamp, timestamp)
    batch = bytearray(builder.build())
    made = header._replace(
        length=len(batch) - LENGTH_END,
        magic=MAGIC,
        attributes=header.attributes & ~CODEC_MASK,
        last_offset_delta=next_offset - 1 - header.base_offset,
        base_timestamp=read_header(batch).base_timestamp if records else -1,
        max_timestamp=max_timestamp,
        record_count=len(records),
    )
    HEADER.pack_into(batch, 0, *made)
    write_crc(batch, 0, len(batch))
    return compress_batch(batch, header.codec) if header.codec and records else batch


def compress_batch(batch: bytearray, codec: int) -> bytearray:
    """An uncompressed batch with its records compressed, or the same one when that would not make it smaller."""
    packed = compress(codec, memoryview(batch)[HEADER_BYTES:])
    if len(packed) >= len(batch) - HEADER_BYTES:
        return batch
    return _with_records(batch, packed, codec)


def recompress(batch: bytearray | memoryview, codec: int, level: int | None) -> bytearray:
    """An uncompressed batch with its records compressed, smaller or not; `codec` 0 leaves them, and mends the CRC."""
    records = memoryview(batch)[HEADER_BYTES:]
    return _with_records(batch, compress(codec, records, level) if codec else records, codec)


def uncompressed(batch: memoryview, max_bytes: int) -> memoryview:
    """A compressed batch without compression; its CRC is left as it was. Raises as `decode`."""
    return _unpacked(batch, read_header(batch), max_bytes)


def _with_records(batch: bytearray | memoryview, packed: bytes | memoryview, codec: int) -> bytearray:
    batch = bytearray(batch[:HEADER_BYTES])
    batch += packed
    (attributes,) = _SHORT.unpack_from(batch, ATTRIBUTES_POSITION)
    _SHORT.pack_into(batch, ATTRIBUTES_POSITION, attributes & ~CODEC_MASK | codec)
    _INT.pack_into(batch, LENGTH_POSITION, len(batch) - LENGTH_END)
    write_crc(batch, 0, len(batch))
    return batch


def set_producer(batch: bytearray, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
    """Write new producer fields, and the CRC, into a batch that is already built."""
    fields = list(HEADER.unpack_from(batch))
    fields[9:12] = producer_id, producer_epoch, base_sequence
    HEADER.pack_into(batch, 0, *fields)
    write_crc(batch, 0, len(batch))


def decode(
    batch: bytes | bytearray | memoryview, *, max_bytes: int = OUTPUT_BYTES_MAX, check_crc: bool = True
) -> Iterator[Any]:
    """The records of one whole batch, as the codec's own objects: the fastest way to read them.

    They have `offset`, `timestamp`, `timestamp_type`, `key`, `value`, `headers`. `max_bytes` bounds the decompressed
    records. Raises CorruptMessage (bad length, CRC, or records; the last also while iterating, see `decode_tuples`),
    MessageTooLarge, UnsupportedCompressionType.
    """
    view = memoryview(batch)
    header = read_header(view)
    if header.magic != MAGIC:
        raise CorruptMessage(f"message format {header.magic}; 2 is expected")
    if header.size_bytes != len(view):
        raise CorruptMessage(f"the batch says {header.size_bytes} bytes, {len(view)} are there")
    if check_crc and crc32c(view[ATTRIBUTES_POSITION:]) != header.crc:
        raise CorruptMessage(f"the batch at offset {header.base_offset} has a wrong CRC")
    if header.record_count < 0:
        raise CorruptMessage(f"the batch at offset {header.base_offset} says {header.record_count} records")
    if header.codec:
        view = _unpacked(view, header, max_bytes)
    records: Iterator[Any] = _aiokafka().DefaultRecordBatch(view)
    return records


def decode_tuples(
    batch: bytes | bytearray | memoryview, *, max_bytes: int = OUTPUT_BYTES_MAX, check_crc: bool = True
) -> Iterator[RecordTuple]:
    """The records of one whole batch as plain tuples. Raises as `decode`."""
    return map(_to_tuple, decode(batch, max_bytes=max_bytes, check_crc=check_crc))


def decode_list(
    batch: bytes | bytearray | memoryview, *, max_bytes: int = OUTPUT_BYTES_MAX, check_crc: bool = True
) -> list[RecordTuple]:
    """All records of one whole batch as tuples; whatever is wrong inside raises CorruptMessage here, at once."""
    try:
        return list(map(_to_tuple, decode(batch, max_bytes=max_bytes, check_crc=check_crc)))
    except (_aiokafka().CorruptRecordException, UnicodeDecodeError) as error:
        raise CorruptMessage(f"records do not decode: {error}") from None


def decode_slices(
    batch: bytes | bytearray | memoryview, *, max_bytes: int = OUTPUT_BYTES_MAX
) -> Iterator[list[RecordTuple]]:
    """As `decode_list`, some hundred records at a time: between them others may have a turn."""
    records = decode_tuples(batch, max_bytes=max_bytes)
    try:
        while True:
            some = list(islice(records, _SLICE_RECORDS))
            yield some
            if len(some) < _SLICE_RECORDS:
                return  # at its end the codec must not be asked again
    except (_aiokafka().CorruptRecordException, UnicodeDecodeError) as error:
        raise CorruptMessage(f"records do not decode: {error}") from None


def iter_batches(data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
    """Views of the whole batches in fetched bytes, without a copy. A half batch at the end is left out, as in Kafka.

    Raises CorruptMessage when a length is impossible.
    """
    view = memoryview(data)
    position = 0
    while len(view) - position >= LENGTH_END:
        (length,) = _INT.unpack_from(view, position + LENGTH_POSITION)
        if length < HEADER_BYTES - LENGTH_END:
            raise CorruptMessage(f"the batch at byte {position} says length {length}")
        end = position + LENGTH_END + length
        if end > len(view):
            return
        yield view[position:end]
        position = end


def _unpacked(view: memoryview, header: Header, max_bytes: int) -> memoryview:
    """The same batch without compression (its CRC left as it was), for the codec to read."""
    output = decompress(header.codec, view[HEADER_BYTES:], max_bytes, head_bytes=HEADER_BYTES)
    plain = header._replace(length=len(output) - LENGTH_END, attributes=header.attributes & ~CODEC_MASK)
    HEADER.pack_into(output, 0, *plain)
    return output


assert CRC_POSITION == ATTRIBUTES_POSITION - 4
