"""Batches with a sound CRC and nonsense inside: refused on both protocols, and whoever reads the topic goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbroker.errors import InvalidRecord, RecordListTooLarge, error_for
from kbroker.records.batch import HEADER, MAX_TIMESTAMP_POSITION, read_header, write_crc
from kbroker.records.codec import BatchBuilder, iter_batches
from kbroker.records.compression import CODECS, compress
from kbroker.testing import Broker
from kbroker.wire import messages as m

from .kafka_client import KafkaClient, batch, now_ms
from .raw_client import RawClient

INVALID_RECORD, UNSUPPORTED_COMPRESSION = 87, 76
RECORD = bytes([14, 0, 0, 0, 1, 2, 0x61, 0])  # no key, value "a"


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(workers=1, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


def made(records: bytes, count: int, codec: int = 0) -> bytes:
    """A batch with these bytes for its records, that says so many of them."""
    now = now_ms()
    head = HEADER.pack(0, 49 + len(records), -1, 2, 0, codec, count - 1, now, now, -1, -1, -1, count)
    sent = bytearray(head + records)
    write_crc(sent, 0, len(sent))
    return bytes(sent)


POISON = {
    "garbage": (made(b"\x99" * 40, 3), INVALID_RECORD),
    "nothing": (made(b"", 1), INVALID_RECORD),
    "fewer than said": (made(RECORD, 50), INVALID_RECORD),
    "more than said": (made(RECORD * 2, 1), INVALID_RECORD),
    "no records": (made(RECORD, 0), INVALID_RECORD),
    "2^31-1 records": (made(RECORD, 2**31 - 1), INVALID_RECORD),
    "2^31-1 records in gzip": (made(compress(1, RECORD), 2**31 - 1, 1), INVALID_RECORD),
    "zstd that says gzip": (made(compress(4, RECORD * 9), 9, 1), INVALID_RECORD),
    "gzip that says snappy": (made(compress(1, RECORD * 9), 9, 2), INVALID_RECORD),
    "plain that says lz4": (made(RECORD * 9, 9, 3), INVALID_RECORD),
    "a codec that nobody knows": (made(RECORD, 1, 6), UNSUPPORTED_COMPRESSION),
}


@pytest.mark.parametrize(("sent", "code"), POISON.values(), ids=POISON)
def test_what_can_be_told_without_a_look_inside(
    broker: Broker, worker: KafkaClient, sent: bytes, code: int, topic: str
) -> None:
    topic = topic[-60:]
    worker.create(topic)
    for version in (7, 9):  # read by the general way and by the usual one
        answer = worker.produce_bytes(topic, 0, sent, version=version)
        assert (answer.error_code, answer.base_offset) == (code, -1)
    with RawClient(broker.server) as native:
        with pytest.raises(type(error_for(code, ""))):
            native.ask(m.ProduceAnswer, m.Produce(topic, 0, 1), sent)
        assert worker.produce(topic, 0, b"good").base_offset == 0
        assert [record[4] for record in native.records(topic)] == [b"good"]


def deep(codec: int) -> dict[str, bytes]:
    """What only a look at every record finds."""

    def packed(records: bytes, count: int) -> bytes:
        return made(compress(codec, records) if codec else records, count, codec)

    second = bytearray(RECORD)
    second[3] = 2  # offset delta 1
    return {
        "the second is garbage": packed(RECORD + b"\x99" * 20, 2),
        "the same offset twice": packed(RECORD * 2, 2),
        "something behind the last": packed(RECORD + bytes(second) + b"more of it", 2),
        "a value that ends too late": packed(RECORD + bytes(second[:5]) + bytes([100]) + bytes(second[6:]), 2),
    }


@pytest.mark.parametrize("codec", [0, 4])
@pytest.mark.parametrize("size_bytes", [0, 40_000], ids=["light", "large"])
def test_every_record_is_looked_at_where_that_is_asked(
    broker: Broker, worker: KafkaClient, topic: str, codec: int, size_bytes: int
) -> None:
    worker.create(topic, 1, record_validation="records")
    filled = BatchBuilder(codec, 1 << 20)
    assert filled.append(now_ms(), None, bytes(size_bytes))
    assert worker.produce_bytes(topic, 0, bytes(filled.build())).error_code == 0
    for what, sent in deep(codec).items():
        answer = worker.produce_bytes(topic, 0, sent)
        assert answer.error_code == INVALID_RECORD, what
        with RawClient(broker.server) as native, pytest.raises(InvalidRecord):
            native.produce(topic, sent)
    assert worker.produce(topic, 0, b"good").base_offset == 1


def test_what_is_not_compressed_at_all_is_not_for_ever_tried_again(worker: KafkaClient, topic: str) -> None:
    """CORRUPT_MESSAGE would have a producer send it again and again."""
    worker.create(topic, 1, record_validation="records")
    packed = compress(CODECS["zstd"], RECORD * 100)
    broken = packed[:10] + bytes(len(packed) - 10)
    assert worker.produce_bytes(topic, 0, made(broken, 100, 4)).error_code == INVALID_RECORD


def test_the_largest_timestamp_is_what_the_records_say(broker: Broker, worker: KafkaClient, topic: str) -> None:
    """As in Kafka, which writes it whatever the producer says."""
    worker.create(topic, 1, record_validation="records")
    sent, now = bytearray(batch(b"x", timestamp_ms=now_ms())), now_ms()
    sent[MAX_TIMESTAMP_POSITION : MAX_TIMESTAMP_POSITION + 8] = (now + 5000).to_bytes(8, "big")
    write_crc(sent, 0, len(sent))
    assert worker.produce_bytes(topic, 0, bytes(sent)).error_code == 0
    with RawClient(broker.server) as native:
        (stored,) = iter_batches(native.fetch(topic)[1])
        assert read_header(stored).max_timestamp == read_header(stored).base_timestamp <= now


def test_validation_is_a_setting_of_the_broker_too(topic: str) -> None:
    options = {"record.validation": "records"}
    with (
        Broker(workers=1, listeners="PLAINTEXT://127.0.0.1:0", settings=options) as running,
        KafkaClient(running, 1) as client,
    ):
        client.create(topic)
        for sent in deep(0).values():
            assert client.produce_bytes(topic, 0, sent).error_code == INVALID_RECORD


def test_one_batch_for_a_partition(worker: KafkaClient, broker: Broker, topic: str) -> None:
    """As Kafka 4 has it; a native client's request may bring several."""
    worker.create(topic)
    two = batch(b"one") + batch(b"two")
    for version in (3, 7, 9, 11):
        answer = worker.produce_bytes(topic, 0, two, version=version)
        assert (answer.error_code, answer.base_offset) == (INVALID_RECORD, -1)
        if version >= 8:
            assert "exactly one record batch" in answer.error_message
    for _ in range(3):  # those that come together are appended together, if they may be
        worker.send_bytes(topic, 0, batch(b"good"))
        worker.send_bytes(topic, 0, two)
    codes = [worker.receive().responses[0].partition_responses[0].error_code for _ in range(6)]
    assert codes == [0, INVALID_RECORD] * 3
    with RawClient(broker.server) as native:
        answer = native.produce(topic, two)
        assert (answer.base_offset, answer.next_offset) == (3, 5)
        with pytest.raises(RecordListTooLarge):
            native.produce(topic, batch(b"x") * 257)


def test_header_fields_that_cannot_be(worker: KafkaClient, topic: str) -> None:
    worker.create(topic)
    for position, field in ((23, (1).to_bytes(4, "big")), (57, (2).to_bytes(4, "big"))):
        sent = bytearray(batch(b"x"))
        sent[position : position + 4] = field
        write_crc(sent, 0, len(sent))
        assert worker.produce_bytes(topic, 0, bytes(sent)).error_code == INVALID_RECORD
