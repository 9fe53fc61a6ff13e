"""Topics that ask more of their records, through both protocols: compressed anew in order, refused record by record."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from kbroker.errors import InvalidRecord
from kbroker.records.batch import check_batches, patch_log_append_time, read_header
from kbroker.records.codec import BatchBuilder, decode_list, iter_batches
from kbroker.records.compression import CODECS
from kbroker.testing import Broker

from .kafka_client import KafkaClient
from .raw_client import RawClient

INVALID_TIMESTAMP, UNSUPPORTED_FORMAT, UNSUPPORTED_COMPRESSION, INVALID_RECORD = 32, 43, 76, 87


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(workers=1, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def batch(*records: tuple[bytes | None, bytes | None], codec: int = 0, age_ms: int = 0) -> bytearray:
    builder = BatchBuilder(codec, 1 << 24)
    for key, value in records:
        assert builder.append(now_ms() - age_ms, key, value)
    return builder.build()


def batches(broker: Broker, topic: str) -> list[memoryview]:
    """Every batch of the topic, as it lies there."""
    found: list[memoryview] = []
    with RawClient(broker.server) as client:
        while True:
            offset = read_header(found[-1]).next_offset if found else 0
            _, *payload = client.fetch(topic, offset, max_wait_ms=0)
            if not payload:
                return found
            found += iter_batches(payload[0])


@pytest.mark.parametrize("name", ["gzip", "uncompressed"])
def test_batches_are_compressed_as_the_topic_says(broker: Broker, worker: KafkaClient, topic: str, name: str) -> None:
    worker.create(topic, compression_type=name)
    values = [os.urandom(50) * 40 for _ in range(5)]
    for codec, value in enumerate(values):
        answer = worker.produce_bytes(topic, 0, bytes(batch((None, value), codec=codec)))
        assert (answer.error_code, answer.base_offset) == (0, codec)
    with RawClient(broker.server) as native:
        native.produce(topic, bytes(batch((None, b"native" * 100), codec=CODECS["lz4"])))
    found = batches(broker, topic)
    assert {read_header(one).codec for one in found} == {CODECS["gzip" if name == "gzip" else "none"]}
    assert [record[4] for one in found for record in decode_list(one)] == [*values, b"native" * 100]


def test_large_and_small_requests_keep_their_order(broker: Broker, worker: KafkaClient, topic: str) -> None:
    worker.create(topic, compression_type="zstd")
    sizes = [600_000, 10, 300_000, 20, 30, 900_000, 40] * 3
    for number, size in enumerate(sizes):
        worker.send_bytes(topic, 0, bytes(batch((None, b"%d " % number + bytes(size)), codec=number % 3)))
    answers = [worker.receive().responses[0].partition_responses[0] for _ in sizes]
    assert [(answer.error_code, answer.base_offset) for answer in answers] == [(0, n) for n in range(len(sizes))]
    read = [record[4] for one in batches(broker, topic) for record in decode_list(one)]
    assert [int(value.split(b" ")[0]) for value in read if value] == list(range(len(sizes)))


def test_a_compacted_topic_names_the_records_without_a_key(worker: KafkaClient, broker: Broker, topic: str) -> None:
    worker.create(topic, cleanup_policy="compact")
    sent = batch((b"k", b"v"), (None, b"v"), (b"k", None))
    for version in (7, 8, 11):
        answer = worker.produce_bytes(topic, 0, bytes(sent), version=version)
        assert (answer.error_code, answer.base_offset) == (INVALID_RECORD, -1)
        if version >= 8:
            assert [record.batch_index for record in answer.record_errors] == [1]
            assert "key" in answer.record_errors[0].batch_index_error_message
            assert "compacted" in answer.error_message
    with RawClient(broker.server) as native, pytest.raises(InvalidRecord, match="compacted"):
        native.produce(topic, bytes(sent))
    assert worker.produce_bytes(topic, 0, bytes(batch((b"k", b"v")))).base_offset == 0


def test_who_wants_no_answer_is_hung_up_on(worker: KafkaClient, topic: str) -> None:
    worker.create(topic, cleanup_policy="compact")
    worker.send_bytes(topic, 0, bytes(batch((None, os.urandom(20_000)), codec=CODECS["gzip"])), acks=0)
    with pytest.raises(ConnectionError):
        worker.receive()


def test_timestamps_have_bounds(worker: KafkaClient, topic: str) -> None:
    worker.create(topic, message_timestamp_before_max_ms="60000", message_timestamp_after_max_ms="50000")
    old = worker.produce_bytes(topic, 0, bytes(batch((b"k", b"v"), age_ms=90_000)))
    assert (old.error_code, [record.batch_index for record in old.record_errors]) == (INVALID_TIMESTAMP, [0])
    early = worker.produce_bytes(topic, 0, bytes(batch((b"k", b"v"), age_ms=-90_000)))
    assert (early.error_code, early.error_message.count("message.timestamp.after.max.ms")) == (INVALID_TIMESTAMP, 1)
    assert worker.produce_bytes(topic, 0, bytes(batch((b"k", b"v"), age_ms=-30_000))).error_code == 0
    assert worker.produce_bytes(topic, 0, bytes(batch((b"k", b"v"), age_ms=30_000))).error_code == 0


def test_the_brokers_clock_has_none(broker: Broker, worker: KafkaClient, topic: str) -> None:
    worker.create(topic, message_timestamp_type="LogAppendTime", message_timestamp_before_max_ms="5",
                  compression_type="gzip")  # fmt: skip
    before = now_ms()
    for age_ms in (10**9, -(10**9)):
        answer = worker.produce_bytes(topic, 0, bytes(batch((b"k", b"v"), age_ms=age_ms)))
        assert answer.error_code == 0
        assert before <= answer.log_append_time_ms <= now_ms()
    for one in batches(broker, topic):
        assert read_header(one).codec == CODECS["gzip"]
        assert all(before <= record[1] <= now_ms() and record[2] == 1 for record in decode_list(one))


def test_what_is_no_batch_of_today_gets_kafkas_code(worker: KafkaClient, topic: str) -> None:
    worker.create(topic)
    sound = batch((b"k", b"v"))
    old = bytearray(sound)
    old[16] = 1
    assert worker.produce_bytes(topic, 0, bytes(old)).error_code == UNSUPPORTED_FORMAT
    assert worker.produce_bytes(topic, 0, b"").error_code == INVALID_RECORD
    stamped = bytearray(sound)
    patch_log_append_time(stamped, check_batches(stamped, 1 << 20)[0], now_ms())
    assert worker.produce_bytes(topic, 0, bytes(stamped)).error_code == INVALID_TIMESTAMP
    packed = bytes(batch((b"k", bytes(500)), codec=CODECS["zstd"]))
    assert worker.produce_bytes(topic, 0, packed, version=6).error_code == UNSUPPORTED_COMPRESSION
    assert worker.produce_bytes(topic, 0, packed, version=7).base_offset == 0
