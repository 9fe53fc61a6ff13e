"""Going over the records of an uncompressed batch without making an object of any: look-ups by time, and checks.

Both are generators: they yield after each slice, some 0.3 ms of Python, so that whoever runs them gives others a turn.
They read what the lengths say and step over keys and values, so a slice takes no longer where a record is large.

A record is: length, attributes (1 byte), timestamp delta, offset delta, key length and key, value length and value,
number of headers, and of each the lengths and bytes of its name and value. Lengths and deltas are zigzag varints.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kbroker.errors import CorruptMessage, InvalidRecord
from kbroker.records.batch import HEADER_BYTES, RECORD_BYTES_MIN, read_header
from kbroker.records.steps import TURN, Steps

SLICE_RECORDS: Final = 300
NAMED_MAX: Final = 100
"""So many records at fault are named one by one; the message counts them all."""
_NO_TIMESTAMP: Final = -1
_NULL: Final = 1
"""A length of -1 as it is written."""
_VARINT_BYTES_MAX: Final = 10


class Walked(NamedTuple):
    """What the records of a sound batch say, all of them."""

    max_timestamp: int
    keyless: dict[int, str]
    """The first records without a key, by their number in the batch, and why they are refused."""
    keyless_count: int
    old: dict[int, str]
    """The same for those with a timestamp before the earliest that is allowed."""
    old_count: int


def first_at(plain: memoryview, timestamp_ms: int, offset: int) -> Steps[tuple[int, int] | None]:
    """Offset and timestamp of the first record at or after both; None: there is none.

    `plain` is a whole uncompressed batch. Raises CorruptMessage where its records cannot be read.
    """
    header = read_header(plain)
    base_timestamp, base_offset = header.base_timestamp, header.base_offset
    position, end = HEADER_BYTES, len(plain)
    try:
        for number in range(header.record_count):
            if number % SLICE_RECORDS == SLICE_RECORDS - 1:
                yield TURN
            value = plain[position]
            position += 1
            if value > 0x7F:
                value, position = _varint(plain, position, value)
            following = position + (value >> 1)
            if value & 1 or following > end:
                raise CorruptMessage(f"record {number} says {_signed(value)} bytes, {end - position} are left")
            position += 1
            value = plain[position]
            position += 1
            if value > 0x7F:
                value, position = _varint(plain, position, value)
            timestamp = base_timestamp + _signed(value)
            if timestamp >= timestamp_ms:
                value = plain[position]
                position += 1
                if value > 0x7F:
                    value, position = _varint(plain, position, value)
                if base_offset + _signed(value) >= offset:
                    return base_offset + _signed(value), timestamp
            position = following
    except (IndexError, InvalidRecord):
        raise CorruptMessage(f"the batch at offset {base_offset} ends in the middle of a record") from None
    return None


def walk(plain: memoryview, *, needs_keys: bool = False, earliest_ms: int | None = None) -> Steps[Walked]:
    """Check every record of a whole uncompressed batch: lengths, deltas, counts, nothing left over.

    Raises InvalidRecord, naming the first record that is none. Records without a key, or too old, are reported.
    """
    header = read_header(plain)
    base_timestamp, count = header.base_timestamp, header.record_count
    end = len(plain)
    if count * RECORD_BYTES_MIN > end - HEADER_BYTES:
        raise InvalidRecord(f"a batch says {count} records, which do not fit into its {end - HEADER_BYTES} bytes")
    position = HEADER_BYTES
    max_delta: int | None = None
    earliest_delta = None if earliest_ms is None else earliest_ms - base_timestamp
    keyless: dict[int, str] = {}
    old: dict[int, str] = {}
    keyless_count = old_count = number = work = 0
    try:
        # Varints of one byte are read here: a call for each would take longer than all else.
        for number in range(count):
            work += 1
            if work >= SLICE_RECORDS:
                work = 0
                yield TURN
            value = plain[position]
            position += 1
            if value > 0x7F:
                value, position = _varint(plain, position, value)
            following = position + (value >> 1)
            if value & 1 or following > end:
                raise InvalidRecord(f"record {number} says {_signed(value)} bytes, {end - position} are left")
            value = plain[position + 1]  # behind the attributes
            position += 2
            if value > 0x7F:
                value, position = _varint(plain, position, value)
            delta = value >> 1 ^ -(value & 1)
            if max_delta is None or delta > max_delta:
                max_delta = delta
            if earliest_delta is not None and delta < earliest_delta and base_timestamp + delta != _NO_TIMESTAMP:
                old_count += 1
                if old_count <= NAMED_MAX:
                    old[number] = (
                        f"timestamp {base_timestamp + delta} is before {earliest_ms}, the earliest by "
                        "message.timestamp.before.max.ms"
                    )
            value = plain[position]
            position += 1
            if value > 0x7F:
                value, position = _varint(plain, position, value)
            if value != number + number:
                raise InvalidRecord(f"record {number} of the batch says offset delta {_signed(value)}")
            value = plain[position]
            position += 1
            if value > 0x7F:
                value, position = _varint(plain, position, value)
            if not value & 1:
                position += value >> 1
            elif value != _NULL:
                raise InvalidRecord(f"record {number} says {_signed(value)} bytes of key")
            elif needs_keys:
                keyless_count += 1
                if keyless_count <= NAMED_MAX:
                    keyless[number] = "a compacted topic takes no record without a key"
            value = plain[position]
            position += 1
            if value > 0x7F:
                value, position = _varint(plain, position, value)
            if not value & 1:
                position += value >> 1
            elif value != _NULL:
                raise InvalidRecord(f"record {number} says {_signed(value)} bytes of value")
            value = plain[position]
            position += 1
            if value:
                if value > 0x7F:
                    value, position = _varint(plain, position, value)
                if value & 1 or value >> 1 > following - position:
                    raise InvalidRecord(f"record {number} says {_signed(value)} headers")
                for _ in range(value >> 1):
                    work += 1
                    if work >= SLICE_RECORDS:
                        work = 0
                        yield TURN
                    position = _header(plain, position, following, number)
            if position != following:
                raise InvalidRecord(f"record {number} ends {position - following} bytes past where its length says")
    except IndexError:
        raise InvalidRecord(f"record {number} goes past the end of its batch") from None
    if position != end:
        raise InvalidRecord(f"{end - position} bytes are left behind the {count} records that the batch says")
    max_timestamp = base_timestamp + (max_delta or 0)
    return Walked(max_timestamp, keyless, keyless_count, old, old_count)


def _header(plain: memoryview, position: int, end: int, number: int) -> int:
    """Where a header of a record ends that ends at `end`. Raises InvalidRecord, IndexError."""
    name_bytes, position = _read(plain, position)
    value_bytes, position = _read(plain, position + max(0, name_bytes))
    if name_bytes < 0 or value_bytes < -1 or position > end:
        raise InvalidRecord(f"record {number} has a header with {name_bytes} bytes of name and {value_bytes} of value")
    return position + max(0, value_bytes)


def _signed(value: int) -> int:
    """A zigzag number."""
    return value >> 1 ^ -(value & 1)


def _read(plain: memoryview, position: int) -> tuple[int, int]:
    """The zigzag varint at `position`, and where it ends."""
    value = plain[position]
    position += 1
    if value > 0x7F:
        value, position = _varint(plain, position, value)
    return value >> 1 ^ -(value & 1), position


def _varint(plain: memoryview, position: int, first: int) -> tuple[int, int]:
    """An unsigned varint whose first byte, with its top bit set, stood before `position`: the value, and its end."""
    value = first & 0x7F
    for shift in range(7, 7 * _VARINT_BYTES_MAX, 7):
        byte = plain[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise InvalidRecord("a variable-length integer is longer than 10 bytes")
