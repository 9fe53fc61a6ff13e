"""What topics may ask of their records: other compressions, keys, no old timestamps."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.config import LogConfig
from kbroker.errors import CorruptMessage, InvalidRecord, InvalidTimestamp, MessageTooLarge
from kbroker.records.batch import check_batches, read_header, write_crc
from kbroker.records.codec import BatchBuilder, decode_list, iter_batches
from kbroker.records.compression import CODECS
from kbroker.records.policy import RecordPolicy, policy_of

NOW_MS = 1_700_000_000_000
NAMES = ["uncompressed", "gzip", "snappy", "lz4", "zstd"]
Keyed = tuple[int, bytes | None, bytes | None]


def policy(**settings: Any) -> RecordPolicy:
    found = policy_of(dataclasses.replace(LogConfig(), **settings))
    assert found is not None
    return found


def batch(records: list[Keyed], codec: int = 0, **producer: Any) -> bytearray:
    builder = BatchBuilder(codec, 1 << 24, **producer)
    for timestamp_ms, key, value in records:
        assert builder.append(timestamp_ms, key, value, [("h", b"1")])
    return builder.build()


def test_nothing_is_asked_by_default() -> None:
    assert policy_of(LogConfig()) is None
    stamped = dataclasses.replace(LogConfig(), timestamp_type="LogAppendTime", timestamp_before_max_ms=5)
    assert policy_of(stamped) is None


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("source", range(5))
def test_every_compression_becomes_the_topics(source: int, target: str) -> None:
    sent = batch([(NOW_MS + n, b"k%d" % n, b"v" * 500) for n in range(20)], source, producer_id=7, producer_epoch=1,
                 base_sequence=40)  # fmt: skip
    before = read_header(sent)
    made = policy(compression_type=target).apply(memoryview(bytes(sent) * 2), NOW_MS)
    found = list(iter_batches(made))
    assert len(found) == 2
    check_batches(made, 1 << 20)
    for one in found:
        after = read_header(one)
        assert after.codec == CODECS["none" if target == "uncompressed" else target]
        same = ("base_timestamp", "max_timestamp", "producer_id", "producer_epoch", "base_sequence", "record_count")
        assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
        assert decode_list(one) == decode_list(sent)


def test_what_is_compressed_so_already_stays_byte_for_byte() -> None:
    sent = batch([(NOW_MS, b"k", b"v" * 500)], CODECS["zstd"])
    assert policy(compression_type="zstd").apply(memoryview(sent), NOW_MS) == sent


@pytest.mark.parametrize(("name", "levels"), [("gzip", (1, 9)), ("zstd", (-5, 19)), ("lz4", (3, 17))])
def test_levels(name: str, levels: tuple[int, int]) -> None:
    sent = batch([(NOW_MS, None, b"".join(b"%d,%d " % (n, n * n % 97) for n in range(5000)))])
    low, high = (
        policy(**{"compression_type": name, f"compression_{name}_level": level}).apply(memoryview(sent), NOW_MS)
        for level in levels
    )
    assert len(high) < len(low)
    assert decode_list(high) == decode_list(low) == decode_list(sent)


def test_a_bomb_costs_no_more_than_the_bound() -> None:
    bomb = batch([(NOW_MS, b"k", bytes(6 << 20))], CODECS["zstd"])
    assert len(bomb) < 1 << 16
    asked = policy(compression_type="gzip", decompressed_bytes_max=8 << 20)
    assert asked.apply(memoryview(bomb), NOW_MS)
    with pytest.raises(MessageTooLarge, match=r"record\.decompressed\.bytes\.max=8388608"):
        asked.apply(memoryview(bytes(bomb) * 2), NOW_MS)


@pytest.mark.parametrize("codec", range(5))
def test_compacted_topics_name_the_records_without_a_key(codec: int) -> None:
    records: list[Keyed] = [
        (NOW_MS, b"k", b"v" * 99),
        (NOW_MS, None, b"v" * 99),
        (NOW_MS, b"", None),
        (NOW_MS, None, None),
    ]
    with pytest.raises(InvalidRecord) as refused:
        policy(cleanup_policy=("compact",)).apply(memoryview(batch(records, codec)), NOW_MS)
    assert sorted(refused.value.records) == [1, 3]
    keyed = batch([record for record in records if record[1] is not None], codec)
    assert policy(cleanup_policy=("compact", "delete")).apply(memoryview(keyed), NOW_MS) == keyed


def test_records_that_are_too_old_are_named() -> None:
    asked = policy(timestamp_before_max_ms=1000)
    with pytest.raises(InvalidTimestamp) as refused:
        asked.apply(memoryview(batch([(NOW_MS, b"a", b""), (NOW_MS - 1001, b"b", b"")])), NOW_MS)
    assert list(refused.value.records) == [1]
    fine = batch([(NOW_MS - 1000, b"a", b""), (-1, b"no timestamp", b"")])
    assert asked.apply(memoryview(fine), NOW_MS) == fine


def test_records_that_are_none_are_refused() -> None:
    sent = batch([(NOW_MS, b"k", b"v")])
    sent[61] = 0x7F  # the first record's length
    write_crc(sent, 0, len(sent))
    with pytest.raises(InvalidRecord, match="cannot be that"):
        policy(cleanup_policy=("compact",)).apply(memoryview(sent), NOW_MS)


@given(data=st.binary(min_size=1, max_size=200), codec=st.integers(0, 4), count=st.integers(1, 5))
def test_any_bytes_for_records_are_refused_or_taken(data: bytes, codec: int, count: int) -> None:
    sent = batch([(NOW_MS, b"k", b"v")] * count)[:61] + data
    sent[8:12] = (len(sent) - 12).to_bytes(4, "big")
    sent[22] = codec
    write_crc(sent, 0, len(sent))
    with contextlib.suppress(CorruptMessage, InvalidRecord, MessageTooLarge):
        policy(cleanup_policy=("compact",), compression_type="lz4").apply(memoryview(sent), NOW_MS)


def test_only_small_plain_batches_are_light() -> None:
    asked = policy(compression_type="gzip")
    assert asked.is_light(memoryview(batch([(NOW_MS, b"k", b"v")])))
    assert not asked.is_light(memoryview(batch([(NOW_MS, b"k", bytes(20_000))])))
    assert not asked.is_light(memoryview(batch([(NOW_MS, b"k", bytes(200))], CODECS["gzip"])))
