"""Kafka's murmur2: hashes and partitions that Java's client gives."""

import pytest

from kbroker.records.partitioner import murmur2, partition_for_key


@pytest.mark.parametrize(
    ("key", "java"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
        (b"", 275646681),
    ],
)
def test_hashes(key: bytes, java: int) -> None:
    assert murmur2(key) == java & 0xFFFFFFFF


def test_partitions() -> None:
    for key in (b"", b"a", b"ab", b"abc", b"abcd", b"\xff\xfe\xfd"):
        assert partition_for_key(key, 8) == (murmur2(key) & 0x7FFFFFFF) % 8
    assert partition_for_key(b"foobar", 1000) == (-790332482 & 0x7FFFFFFF) % 1000
