"""Record batches, format v2 (magic 2): the header, what a broker checks in it, and the two fields it rewrites.

A batch is a 61-byte header and its records. All integers are big-endian. The CRC covers everything from `attributes`
to the end, so that a broker may set the base offset and the leader epoch without touching it.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from crc32c import crc32c

from kbroker.errors import (
    CorruptMessage,
    InvalidRecord,
    MessageTooLarge,
    RecordListTooLarge,
    UnsupportedCompressionType,
    UnsupportedForMessageFormat,
)

HEADER: Final = Struct(
    ">"
    "q"  # base_offset           offset of the first record; the broker sets it
    "i"  # length                bytes that follow this field: the whole batch is 12 + length
    "i"  # leader_epoch          epoch of the leader that appended it; the broker sets it
    "b"  # magic                 2
    "I"  # crc                   CRC-32C of everything from attributes on
    "h"  # attributes            bits 0-2 codec, 3 timestamp type, 4 transactional, 5 control
    "i"  # last_offset_delta     offset of the last record minus base_offset
    "q"  # base_timestamp        ms since 1970 of the first record
    "q"  # max_timestamp         ms since 1970, the largest of all records
    "q"  # producer_id           -1: not idempotent
    "h"  # producer_epoch        -1: not idempotent
    "i"  # base_sequence         sequence number of the first record; -1: not idempotent
    "i"  # record_count          records in the batch
)
HEADER_BYTES: Final = 61
assert HEADER.size == HEADER_BYTES

LENGTH_POSITION: Final = 8
"""Byte at which the length field starts."""
LENGTH_END: Final = 12
"""The length field counts from here."""
MAGIC_POSITION: Final = 16
CRC_POSITION: Final = 17
ATTRIBUTES_POSITION: Final = 21
"""The CRC covers the batch from here."""
LAST_OFFSET_DELTA_POSITION: Final = 23
MAX_TIMESTAMP_POSITION: Final = 35

MAGIC: Final = 2
CODEC_MASK: Final = 0x07
LOG_APPEND_TIME: Final = 0x08
TRANSACTIONAL: Final = 0x10
CONTROL: Final = 0x20

LENGTH_MIN: Final = HEADER_BYTES - LENGTH_END
"""The smallest value of the length field."""
RECORD_BYTES_MIN: Final = 7
"""The smallest record: a byte each for its length, attributes, two deltas, two lengths and its number of headers."""
BATCHES_MAX: Final = 1 << 20
"""How many batches `check_batches` takes, when the caller names no bound."""
EXPANDED_BYTES_MAX: Final = 64 << 20
"""What a batch's records may decompress to, when the caller names no bound."""

_HEADER_AND_FIRST: Final = Struct(HEADER.format + "H")  # with the first two bytes of the records
_WITH_FIRST_BYTES: Final = _HEADER_AND_FIRST.size
_CODEC_MAGIC: Final = {1: b"\x1f\x8b\x08", 3: b"\x04\x22\x4d\x18", 4: b"\x28\xb5\x2f\xfd"}
"""What gzip, LZ4 frames and zstd begin with."""
_XERIAL_MAGIC: Final = b"\x82SNAPPY\0"
"""What snappy begins with in snappy-java's framing; raw snappy begins with the size of what it decompresses to."""
_EXPANSION_MAX: Final = {1: 1032, 2: 64, 3: 256, 4: 1 << 16}
"""How much more than its bytes a codec can ever say, by its format."""

_PREFIX: Final = Struct(">qii")  # base_offset, length, leader_epoch
_CRC: Final = Struct(">I")
_SHORT: Final = Struct(">h")
_LONG: Final = Struct(">q")
_unpack = HEADER.unpack_from
_unpack_first = _HEADER_AND_FIRST.unpack_from
_new = tuple.__new__
_INT = Struct(">i").unpack_from
_PATCH = _PREFIX.pack_into


class Header(NamedTuple):
    """The header's fields, as they stand in the file."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size_bytes(self) -> int:
        """The whole batch, header included."""
        return LENGTH_END + self.length

    @property
    def next_offset(self) -> int:
        """Offset after the batch's last record."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def codec(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."""
        return self.attributes & CODEC_MASK


