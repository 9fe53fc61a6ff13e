"""Records that cannot be read: one error that names the place, behind what came before, and a way past it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kbroker import ConfigError, Consumer, CorruptRecord, DeserializationError, Producer, TopicPartition, aio
from kbroker.clients.consumer_core import Cursor
from kbroker.clients.skips import Skips
from kbroker.records.batch import HEADER_BYTES, LENGTH_END, read_header, write_crc
from kbroker.testing import Broker
from tests.clients.conftest import make_topic
from tests.clients.test_consumer_core import make_batch

PATIENCE_MS = 20_000
IDLE_MS = 150
"""When nothing came for so long, all was read: it lies there before the consumer begins."""
VALUES: list[bytes | None] = [b"0", b"not json", b"2", None, b"also not", b"5"]


@pytest.fixture(params=["shm", "zmq"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fill(broker: Broker, topic: str, values: list[bytes | None], per_batch: int = 3) -> None:
    """Batches of so many records, in partition 0."""
    with Producer(broker.server, linger_ms=3_600_000) as producer:
        for start in range(0, len(values), per_batch):
            for value in values[start : start + per_batch]:
                producer.send(topic, value, partition=0)
            producer.flush()


def damage(broker: Broker, topic: str, offset: int, change: Callable[[bytearray], object]) -> None:
    """Let `change` loose on the batch that has `offset`, in the file that readers read."""
    path = Path(broker.data_dir) / f"{topic}-0" / f"{0:020}.log"
    with open(path, "r+b") as file:
        data = file.read()
        start = 0
        while (header := read_header(data, start)).next_offset <= offset:
            start += header.size_bytes
        batch = bytearray(data[start : start + header.size_bytes])
        change(batch)
        os.pwrite(file.fileno(), batch, start)


def flip(batch: bytearray) -> None:
    batch[-3] ^= 1


def poisoned(batch: bytearray) -> None:
    """A sound CRC around a last record that says another length."""
    at = HEADER_BYTES
    for _ in range(read_header(batch).record_count - 1):
        at += 1 + (batch[at] >> 1)
    batch[at] ^= 0x20
    write_crc(batch, 0, len(batch))


def inflated(batch: bytearray) -> None:
    """It claims to reach far beyond the end of the log."""
    batch[23:27] = struct.pack(">i", 1 << 20)


def everything(consumer: Consumer, how: str) -> list[Any]:
    """Values until nothing comes any more, and errors as they come; each is sought past."""
    found: list[Any] = []
    while True:
        try:
            if how == "iteration":
                for record in consumer:
                    found.append(record.value)
                return found
            if how == "batches":
                batches = consumer.poll_batches(IDLE_MS)
                if not batches:
                    return found
                for batch in batches:
                    try:
                        for record in batch:
                            found.append(record.value)
                    except CorruptRecord as error:
                        found.append((error.offset, error.next_offset))
                continue
            polled = consumer.poll(IDLE_MS)
            if not polled:
                return found
            found += [record.value for records in polled.values() for record in records]
        except CorruptRecord as error:
            # Where the consumer stands: at the place that is named.
            found.append((consumer.position(error.topic_partition), error.next_offset))
            consumer.seek(error.topic_partition, error.next_offset)
        except DeserializationError as error:
            found.append((consumer.position(error.topic_partition), error.origin))
            consumer.seek(error.topic_partition, error.offset + 1)


def reader(broker: Broker, topic: str, way: str, **options: Any) -> Consumer:
    options = {"auto_offset_reset": "earliest", "consumer_timeout_ms": IDLE_MS, "transport": way, **options}
    return Consumer(topic, server=broker.server, **options)


class TestDeserialization:
    @pytest.mark.parametrize("how", ["poll", "iteration"])
    def test_the_record_is_named_and_the_others_come(self, broker: Broker, topic: str, way: str, how: str) -> None:
        fill(broker, topic, VALUES)
        with reader(broker, topic, way, value_deserializer=json.loads) as consumer:
            assert everything(consumer, how) == [0, (1, "value"), 2, None, (4, "value"), 5]

    def test_again_until_it_is_sought_past(self, broker: Broker, topic: str, way: str) -> None:
        place = TopicPartition(topic, 0)
        fill(broker, topic, VALUES)
        with reader(broker, topic, way, value_deserializer=json.loads) as consumer:
            ((first,),) = consumer.poll(PATIENCE_MS).values()
            assert first.value == 0
            for _ in range(3):
                with pytest.raises(DeserializationError, match=f"{topic}-0, offset 1: value_deserializer") as raised:
                    consumer.poll(PATIENCE_MS)
            error = raised.value
            assert (error.topic, error.partition, error.topic_partition, error.offset) == (topic, 0, place, 1)
            assert (error.origin, error.value, error.key) == ("value", b"not json", None)
            assert isinstance(error.cause, json.JSONDecodeError)
            assert error.__cause__ is error.cause

    def test_skipped(self, broker: Broker, topic: str, way: str, caplog: pytest.LogCaptureFixture) -> None:
        fill(broker, topic, VALUES)
        with (
            caplog.at_level(logging.WARNING, "kbroker"),
            reader(broker, topic, way, value_deserializer=json.loads, on_deserialization_error="skip") as consumer,
        ):
            assert everything(consumer, "poll") == [0, 2, None, 5]
            assert consumer.position(TopicPartition(topic, 0)) == 6
        assert f"{topic}-0: offset 1 skipped: value_deserializer raised JSONDecodeError" in caplog.text
        assert len(caplog.records) == 2  # the other one is counted at the end

    def test_of_keys(self, broker: Broker, topic: str, way: str) -> None:
        with Producer(broker.server) as producer:
            producer.send(topic, b"v", b"k").get(20)
        with (
            reader(broker, topic, way, key_deserializer=int) as consumer,
            pytest.raises(DeserializationError, match="offset 0: key_deserializer raised ValueError"),
        ):
            consumer.poll(PATIENCE_MS)


class TestCorruption:
    @pytest.mark.parametrize("how", ["poll", "iteration", "batches"])
    @pytest.mark.parametrize("change", [flip, poisoned, inflated])
    def test_the_offsets_are_named_and_the_others_come(
        self, broker: Broker, topic: str, way: str, how: str, change: Callable[[bytearray], object]
    ) -> None:
        fill(broker, topic, [b"%d" % number for number in range(9)])
        damage(broker, topic, 3, change)
        sound = [b"0", b"1", b"2"]
        hurt: list[Any] = [b"3", b"4", (5, 6)] if change is poisoned else [(3, 6)]
        with reader(broker, topic, way) as consumer:
            assert everything(consumer, how) == [*sound, *hurt, b"6", b"7", b"8"]

    @pytest.mark.parametrize("how", ["poll", "iteration", "batches"])
    @pytest.mark.parametrize("change", [flip, poisoned, inflated])
    def test_skipped(
        self,
        broker: Broker,
        topic: str,
        way: str,
        how: str,
        change: Callable[[bytearray], object],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fill(broker, topic, [b"%d" % number for number in range(9)])
        damage(broker, topic, 3, change)
        with (
            caplog.at_level(logging.WARNING, "kbroker"),
            reader(broker, topic, way, on_corrupt="skip") as consumer,
        ):
            kept = [b"3", b"4"] if change is poisoned else []
            assert everything(consumer, how) == [b"0", b"1", b"2", *kept, b"6", b"7", b"8"]
            assert consumer.position(TopicPartition(topic, 0)) == 9
        offsets = "offset 5" if change is poisoned else "offsets 3 to 5"
        assert f"{topic}-0: {offsets} skipped: corrupt: " in caplog.text

    def test_the_last_batch_does_not_lead_astray(self, broker: Broker, topic: str, way: str) -> None:
        fill(broker, topic, [b"0", b"1"], per_batch=1)
        damage(broker, topic, 1, inflated)
        with reader(broker, topic, way, on_corrupt="skip") as consumer:
            assert everything(consumer, "poll") == [b"0"]
            assert consumer.position(TopicPartition(topic, 0)) == 2
            fill(broker, topic, [b"2"])
            assert everything(consumer, "poll") == [b"2"]

    def test_the_message(self, broker: Broker, topic: str, way: str) -> None:
        fill(broker, topic, [b"0", b"1", b"2"])
        damage(broker, topic, 0, flip)
        words = (
            f"{topic}-0: offsets 0 to 2 are corrupt: .* wrong CRC; seek to 3 to go on behind, or read with on_corrupt"
        )
        with reader(broker, topic, way) as consumer, pytest.raises(CorruptRecord, match=words) as raised:
            consumer.poll(PATIENCE_MS)
        error = raised.value
        assert (error.topic, error.partition, error.offset, error.next_offset) == (topic, 0, 0, 3)


def test_with_asyncio(broker: Broker) -> None:
    topic = make_topic(broker, 1)
    fill(broker, topic, [*VALUES[:2], b"2", b"3", b"4", b"5"])
    damage(broker, topic, 3, flip)

    async def main() -> None:
        options: dict[str, Any] = {"server": broker.server, "auto_offset_reset": "earliest"}
        options |= {"value_deserializer": json.loads, "consumer_timeout_ms": IDLE_MS}
        async with aio.Consumer(topic, **options) as consumer:
            records = aiter(consumer)
            assert (await anext(records)).value == 0
            with pytest.raises(DeserializationError, match="offset 1"):
                await anext(records)
            consumer.seek(TopicPartition(topic, 0), 2)
            ((record,),) = (await consumer.poll(PATIENCE_MS)).values()
            assert record.value == 2
            with pytest.raises(CorruptRecord, match="offsets 3 to 5"):
                await consumer.poll(PATIENCE_MS)
        skipping: dict[str, Any] = {"on_corrupt": "skip", "on_deserialization_error": "skip"}
        async with aio.Consumer(topic, **options, **skipping) as consumer:
            assert [record.value async for record in consumer] == [0, 2]

    asyncio.run(main())


@pytest.mark.parametrize("name", ["on_corrupt", "on_deserialization_error"])
def test_what_they_may_be(name: str) -> None:
    wrong: Any = {name: "ignore"}
    with pytest.raises(ConfigError, match=f"{name}='ignore' is not valid: it must be one of raise, skip"):
        Consumer(**wrong)


class TestHeaders:
    """What no CRC covers, or what a wrong one hides: no batch is passed over in silence."""

    def read(self, cursor: Cursor, data: bytes) -> list[Any]:
        cursor.move(0)
        cursor.put(data, True)
        found: list[Any] = []
        while True:
            try:
                if not cursor.decode(100):
                    return found
            except CorruptRecord as error:
                found.append((error.offset, error.next_offset))
                cursor.position = error.next_offset
                cursor.batches.popleft()
                continue
            found += [record.offset for record in cursor.take(100)]

    def test_any_flipped_bit(self) -> None:
        for byte in range(HEADER_BYTES):
            for bit in range(8):
                self.check(byte, 1 << bit)

    def check(self, byte: int, mask: int) -> None:
        batches = [bytearray(make_batch(base, 3)) for base in (0, 3, 6)]
        batches[1][byte] ^= mask
        cursor = Cursor(TopicPartition("t", 0), Skips(lambda: 0))
        found = self.read(cursor, b"".join(batches))
        offsets = [one for one in found if isinstance(one, int)]
        is_told = len(offsets) < len(found) or cursor.fault is not None
        where = (byte, mask, found)
        if 12 <= byte < 16:
            assert found == list(range(9)), where  # the leader epoch: nothing is lost
        elif 8 <= byte < LENGTH_END and not is_told:
            assert found == [0, 1, 2], where  # a length beyond the end is half a batch, as in Kafka: fetched again
        else:
            assert is_told, where
            assert offsets[:3] == [0, 1, 2], where
            if byte >= LENGTH_END:
                assert offsets[3:] == [6, 7, 8], where
