"""Records to batch and back, with every codec; bombs."""

from __future__ import annotations

import contextlib
import gzip

import cramjam
import pytest
from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, snappy_encode, zstd_decode
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from kbroker.errors import CorruptMessage, MessageTooLarge, RequestError, UnsupportedCompressionType
from kbroker.records import codec
from kbroker.records.batch import check_batches
from kbroker.records.codec import BatchBuilder, decode, decode_list, iter_batches, set_producer
from kbroker.records.compression import CODECS, codec_number, compress, decompress

Record = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
RECORDS = st.lists(
    st.tuples(
        st.integers(0, 2**42),
        st.none() | st.binary(max_size=30),
        st.none() | st.binary(max_size=300),
        st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3),
    ),
    min_size=1,
    max_size=20,
)
TEXT = b"".join(b"line %d of a text that compresses\n" % n for n in range(4_000))


def test_the_compiled_codec_is_in_use() -> None:
    assert codec.is_fast()


@given(RECORDS, st.sampled_from(sorted(CODECS.values())))
def test_round_trip(records: list[Record], number: int) -> None:
    builder = BatchBuilder(number, 1 << 24)
    for record in records:
        assert builder.append(*record)
    batch = builder.build()
    facts = check_batches(batch, 1 << 24)[0]
    assert facts.record_count == len(records) == builder.record_count
    assert facts.max_timestamp == max(record[0] for record in records)
    assert decode_list(batch) == [(n, r[0], 0, r[1], r[2], r[3]) for n, r in enumerate(records)]
    assert [record.value for record in decode(bytes(batch))] == [record[2] for record in records]


def test_a_full_batch_takes_no_more() -> None:
    builder = BatchBuilder(0, 200)
    assert builder.append(1, None, b"x" * 500), "the first always fits"
    assert builder.append(1, None, b"x") == 0
    assert builder.record_count == 1
    assert len(builder.build()) == builder.size_bytes


@pytest.mark.parametrize("before", [0, 1, 3])
def test_an_append_that_was_interrupted_is_counted(before: int) -> None:
    builder = BatchBuilder()
    for number in range(before):
        builder.append(number, None, b"whole")
    # As far as `append` comes when it is interrupted right after the codec's own.
    builder._append(before, 1000, None, b"half", [])
    builder.recount()
    records = decode_list(builder.build())
    assert [record[0] for record in records] == list(range(before + 1))
    assert (records[-1][1], records[-1][4]) == (1000, b"half")


def test_set_producer_later() -> None:
    builder = BatchBuilder()
    builder.append(1, None, b"x")
    batch = builder.build()
    set_producer(batch, 5, 1, 30)
    facts = check_batches(batch, 1000)[0]
    assert (facts.producer_id, facts.producer_epoch, facts.base_sequence) == (5, 1, 30)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("data", [b"", b"a", TEXT, bytes(range(256)) * 50])
def test_codecs(number: int, data: bytes) -> None:
    packed = compress(number, memoryview(data))
    assert decompress(number, packed) == data
    assert decompress(number, memoryview(packed), head_bytes=61)[61:] == data
    reader = {1: gzip_decode, 2: snappy_decode, 3: lz4_decode, 4: zstd_decode}[number]
    if data:
        assert bytes(reader(packed)) == data, "aiokafka reads what we write"
        with pytest.raises(MessageTooLarge, match=str(len(data) - 1)):
            decompress(number, packed, len(data) - 1)


def test_other_writers() -> None:
    assert decompress(1, gzip.compress(TEXT)) == TEXT
    assert decompress(2, bytes(cramjam.snappy.compress_raw(TEXT))) == TEXT, "raw snappy"
    assert decompress(2, snappy_encode(TEXT)) == TEXT
    assert decompress(3, bytes(cramjam.lz4.compress(TEXT))) == TEXT, "linked blocks"


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_bomb_costs_no_more_than_the_bound(number: int) -> None:
    bomb = compress(number, bytes(200 << 20))
    with pytest.raises(MessageTooLarge, match="1000000"):
        decompress(number, bomb, 1_000_000)


@given(st.sampled_from([1, 2, 3, 4]), st.binary(max_size=60))
def test_garbage(number: int, data: bytes) -> None:
    try:
        decompress(number, data, 10_000)
        decompress(number, compress(number, b"hello")[:10] + data, 10_000)
    except (CorruptMessage, MessageTooLarge):
        pass


def test_unknown_codecs() -> None:
    for call in (compress, decompress):
        with pytest.raises(UnsupportedCompressionType, match="7"):
            call(7, b"x")
    with pytest.raises(UnsupportedCompressionType, match="one of none, gzip"):
        codec_number("brotli")
    assert codec_number("lz4") == 3


@given(st.data())
def test_damaged_records_are_refused(data: st.DataObject) -> None:
    builder = BatchBuilder(data.draw(st.sampled_from([0, 1, 2, 3, 4])))
    for number in range(5):
        builder.append(number, b"key", b"value" * 9, [("h", b"x")])
    batch = builder.build()
    position = data.draw(st.integers(8, len(batch) - 1))
    batch[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RequestError):
        decode_list(batch, check_crc=False, max_bytes=1 << 16)
    if not 12 <= position < 16:
        with pytest.raises(RequestError):
            decode_list(batch)


def test_iter_batches() -> None:
    builder = BatchBuilder()
    builder.append(1, None, b"x")
    batch = builder.build()
    assert [bytes(b) for b in iter_batches(batch * 3)] == [batch] * 3
    assert len(list(iter_batches(batch * 2 + batch[:-1]))) == 2
    with pytest.raises(CorruptMessage, match="length 0"):
        list(iter_batches(bytes(100)))


def test_the_header_that_we_write_is_the_codecs_own() -> None:
    ours = BatchBuilder(0, 1 << 20, producer_id=7, producer_epoch=2, base_sequence=11)
    codecs = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=7,
        producer_epoch=2,
        base_sequence=11,
        batch_size=1 << 20,
    )
    for number, timestamp_ms in enumerate((50, 70, 60, 70)):
        assert ours.append(timestamp_ms, b"key", b"value" * number * 1000)
        codecs.append(number, timestamp_ms, b"key", b"value" * number * 1000, [])
    assert ours.build() == codecs.build()