class BatchFacts(NamedTuple):
    """What a broker needs to know of one checked batch. `position` is where it starts in the checked bytes."""

    position: int
    size_bytes: int
    base_offset: int
    last_offset_delta: int
    record_count: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    attributes: int
    leader_epoch: int

    @property
    def codec(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."""
        return self.attributes & CODEC_MASK

    @property
    def log_append_time(self) -> bool:
        """True: the broker's clock stamped the records, all with max_timestamp."""
        return bool(self.attributes & LOG_APPEND_TIME)

    @property
    def transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def control(self) -> bool:
        """A transaction marker, not records."""
        return bool(self.attributes & CONTROL)


def read_header(data: bytes | bytearray | memoryview, position: int = 0) -> Header:
    """The header at `position`, unchecked. Raises CorruptMessage when fewer than 61 bytes are left."""
    if position < 0 or len(data) - position < HEADER_BYTES:
        raise CorruptMessage(
            f"{max(0, len(data) - position)} bytes are left at {position}; a batch header takes {HEADER_BYTES}"
        )
    return _new(Header, _unpack(data, position))


def check_batches(
    data: bytes | bytearray | memoryview,
    max_bytes: int,
    *,
    batches_max: int = BATCHES_MAX,
    expanded_bytes_max: int = EXPANDED_BYTES_MAX,
) -> list[BatchFacts]:
    """Check the whole batches that a client sent; nothing is decompressed, no record but the first is looked at.

    `max_bytes` bounds each batch, header included; `batches_max` their number; `expanded_bytes_max` what the records of
    a compressed one may take when decompressed, by their number.

    Raises, naming what was wrong: CorruptMessage (empty, half a batch, bad length or CRC), MessageTooLarge,
    RecordListTooLarge (too many batches), UnsupportedForMessageFormat (magic 0, 1 or unknown),
    UnsupportedCompressionType (codec 5 to 7), InvalidRecord (control batch, impossible producer fields, counts or first
    record, or not compressed as it says).
    """
    view = data if isinstance(data, memoryview) else memoryview(data)
    end = len(view)
    position = 0
    found: list[BatchFacts] = []
    while position < end:
        left = end - position
        if left < _WITH_FIRST_BYTES:
            raise _short_batch(view, position, left, max_bytes)
        (
            base_offset,
            length,
            leader_epoch,
            magic,
            crc,
            attributes,
            last_offset_delta,
            base_timestamp,
            max_timestamp,
            producer_id,
            producer_epoch,
            base_sequence,
            record_count,
            first,
        ) = _unpack_first(view, position)
        size_bytes = length + 12
        if magic != 2:
            raise _wrong_magic(magic, position)
        if size_bytes > max_bytes:
            raise MessageTooLarge(
                f"the batch at byte {position} has {size_bytes} bytes; message.max.bytes allows {max_bytes}"
            )
        if size_bytes < HEADER_BYTES or size_bytes > left:
            raise _wrong_length(length, position, left)
        if crc32c(view[position + 21 : position + size_bytes]) != crc:
            raise _wrong_crc(view, position, size_bytes, crc)
        # One comparison for the usual batch; what is wrong is sorted out apart.
        if (
            last_offset_delta + 1 != record_count
            or record_count < 1
            or attributes & ~0x0F
            or attributes & 0x07 > 4
            or (producer_id >= 0 and (base_sequence < 0 or producer_epoch < 0))
        ):
            _refuse_fields(position, last_offset_delta, record_count, attributes, producer_id)
            _refuse_producer(position, producer_id, producer_epoch, base_sequence)
        # The first record's length, in one or two bytes as nearly all have it: it ends where the others, of 7 bytes at
        # least, still have room.
        if attributes & 0x07:
            packed = view[position + 61 : position + size_bytes]
            _check_packed(packed, position, attributes & 0x07, record_count, expanded_bytes_max)
        else:
            if first < 0x8000:
                following = 62 + (first >> 9)
            elif not first & 0x80:
                following = 63 + (first >> 9 & 0x3F | (first & 0x7F) << 6)
            else:
                following = _long_first(view, position)
            if first & 0x0100 or (
                not 68 <= following <= size_bytes - 7 * record_count + 7
                if record_count > 1
                else following != size_bytes or following < 68
            ):
                raise _wrong_records(view, position, size_bytes, record_count)
        found.append(
            # As BatchFacts(…), in half the time.
            _new(
                BatchFacts,
                (
                    position,
                    size_bytes,
                    base_offset,
                    last_offset_delta,
                    record_count,
                    base_timestamp,
                    max_timestamp,
                    producer_id,
                    producer_epoch,
                    base_sequence,
                    attributes,
                    leader_epoch,
                ),
            )
        )
        position += size_bytes
        if position < end and len(found) >= batches_max:
            raise RecordListTooLarge(
                f"more than {batches_max} batches in one request (produce.batches.max): send larger batches, or fewer"
            )
    if not found:
        raise CorruptMessage("no record batch: the payload is empty")
    return found


def _short_batch(view: memoryview, position: int, left: int, max_bytes: int) -> Exception:
    """What is wrong with so few bytes: too few for a batch of one record."""
    if left < HEADER_BYTES:
        return _half_batch(view, position, left)
    header = read_header(view, position)
    if header.magic != MAGIC:
        return _wrong_magic(header.magic, position)
    if not HEADER_BYTES <= header.size_bytes <= left:
        return _wrong_length(header.length, position, left)
    if header.size_bytes > max_bytes:
        return MessageTooLarge(
            f"the batch at byte {position} has {header.size_bytes} bytes; message.max.bytes allows {max_bytes}"
        )
    if crc32c(view[position + ATTRIBUTES_POSITION : position + header.size_bytes]) != header.crc:
        return _wrong_crc(view, position, header.size_bytes, header.crc)
    return _wrong_records(view, position, header.size_bytes, header.record_count)


def _check_packed(packed: memoryview, position: int, codec: int, record_count: int, expanded_max: int) -> None:
    """What can be told of compressed records without decompressing them. Raises InvalidRecord, MessageTooLarge."""
    records_bytes = record_count * RECORD_BYTES_MIN
    if records_bytes > len(packed) * _EXPANSION_MAX[codec]:
        raise InvalidRecord(
            f"the batch at byte {position} says {record_count} records; {len(packed)} bytes of its compression cannot "
            "hold them"
        )
    start = bytes(packed[:8])
    if codec == 2:
        is_right = start == _XERIAL_MAGIC or _is_raw_snappy(start, records_bytes)
    else:
        is_right = start.startswith(_CODEC_MAGIC[codec])
    if not is_right:
        raise InvalidRecord(
            f"the batch at byte {position} says that it is compressed by {_CODEC_NAMES[codec]}, and its records begin "
            f"with {start.hex() or 'nothing'}, as {_CODEC_NAMES[codec]} never does"
        )
    if records_bytes > expanded_max:
        raise MessageTooLarge(
            f"the batch at byte {position} says {record_count} records, which take {records_bytes} bytes at least when "
            f"decompressed; record.decompressed.bytes.max allows {expanded_max}"
        )


_CODEC_NAMES: Final = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}


