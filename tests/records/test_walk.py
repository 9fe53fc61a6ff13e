"""Records gone over without an object for each: as the codec reads them, or refused; in slices."""

from __future__ import annotations

import contextlib

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.errors import CorruptMessage, InvalidRecord, MessageTooLarge
from kbroker.records.batch import HEADER_BYTES, check_batches, read_header, write_crc
from kbroker.records.codec import BatchBuilder, RecordTuple, decode_list, uncompressed
from kbroker.records.compression import CODECS, compress, free
from kbroker.records.expand import SMALL_BYTES, Budget, expanded
from kbroker.records.steps import MEMORY, finished
from kbroker.records.walk import NAMED_MAX, SLICE_RECORDS, first_at, walk

NOW_MS = 1_700_000_000_000

records_of_any_kind = st.lists(
    st.tuples(
        st.integers(0, 5_000_000),
        st.none() | st.binary(max_size=300),
        st.none() | st.binary(max_size=20_000),
        st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=9)), max_size=3),
    ),
    min_size=1,
    max_size=30,
)
Given = list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]


def batch_of(records: Given, codec: int = 0) -> bytearray:
    builder = BatchBuilder(codec, 1 << 26)
    for age_ms, key, value, headers in records:
        assert builder.append(NOW_MS - age_ms, key, value, headers)
    return builder.build()


def first_of(records: list[RecordTuple], timestamp_ms: int, offset: int) -> tuple[int, int] | None:
    return next(((r[0], r[1]) for r in records if r[1] >= timestamp_ms and r[0] >= offset), None)


@given(records=records_of_any_kind, codec=st.integers(0, 4))
def test_what_a_producer_makes_is_taken(records: Given, codec: int) -> None:
    """By the check of each batch, which looks at the first record only, and by the walk through all."""
    sent = batch_of(records, codec)
    (facts,) = check_batches(sent, len(sent))
    plain = uncompressed(memoryview(sent), 1 << 26) if facts.codec else memoryview(sent)
    found = finished(walk(plain, needs_keys=True, earliest_ms=NOW_MS - 1000))
    assert found.max_timestamp == read_header(sent).max_timestamp
    assert found.keyless_count == sum(key is None for _, key, _, _ in records)
    assert found.old_count == sum(age_ms > 1000 for age_ms, _, _, _ in records)


@given(records=records_of_any_kind, age_ms=st.integers(0, 5_000_000), offset=st.integers(0, 31))
def test_the_first_at_a_time_is_the_codecs(records: Given, age_ms: int, offset: int) -> None:
    sent = batch_of(records)
    wanted = first_of(decode_list(sent), NOW_MS - age_ms, offset)
    assert finished(first_at(memoryview(sent), NOW_MS - age_ms, offset)) == wanted


@given(data=st.binary(min_size=1, max_size=300), count=st.integers(1, 9))
def test_any_bytes_are_records_or_refused(data: bytes, count: int) -> None:
    sent = batch_of([(0, None, b"", [])] * count)[:HEADER_BYTES] + data
    sent[8:12] = (len(sent) - 12).to_bytes(4, "big")
    write_crc(sent, 0, len(sent))
    with contextlib.suppress(CorruptMessage):
        finished(first_at(memoryview(sent), 0, 0))
    try:
        finished(walk(memoryview(sent)))
    except InvalidRecord:
        return
    assert len(decode_list(sent)) == count, "who walks says yes, who reads says no"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"record_count": 49, "last_offset_delta": 48}, "bytes are left behind the 49 records"),
        ({"record_count": 51, "last_offset_delta": 50}, "goes past the end"),
        ({"record_count": 2**31 - 1, "last_offset_delta": 2**31 - 2}, "do not fit"),
    ],
)
def test_a_wrong_count(change: dict[str, int], says: str) -> None:
    sent = batch_of([(0, b"key", b"value", [])] * 50)
    sent[23:27] = change["last_offset_delta"].to_bytes(4, "big")
    sent[57:61] = change["record_count"].to_bytes(4, "big")
    with pytest.raises(InvalidRecord, match=says):
        finished(walk(memoryview(sent)))


