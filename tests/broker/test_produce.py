"""Produce: what is taken, what is refused and by which name, through the front and by a worker's own door."""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgpack
import pytest
from crc32c import crc32c

from kbroker.errors import (
    CorruptMessage,
    InvalidProducerEpoch,
    InvalidRecord,
    InvalidRequest,
    MessageTooLarge,
    NotLeaderOrFollower,
    OutOfOrderSequence,
    UnknownTopicId,
    UnknownTopicOrPartition,
    UnsupportedCompressionType,
    UnsupportedForMessageFormat,
)
from kbroker.testing import Broker
from kbroker.wire import codec
from kbroker.wire import messages as m

from .raw_client import RawClient, batch, direct, owner_of


def changed(position: int, data: bytes, *, sealed: bool = True) -> bytes:
    """A batch with other bytes at `position`; `sealed`: with a CRC that fits."""
    broken = bytearray(batch(3))
    broken[position : position + len(data)] = data
    if sealed:
        broken[17:21] = struct.pack(">I", crc32c(broken[21:]))
    return bytes(broken)


BAD = {
    "empty": (b"", CorruptMessage, "empty"),
    "garbage": (b"GET / HTTP/1.1\r\n" * 10, CorruptMessage, "message format"),
    "short": (batch(1)[:40], CorruptMessage, "header alone"),
    "truncated": (batch(3)[:-1], CorruptMessage, "half a batch"),
    "truncated-behind-a-good-one": (batch(3) + batch(3)[:70], CorruptMessage, "half a batch"),
    "crc": (changed(70, b"\xff\xff", sealed=False), CorruptMessage, "CRC"),
    "negative-length": (changed(8, struct.pack(">i", -1)), CorruptMessage, "length"),
    "small-length": (changed(8, struct.pack(">i", 10)), CorruptMessage, "length"),
    "huge-length": (changed(8, struct.pack(">i", 2**31 - 1)), MessageTooLarge, r"message\.max\.bytes"),
    "longer-than-it-is": (changed(8, struct.pack(">i", 5000)), CorruptMessage, "half a batch"),
    "record-count": (changed(57, struct.pack(">i", 2)), InvalidRecord, "says 2 records"),
    "negative-record-count": (changed(57, struct.pack(">i", -3)), InvalidRecord, "says -3 records"),
    "offset-delta": (changed(23, struct.pack(">i", 2**31 - 1)), InvalidRecord, "delta"),
    "magic-0": (changed(16, b"\x00"), UnsupportedForMessageFormat, "message format 0"),
    "magic-1": (changed(16, b"\x01"), UnsupportedForMessageFormat, "message format 1"),
    "magic-9": (changed(16, b"\x09"), CorruptMessage, "message format 9"),
    "compression": (changed(21, struct.pack(">h", 5)), UnsupportedCompressionType, "5"),
    "control-batch": (changed(21, struct.pack(">h", 0x20)), InvalidRecord, "control"),
    "transaction": (changed(21, struct.pack(">h", 0x10)), InvalidRecord, "transaction"),
    "producer-without-sequence": (changed(43, struct.pack(">q", 7)), InvalidRecord, "producer"),
    "over-message-max-bytes": (batch([bytes(1_100_000)]), MessageTooLarge, r"message\.max\.bytes"),
}


@pytest.fixture(scope="module")
def taken(broker: Broker) -> str:
    """A topic that has three records and shall not get any more."""
    with RawClient(broker.server) as client:
        client.create("bad-batches")
        client.produce("bad-batches", batch(3))
    return "bad-batches"


@pytest.mark.parametrize("name", BAD)
def test_a_bad_batch_is_named_and_nothing_is_appended(broker: Broker, client: RawClient, taken: str, name: str) -> None:
    data, error, words = BAD[name]
    pids = {name: process["pid"] for name, process in broker.processes().items()}
    for acks in (-1, 1, 0):
        with pytest.raises(error, match=words):
            client.ask(m.ProduceAnswer, m.Produce(taken, 0, acks), data)
    assert len(client.records(taken)) == 3
    assert {name: process["pid"] for name, process in broker.processes().items()} == pids