def _is_raw_snappy(start: bytes, least_bytes: int) -> bool:
    """Whether raw snappy of so many bytes at least may begin so: a varint of the size, and a literal's tag."""
    size = 0
    for number, byte in enumerate(start[:5]):
        size |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return size >= least_bytes and start[number + 1 : number + 2] != b"" and not start[number + 1] & 3
    return False


def _long_first(view: memoryview, position: int) -> int:
    """Where in its batch a first record ends whose length takes three bytes or more; 0: nowhere."""
    value = 0
    for number in range(5):
        byte = view[position + HEADER_BYTES + number]
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return HEADER_BYTES + number + 1 + (value >> 1)
        if position + HEADER_BYTES + number + 1 >= len(view):
            break
    return 0


def _wrong_records(view: memoryview, position: int, size_bytes: int, record_count: int) -> Exception:
    start = bytes(view[position + HEADER_BYTES : position + min(size_bytes, HEADER_BYTES + 8)])
    return InvalidRecord(
        f"the batch at byte {position} says {record_count} records in {size_bytes - HEADER_BYTES} bytes that begin "
        f"with {start.hex() or 'nothing'}: they cannot be that"
    )


def patch(buffer: bytearray | memoryview, position: int, base_offset: int, leader_epoch: int) -> None:
    """Set the base offset and leader epoch of the batch at `position`, in place. The CRC does not cover them."""
    (length,) = _INT(buffer, position + LENGTH_POSITION)
    _PATCH(buffer, position, base_offset, length, leader_epoch)


