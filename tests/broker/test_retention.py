"""Retention while somebody reads: what is due goes, nobody is disturbed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from kbroker import Admin, Consumer, Producer, TopicPartition
from kbroker.errors import OffsetOutOfRange
from kbroker.records.codec import decode_list, iter_batches
from kbroker.testing import Broker
from kbroker.wire import codec
from kbroker.wire import messages as m

from ..log.batches import batch as log_batch
from .raw_client import RawClient, batch

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """A broker that looks at retention all the time."""
    with Broker({"log.retention.check.interval.ms": "20", "log.segment.delete.delay.ms": "1"}) as running:
        yield running


def start_offset(client: RawClient, topic: str) -> int:
    return client.ask(m.OffsetsAnswer, m.ListOffsets([m.OffsetQuery(topic, 0, -2)])).partitions[0].offset


def test_by_size_with_a_live_reader(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic, segment_bytes=str(MIB), retention_bytes=str(3 * MIB))
    seen: list[int] = []
    for number in range(40):
        client.produce(topic, batch([bytes([number]) * 400_000]), acks=1)
        header, *payload = client.fetch(topic, len(seen), max_wait_ms=10_000)
        assert codec.decode_answer(m.FetchAnswer, header).partitions[0].error == 0
        seen += [record[0] for one in iter_batches(payload[0]) for record in decode_list(one)]
    assert seen == list(range(40))
    broker.wait_until(lambda: start_offset(client, topic) > 20)
    header = client.fetch(topic, 0)[0]
    part = codec.decode_answer(m.FetchAnswer, header).partitions[0]
    assert (part.error, part.log_start_offset) == (OffsetOutOfRange.code, start_offset(client, topic))
    kept = client.records(topic) if not start_offset(client, topic) else []
    assert kept == []
    folder = broker.data_dir / f"{topic}-0"
    broker.wait_until(lambda: sum(path.stat().st_size for path in folder.glob("*.log*")) <= 5 * MIB)


def test_by_age_also_of_the_segment_that_is_written_to(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic, retention_ms="3600000")
    two_hours_ago = time.time_ns() // 1_000_000 - 7_200_000
    client.produce(topic, bytes(log_batch(5, timestamp_ms=two_hours_ago)))
    broker.wait_until(lambda: start_offset(client, topic) == 5)
    assert client.produce(topic, batch(2)).base_offset == 5
    assert len(client.take(client.send(m.Fetch([m.FetchPartition(topic, 0, 5)])))) == 2
    broker.kill_and_wait("worker-0")
    assert start_offset(client, topic) == 5
    folder = broker.data_dir / f"{topic}-0"
    broker.wait_until(lambda: not list(folder.glob("*.deleted")))


def test_altered_retention_takes_effect(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic, retention_ms="-1")
    client.produce(topic, bytes(log_batch(5, timestamp_ms=1_000)))
    client.produce(topic, batch(1))
    assert start_offset(client, topic) == 0
    client.ask(m.TopicResults, m.AlterSettings(topic, {"retention.ms": "1", "segment.ms": "1"}))
    broker.wait_until(lambda: start_offset(client, topic) == 6)


def test_right_after_a_start_old_records_are_still_there() -> None:
    with Broker() as broker:
        with Admin(broker.server) as admin, Producer(broker.server) as producer:
            admin.create_topic("old", 1)
            admin.create_topic("other", 1, **{"segment.bytes": str(MIB), "file.delete.delay.ms": "0"})
            producer.send("old", b"v", timestamp_ms=1_000)
            for _ in range(3):
                producer.send("other", b"x" * 600_000)
            producer.flush()
            broker.kill_and_wait("worker-0")
            admin.delete_records({TopicPartition("other", 0): 2})
        # What unlinks these files in the background looks at retention before, when it is time for that.
        broker.wait_until(lambda: len(list((broker.data_dir / "other-0").glob("*.log*"))) == 1)
        with Consumer("old", server=broker.server, auto_offset_reset="earliest") as consumer:
            assert next(iter(consumer)).offset == 0