@pytest.mark.parametrize("acks", [-1, 0, 1])
def test_each_acks_is_answered_with_the_offsets(client: RawClient, topic: str, acks: int) -> None:
    client.create(topic)
    assert client.produce(topic, batch(3), acks=acks).base_offset == 0
    answer = client.produce(topic, batch(2), acks=acks)
    assert (answer.base_offset, answer.next_offset, answer.log_start_offset) == (3, 5, 0)
    assert [record[0] for record in client.records(topic)] == list(range(5))


def test_several_frames_of_several_batches_are_one_append(client: RawClient, topic: str) -> None:
    client.create(topic)
    answer = client.ask(m.ProduceAnswer, m.Produce(topic, 0), batch([b"a"]) + batch([b"b"]), batch([b"c", b"d"]))
    assert (answer.base_offset, answer.next_offset) == (0, 4)
    assert [record[4] for record in client.records(topic)] == [b"a", b"b", b"c", b"d"]


def test_one_bad_batch_among_good_ones_spoils_all(client: RawClient, topic: str) -> None:
    client.create(topic)
    with pytest.raises(CorruptMessage):
        client.ask(m.ProduceAnswer, m.Produce(topic, 0), batch(1), changed(70, b"\0\0\0", sealed=False))
    assert client.records(topic) == []


@pytest.mark.parametrize(
    ("request_", "frames", "error", "words"),
    [
        (m.Produce("t", 0, acks=2), 1, InvalidRequest, r"produce\.acks must be"),
        (m.Produce("t", 0), 0, InvalidRequest, "no payload"),
        (m.Produce("t", 0), 257, MessageTooLarge, r"native\.frames\.max"),
        (m.Produce("t", 0, topic_id=b"x" * 16), 1, UnknownTopicId, "made anew"),
    ],
)
def test_a_wrong_request_is_named(
    client: RawClient, topic: str, request_: m.Produce, frames: int, error: type[Exception], words: str
) -> None:
    client.create(topic)
    request_.topic = topic
    with pytest.raises(error, match=words):
        client.ask(m.ProduceAnswer, request_, *[batch(1)] * frames)
    assert client.records(topic) == []


def test_the_wrong_worker_says_whose_it_is(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic, 2)
    owner = owner_of(client, topic, 0)
    with RawClient(direct(broker, 1 - owner)) as wrong, RawClient(direct(broker, owner)) as right:
        with pytest.raises(NotLeaderOrFollower, match=f"belongs to worker {owner}"):
            wrong.ask(m.ProduceAnswer, m.Produce(topic, 0), batch(1))
        found = wrong.ask(m.OffsetsAnswer, m.ListOffsets([m.OffsetQuery(topic, 0, -1)])).partitions[0]
        assert found.error == NotLeaderOrFollower.code
        assert right.ask(m.ProduceAnswer, m.Produce(topic, 0), batch(1)).base_offset == 0


@pytest.mark.parametrize("request_", [m.Metadata(), m.InitProducerId(), m.CreateTopics([]), m.DeleteTopics([])])
def test_what_the_coordinator_answers_a_worker_refuses(broker: Broker, request_: object) -> None:
    with RawClient(direct(broker)) as at_worker, pytest.raises(InvalidRequest, match="goes to the coordinator"):
        at_worker.ask(m.MetadataAnswer, request_)


def test_a_topics_own_limit_holds_and_can_be_raised(client: RawClient, topic: str) -> None:
    client.create(topic, max_message_bytes="1000")
    with pytest.raises(MessageTooLarge, match="allows 1000"):
        client.ask(m.ProduceAnswer, m.Produce(topic, 0), batch([bytes(2000)]))
    client.ask(m.TopicResults, m.AlterSettings(topic, {"max.message.bytes": "3000"}))
    assert client.produce(topic, batch([bytes(2000)])).base_offset == 0