def patch_sized(
    buffer: bytearray | memoryview, position: int, size_bytes: int, base_offset: int, leader_epoch: int
) -> None:
    """`patch` for a batch whose size is known: one call, no look at the buffer."""
    _PATCH(buffer, position, base_offset, size_bytes - LENGTH_END, leader_epoch)


def patch_log_append_time(buffer: bytearray | memoryview, facts: BatchFacts, now_ms: int) -> BatchFacts:
    """Stamp a batch with the broker's clock: attribute, max timestamp and a new CRC. Returns the changed facts."""
    attributes = facts.attributes | LOG_APPEND_TIME
    _SHORT.pack_into(buffer, facts.position + ATTRIBUTES_POSITION, attributes)
    _LONG.pack_into(buffer, facts.position + MAX_TIMESTAMP_POSITION, now_ms)
    write_crc(buffer, facts.position, facts.size_bytes)
    return facts._replace(attributes=attributes, max_timestamp=now_ms)


def write_crc(buffer: bytearray | memoryview, position: int, size_bytes: int) -> None:
    """Compute and store the CRC of the batch at `position`."""
    view = memoryview(buffer)[position + ATTRIBUTES_POSITION : position + size_bytes]
    _CRC.pack_into(buffer, position + CRC_POSITION, crc32c(view))


def _half_batch(view: memoryview, position: int, left: int) -> Exception:
    if left > MAGIC_POSITION and view[position + MAGIC_POSITION] < MAGIC:
        return _wrong_magic(view[position + MAGIC_POSITION], position)
    return CorruptMessage(f"half a batch at byte {position}: {left} bytes, but its header alone takes {HEADER_BYTES}")


def _wrong_magic(magic: int, position: int) -> Exception:
    if magic in (0, 1):
        return UnsupportedForMessageFormat(
            f"message format {magic} at byte {position}: only record batches (format 2, Kafka 0.11 and later) are taken"
        )
    return CorruptMessage(f"unknown message format {magic} at byte {position}; 2 is expected")


def _wrong_length(length: int, position: int, left: int) -> Exception:
    if length < LENGTH_MIN:
        return CorruptMessage(f"the batch at byte {position} says length {length}; the least is {LENGTH_MIN}")
    return CorruptMessage(f"half a batch at byte {position}: it takes {length + LENGTH_END} bytes, {left} are there")


def _wrong_crc(view: memoryview, position: int, size_bytes: int, crc: int) -> Exception:
    actual = crc32c(view[position + ATTRIBUTES_POSITION : position + size_bytes])
    return CorruptMessage(f"the batch at byte {position} says CRC {crc:#010x}, its bytes have {actual:#010x}")


def _refuse_fields(position: int, last_offset_delta: int, record_count: int, attributes: int, producer_id: int) -> None:
    if record_count < 1 or last_offset_delta + 1 != record_count:
        raise InvalidRecord(
            f"the batch at byte {position} says {record_count} records and last offset delta {last_offset_delta}; "
            "at least one record and a delta of one less are expected"
        )
    if attributes & CODEC_MASK > 4:
        raise UnsupportedCompressionType(
            f"the batch at byte {position} has compression codec {attributes & CODEC_MASK}"
        )
    if attributes & CONTROL:
        raise InvalidRecord(f"the batch at byte {position} is a control batch; only the broker writes those")
    if attributes & ~(CODEC_MASK | LOG_APPEND_TIME | TRANSACTIONAL):
        raise InvalidRecord(f"the batch at byte {position} has unknown attributes {attributes & 0xFFFF:#06x}")
    if attributes & TRANSACTIONAL and producer_id < 0:
        raise InvalidRecord(f"the transactional batch at byte {position} has no producer id")


def _refuse_producer(position: int, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
    # Without a producer id the others mean nothing: aiokafka leaves 0 in the sequence.
    if producer_id >= 0 and (producer_epoch < 0 or base_sequence < 0):
        raise InvalidRecord(
            f"the batch at byte {position} has producer id {producer_id}, epoch {producer_epoch} and sequence "
            f"{base_sequence}: all of them or none (-1) are expected"
        )
