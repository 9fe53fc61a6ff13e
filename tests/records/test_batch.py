"""The header, what is refused, and what the broker rewrites."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.errors import (
    CorruptMessage,
    InvalidRecord,
    MessageTooLarge,
    RecordListTooLarge,
    RequestError,
    UnsupportedCompressionType,
    UnsupportedForMessageFormat,
)
from kbroker.records.batch import (
    HEADER,
    check_batches,
    patch,
    patch_log_append_time,
    read_header,
    write_crc,
)
from kbroker.records.codec import BatchBuilder, decode_list

MAX_BYTES = 1 << 20


def with_records(data: bytes, count: int = 3) -> bytearray:
    """A batch with a sound header and CRC, and any bytes for records."""
    made = one(count)[:61] + data
    made[8:12] = (len(made) - 12).to_bytes(4, "big")
    write_crc(made, 0, len(made))
    return made


def one(count: int = 3, **fields: int) -> bytearray:
    builder = BatchBuilder(0, MAX_BYTES)
    for number in range(count):
        builder.append(1_000 + number, b"k", b"v" * number)
    batch = builder.build()
    if fields:
        header = read_header(batch)._replace(**fields)
        HEADER.pack_into(batch, 0, *header)
        if "crc" not in fields:
            write_crc(batch, 0, len(batch))
    return batch


def test_facts_of_two_batches() -> None:
    first, second = one(3), one(2, producer_id=9, producer_epoch=1, base_sequence=70, attributes=0x10)
    a, b = check_batches(first + second, MAX_BYTES)
    assert (a.position, a.size_bytes, a.record_count, a.last_offset_delta) == (0, len(first), 3, 2)
    assert (a.base_timestamp, a.max_timestamp, a.codec, a.producer_id) == (1_000, 1_002, 0, -1)
    assert (b.position, b.producer_id, b.producer_epoch, b.base_sequence) == (len(first), 9, 1, 70)
    assert b.transactional
    assert not b.control
    assert not b.log_append_time


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: b"", CorruptMessage, "empty"),
        (lambda: one()[:40], CorruptMessage, "half a batch"),
        (lambda: one()[:-1], CorruptMessage, "half a batch"),
        (lambda: one() + one()[:-1], CorruptMessage, "half a batch"),
        (lambda: one() + b"\0", CorruptMessage, "half a batch"),
        (lambda: one(length=48), CorruptMessage, "length 48"),
        (lambda: one(length=-5), CorruptMessage, "length -5"),
        (lambda: one(length=2**31 - 1, crc=0), MessageTooLarge, "message.max.bytes"),
        (lambda: one(crc=1), CorruptMessage, "CRC 0x00000001"),
        (lambda: one(magic=0), UnsupportedForMessageFormat, "format 0"),
        (lambda: one(magic=1), UnsupportedForMessageFormat, "format 1"),
        (lambda: bytes(16) + b"\1" + bytes(13), UnsupportedForMessageFormat, "format 1"),
        (lambda: one(magic=3), CorruptMessage, "format 3"),
        (lambda: one(attributes=5), UnsupportedCompressionType, "codec 5"),
        (lambda: one(attributes=0x20), InvalidRecord, "control"),
        (lambda: one(attributes=0x100), InvalidRecord, "attributes 0x0100"),
        (lambda: one(attributes=0x10), InvalidRecord, "no producer id"),
        (lambda: one(record_count=4), InvalidRecord, "4 records"),
        (lambda: one(record_count=0, last_offset_delta=-1), InvalidRecord, "0 records"),
        (lambda: one(record_count=-1, last_offset_delta=-2), InvalidRecord, "-1 records"),
        (lambda: one(last_offset_delta=2**31 - 1), InvalidRecord, "delta 2147483647"),
        (lambda: one(record_count=50, last_offset_delta=49), InvalidRecord, "50 records in 27 bytes"),
        (lambda: one(record_count=2**31 - 1, last_offset_delta=2**31 - 2), InvalidRecord, "they cannot be that"),
        (lambda: with_records(b""), InvalidRecord, "nothing"),
        (lambda: with_records(b"\x99" * 40), InvalidRecord, "begin with 9999999999999999"),
        (lambda: with_records(b"\x99\x99\x02" + bytes(40)), InvalidRecord, "they cannot be that"),
        (lambda: with_records(b"\x0b" + bytes(40)), InvalidRecord, "they cannot be that"),
        (lambda: with_records(b"\x0a" + bytes(40)), InvalidRecord, "they cannot be that"),
        (lambda: with_records(bytes(2)), InvalidRecord, "they cannot be that"),
        (lambda: one(attributes=4), InvalidRecord, "compressed by zstd"),
        (lambda: one(producer_id=4), InvalidRecord, "all of them or none"),
        (lambda: one(producer_id=4, producer_epoch=0), InvalidRecord, "all of them or none"),
    ],
)
def test_refused(make: Callable[[], bytes], error: type[RequestError], says: str) -> None:
    with pytest.raises(error, match=says):
        check_batches(bytes(make()), MAX_BYTES)


def test_what_stands_in_producer_fields_means_nothing_without_a_producer_id() -> None:
    (facts,) = check_batches(one(producer_epoch=0, base_sequence=0), MAX_BYTES)  # as aiokafka writes it
    assert facts.producer_id == -1


def test_too_large() -> None:
    batch = one()
    assert check_batches(batch, len(batch))
    with pytest.raises(MessageTooLarge, match=str(len(batch))):
        check_batches(batch, len(batch) - 1)


@given(st.binary(max_size=200))
def test_garbage_gets_a_named_error(data: bytes) -> None:
    with pytest.raises(RequestError):
        check_batches(data, MAX_BYTES)


@given(st.data())
def test_no_flipped_byte_passes(data: st.DataObject) -> None:
    batch = one()
    position = data.draw(st.integers(8, len(batch) - 1))
    if 12 <= position < 16:
        return  # the leader epoch, which the broker overwrites
    batch[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RequestError):
        check_batches(batch, MAX_BYTES)


def test_patch_leaves_the_crc_right() -> None:
    data = one() + one(2)
    second = check_batches(data, MAX_BYTES)[1].position
    patch(data, second, 2**40, 7)
    facts = check_batches(memoryview(data), MAX_BYTES)[1]
    assert (facts.base_offset, facts.leader_epoch) == (2**40, 7)


def test_log_append_time() -> None:
    data = one()
    facts = patch_log_append_time(data, check_batches(data, MAX_BYTES)[0], 77_000)
    assert facts.log_append_time
    assert check_batches(data, MAX_BYTES)[0] == facts
    assert [(r[1], r[2]) for r in decode_list(data)] == [(77_000, 1)] * 3


def test_so_many_batches_and_no_more() -> None:
    assert len(check_batches(bytes(one()) * 5, MAX_BYTES, batches_max=5)) == 5
    with pytest.raises(RecordListTooLarge, match=r"more than 4 batches .*produce\.batches\.max"):
        check_batches(bytes(one()) * 5, MAX_BYTES, batches_max=4)


def test_more_records_than_are_decompressed() -> None:
    builder = BatchBuilder(4, MAX_BYTES)
    for _ in range(1000):
        builder.append(5, None, b"")
    sent = builder.build()
    assert check_batches(sent, MAX_BYTES, expanded_bytes_max=7000)
    with pytest.raises(MessageTooLarge, match=r"record\.decompressed\.bytes\.max allows 6999"):
        check_batches(sent, MAX_BYTES, expanded_bytes_max=6999)


def test_short_header() -> None:
    with pytest.raises(CorruptMessage, match="60 bytes"):
        read_header(bytes(60))
    assert HEADER.size == struct.calcsize(">qiibIhiqqqhii")