def test_a_walk_gives_others_a_turn() -> None:
    sent = memoryview(batch_of([(0, None, b"", [])] * (10 * SLICE_RECORDS)))
    assert len(list(walk(sent))) == 10
    assert len(list(first_at(sent, NOW_MS + 1, 0))) == 10
    headers = memoryview(batch_of([(0, None, b"", [("h", b"")] * (10 * SLICE_RECORDS))]))
    assert len(list(walk(headers))) >= 9, "also within one record"


def test_not_all_records_at_fault_are_named() -> None:
    sent = memoryview(batch_of([(5000, None, b"", [])] * 1000))
    found = finished(walk(sent, needs_keys=True, earliest_ms=NOW_MS))
    assert (found.keyless_count, found.old_count) == (1000, 1000)
    assert list(found.keyless) == list(found.old) == list(range(NAMED_MAX))


def test_what_decompresses_to_much_asks_for_memory_first() -> None:
    small = memoryview(batch_of([(0, None, bytes(1000), [])] * 100, CODECS["zstd"]))
    large = memoryview(batch_of([(0, None, bytes(SMALL_BYTES), [])], CODECS["zstd"]))
    budget = Budget(2 * SMALL_BYTES)
    assert list(expanded(small, budget)) == []
    assert list(expanded(large, budget)) == [MEMORY]
    with pytest.raises(MessageTooLarge, match=f"record.decompressed.bytes.max={2 * SMALL_BYTES}"):
        finished(expanded(large, budget))


def test_no_large_buffer_is_zeroed_beforehand() -> None:
    """Which would keep all threads waiting: it is mapped, and given back at once."""
    large = memoryview(batch_of([(0, None, bytes(SMALL_BYTES), [])], CODECS["lz4"]))
    plain = finished(expanded(large, Budget(1 << 26)))
    assert type(plain.obj).__name__ == "mmap"
    assert finished(walk(plain)).max_timestamp == NOW_MS
    free(plain)
    with pytest.raises(ValueError, match="released"):
        len(plain)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compression_must_be_what_it_says(codec: str) -> None:
    number = CODECS[codec]
    sent = batch_of([(0, b"key", b"value" * 100, [])] * 3, number)
    assert check_batches(sent, 1 << 20)
    for other in {1, 2, 3, 4} - {number}:
        wrong = bytearray(sent)
        wrong[22] = other
        write_crc(wrong, 0, len(wrong))
        with pytest.raises(InvalidRecord, match="compressed by"):
            check_batches(wrong, 1 << 20)


def test_raw_snappy_is_taken() -> None:
    """As librdkafka sends it: no framing around it."""
    plain = batch_of([(0, b"key", b"value" * 1000, [])] * 30)
    packed = bytes(cramjam.snappy.compress_raw(bytes(plain[HEADER_BYTES:])))
    sent = plain[:HEADER_BYTES] + packed
    sent[8:12] = (len(sent) - 12).to_bytes(4, "big")
    sent[22] = CODECS["snappy"]
    write_crc(sent, 0, len(sent))
    assert check_batches(sent, 1 << 20)
    assert len(decode_list(sent)) == 30


def test_a_count_that_its_compression_cannot_hold() -> None:
    packed = compress(CODECS["gzip"], b"\x0c\0\0\0\1\0\0" * 10)
    sent = batch_of([(0, None, b"", [])])[:HEADER_BYTES] + packed
    sent[8:12] = (len(sent) - 12).to_bytes(4, "big")
    sent[22] = CODECS["gzip"]
    for count in (10_000_000, 2**31 - 1):
        sent[23:27] = (count - 1).to_bytes(4, "big")
        sent[57:61] = count.to_bytes(4, "big")
        write_crc(sent, 0, len(sent))
        with pytest.raises(InvalidRecord, match="cannot hold"):
            check_batches(sent, 1 << 20)
