"""What one client writes every client reads, byte for byte; the native one through shared memory."""

from __future__ import annotations

import threading
import time

import pytest

from kbroker.testing import Broker

from .clients import CLIENTS, KAFKA_CLIENTS, Client, Record, create_topic

pytestmark = pytest.mark.slow

LARGEST_BYTES = 10 << 20
BATCH_OVERHEAD_BYTES = 74
"""Of a batch with one record of some MiB and no key: 61 for the batch, 13 for the record."""


def named(client: Client) -> str:
    return client.name


def odd_records() -> list[Record]:
    """Every kind of record; timestamps of the last minute, for retention would take what is old."""
    start_ms = time.time_ns() // 1_000_000 - 60_000
    every_byte = bytes(range(256))
    records = [
        Record(b"key", b"value"),
        Record(None, b"no key"),
        Record(b"no value", None),
        Record(b"", b""),
        Record(every_byte, every_byte * 3),
        Record(
            b"k",
            b"v",
            (("one", b"1"), ("one", b"twice"), ("empty", b""), ("\u00fcml\u00e4ut", b"\xff\0")),
        ),
        Record(b"k", b"x"),
        *(Record(b"size", b"abcdefg " * (size // 8)) for size in (100, 10_000, 65_536, 900_000)),
        *(Record(b"%d" % i, b"%d" % (i * i)) for i in range(200)),
    ]
    return [record._replace(timestamp_ms=start_ms + 7 * i) for i, record in enumerate(records)]


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("writer", CLIENTS, ids=named)
def test_every_reader_gets_what_was_written(broker: Broker, topic: str, writer: Client, compression: str) -> None:
    create_topic(broker, topic)
    sent = odd_records()
    if writer.takes_nulls:
        sent.append(Record(None, None, (("nothing", None),), sent[-1].timestamp_ms + 1))
    writer.write(broker, topic, sent, **writer.compressed(compression))
    for reader in CLIENTS:
        assert reader.read(broker, topic, len(sent)) == sent, reader.name


@pytest.mark.parametrize("client", KAFKA_CLIENTS, ids=named)
def test_ten_mebibytes_and_one_byte_more(broker: Broker, topic: str, client: Client) -> None:
    create_topic(broker, topic, max_message_bytes=LARGEST_BYTES + BATCH_OVERHEAD_BYTES)
    raised = client.large(2 * LARGEST_BYTES)
    sent = Record(None, b"x" * LARGEST_BYTES, timestamp_ms=time.time_ns() // 1_000_000)
    client.write(broker, topic, [sent], **raised)
    for reader in CLIENTS:
        assert reader.read(broker, topic, 1) == [sent], reader.name
    error, word = client.too_large
    with pytest.raises(error, match=word or None):
        client.write(broker, topic, [sent._replace(value=b"x" * (LARGEST_BYTES + 1))], **raised)


@pytest.mark.parametrize("client", KAFKA_CLIENTS, ids=named)
def test_offsets_by_time(broker: Broker, topic: str, client: Client) -> None:
    create_topic(broker, topic)
    start_ms = time.time_ns() // 1_000_000 - 60_000
    client.write(broker, topic, [Record(None, b"%d" % i, timestamp_ms=start_ms + 10 * i) for i in range(20)])
    asked = {start_ms - 1: 0, start_ms: 0, start_ms + 1: 1, start_ms + 50: 5, start_ms + 190: 19, start_ms + 191: None}
    assert {at: client.offset_at(broker, topic, at) for at in asked} == asked


class Killer(threading.Thread):
    """In a context, kills the worker as soon as it has written some records of the topic."""

    def __init__(self, broker: Broker, topic: str) -> None:
        super().__init__()
        self.broker = broker
        self.log = broker.data_dir / f"{topic}-0" / "00000000000000000000.log"
        self.over = threading.Event()
        self.has_killed = False

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_error: object) -> None:
        self.over.set()
        self.join()
        assert self.has_killed, "all was over before the worker was killed"

    def run(self) -> None:
        while not self.over.wait(0.001):
            if self.log.exists() and self.log.stat().st_size > 2_000:
                self.broker.kill("worker-0")
                self.has_killed = True
                return


IDEMPOTENT = {
    "confluent-kafka": {"enable.idempotence": True, "batch.num.messages": 10},
    "kafka-python": {"enable_idempotence": True, "batch_size": 256},
    "aiokafka": {"enable_idempotence": True, "max_batch_size": 256},
}


@pytest.mark.parametrize("client", KAFKA_CLIENTS, ids=named)
def test_an_idempotent_producer_while_its_worker_dies(topic: str, client: Client) -> None:
    sent = [Record(None, b"%d" % i, timestamp_ms=time.time_ns() // 1_000_000) for i in range(3000)]
    with Broker(workers=1) as broker:
        create_topic(broker, topic)
        with Killer(broker, topic):
            client.write(broker, topic, sent, **IDEMPOTENT[client.name])
        assert CLIENTS[-1].read(broker, topic, len(sent)) == sent