def test_frames_that_are_too_much_together(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic)
    owner = owner_of(client, topic, 0)
    with RawClient(direct(broker, owner)) as door, pytest.raises(MessageTooLarge, match=r"native\.frame\.bytes\.max"):
        door.ask(m.ProduceAnswer, m.Produce(topic, 0), *[batch([bytes(900_000)])] * 40)
    assert client.records(topic) == []


def test_producers_that_wait_for_the_disk_are_told_of_the_deletion(
    broker: Broker, client: RawClient, topic: str
) -> None:
    client.create(topic)
    with RawClient(direct(broker, owner_of(client, topic, 0))) as door:
        for _ in range(5):
            sent = [door.send(m.Produce(topic, 0), batch(1)) for _ in range(100)]
            deletion = client.send(m.DeleteTopics([topic]))
            answers = [msgpack.unpackb(door.take(request_id)[0])["error"] for request_id in sent]
            assert set(answers) <= {0, UnknownTopicOrPartition.code}
            assert answers == sorted(answers)
            assert codec.decode_answer(m.TopicResults, client.take(deletion)[0]).topics[0].error == 0
            client.create(topic)
            assert door.ask(m.ProduceAnswer, m.Produce(topic, 0), batch(1)).base_offset == 0


# --- idempotent producers ---


@pytest.fixture
def next_batch(client: RawClient) -> Callable[..., bytes]:
    """Batches of a producer whose id nobody else has."""
    producer_id = client.ask(m.ProducerIdAnswer, m.InitProducerId()).producer_id

    def make(sequence: int, count: int = 2, epoch: int = 0) -> bytes:
        return batch(count, producer_id=producer_id, producer_epoch=epoch, sequence=sequence)

    return make


@pytest.mark.parametrize("acks", [-1, 1])
def test_a_repeated_batch_is_answered_with_its_first_offsets(
    broker: Broker, client: RawClient, topic: str, next_batch: Callable[..., bytes], acks: int
) -> None:
    client.create(topic)
    first, second = next_batch(0), next_batch(2)
    client.produce(topic, batch(5))
    assert client.produce(topic, first, acks=acks).base_offset == 5
    assert client.produce(topic, second, acks=acks).base_offset == 7
    again = client.produce(topic, first)
    assert (again.base_offset, again.next_offset) == (5, 7)
    broker.kill_and_wait(f"worker-{owner_of(client, topic, 0)}")
    assert client.produce(topic, first, acks=acks).base_offset == 5
    assert client.produce(topic, second, acks=acks).base_offset == 7
    assert client.produce(topic, next_batch(4), acks=acks).base_offset == 9
    assert len(client.records(topic)) == 11


def test_sequences_out_of_order_have_kafkas_codes(
    client: RawClient, topic: str, next_batch: Callable[..., bytes]
) -> None:
    client.create(topic)
    client.produce(topic, next_batch(0))
    with pytest.raises(OutOfOrderSequence, match="2 is expected"):
        client.ask(m.ProduceAnswer, m.Produce(topic, 0), next_batch(4))
    client.produce(topic, next_batch(0, epoch=1))
    with pytest.raises(InvalidProducerEpoch, match="comes too late"):
        client.ask(m.ProduceAnswer, m.Produce(topic, 0), next_batch(2))
    assert len(client.records(topic)) == 4


def test_a_wrong_sequence_is_refused_at_once_while_others_wait_for_the_disk(
    client: RawClient, topic: str, next_batch: Callable[..., bytes]
) -> None:
    client.create(topic)
    sent = [client.send(m.Produce(topic, 0), next_batch(sequence)) for sequence in (0, 2, 6, 4, 6)]
    results = []
    for request_id in sent:
        try:
            results.append(codec.decode_answer(m.ProduceAnswer, client.take(request_id)[0]).base_offset)
        except OutOfOrderSequence:
            results.append(-1)
    assert results == [0, 2, -1, 4, 6]
