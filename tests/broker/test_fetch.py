"""Fetch and list_offsets: parking, bounds, several partitions, what is told when a place is not there."""

from __future__ import annotations

from typing import Any

import pytest

from kbroker.errors import InvalidRequest, OffsetOutOfRange, UnknownTopicId, UnknownTopicOrPartition
from kbroker.records.batch import read_header
from kbroker.records.codec import iter_batches
from kbroker.testing import Broker
from kbroker.wire import codec
from kbroker.wire import messages as m

from .raw_client import RawClient, batch, owner_of

LONG_MS = 60_000


def fetched(frames: list[bytes]) -> tuple[m.FetchAnswer, list[bytes]]:
    return codec.decode_answer(m.FetchAnswer, frames[0]), frames[1:]


def test_a_parked_fetch_is_woken_by_an_append(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic)
    parked = client.send(m.Fetch([m.FetchPartition(topic, 0, 0)], max_wait_ms=LONG_MS))
    with RawClient(broker.server) as other:
        other.produce(topic, batch(3))
    answer, payload = fetched(client.take(parked))
    assert answer.partitions[0].high_watermark == 3
    assert read_header(payload[0]).record_count == 3


def test_min_bytes_waits_for_more(client: RawClient, topic: str) -> None:
    client.create(topic)
    one = batch([bytes(1000)])
    parked = client.send(m.Fetch([m.FetchPartition(topic, 0, 0)], max_wait_ms=LONG_MS, min_bytes=2 * len(one)))
    client.produce(topic, one)
    assert parked not in client.early
    client.produce(topic, one)
    assert len(fetched(client.take(parked))[1][0]) == 2 * len(one)


@pytest.mark.parametrize(
    ("bounds", "of_partition"),
    [
        ({"min_bytes": 2 << 20, "max_bytes": 100_000}, 1 << 20),
        ({"min_bytes": 2 << 20}, 100_000),
        ({"min_bytes": 100_000, "max_bytes": 100_000}, 1 << 20),  # whole batches never fill it to the byte
    ],
)
def test_more_wanted_than_an_answer_may_hold_waits_for_nothing(
    client: RawClient, topic: str, bounds: dict[str, Any], of_partition: int
) -> None:
    client.create(topic)
    for _ in range(4):
        client.produce(topic, batch([bytes(40_000)]))
    place = m.FetchPartition(topic, 0, 0, max_bytes=of_partition)
    _, payload = fetched(client.take(client.send(m.Fetch([place], max_wait_ms=LONG_MS, **bounds))))
    assert len(payload[0]) > 80_000


def test_an_empty_answer_comes_when_the_time_is_up(client: RawClient, topic: str) -> None:
    client.create(topic)
    answer, payload = fetched(client.fetch(topic, max_wait_ms=1))
    assert payload == []
    assert (answer.partitions[0].error, answer.partitions[0].high_watermark) == (0, 0)


def test_the_first_batch_is_whole_whatever_the_bounds(client: RawClient, topic: str) -> None:
    client.create(topic)
    for _ in range(3):
        client.produce(topic, batch([bytes(10_000)]))
    for bounds in ({"max_bytes": 1}, {"max_bytes": 15_000}):
        place = m.FetchPartition(topic, 0, 1, max_bytes=bounds["max_bytes"])
        _, payload = fetched(client.take(client.send(m.Fetch([place]))))
        assert [read_header(one).base_offset for one in iter_batches(payload[0])] == [1]
        _, payload = fetched(client.fetch(topic, 1, **bounds))
        assert [read_header(one).base_offset for one in iter_batches(payload[0])] == [1]
    _, payload = fetched(client.fetch(topic, 0, max_bytes=25_000))
    assert [read_header(one).base_offset for one in iter_batches(payload[0])] == [0, 1]


def test_several_partitions_share_one_answer(client: RawClient, topic: str) -> None:
    client.create(topic, 4)
    mine = [index for index in range(4) if owner_of(client, topic, index) == owner_of(client, topic, 0)]
    assert len(mine) == 2
    for index in mine:
        client.produce(topic, batch([bytes(1000)]), partition=index)
    other = next(index for index in range(4) if index not in mine)
    places = [m.FetchPartition(topic, index, 0) for index in (mine[0], other, mine[1])]
    places += [m.FetchPartition(topic, 9, 0), m.FetchPartition(topic, mine[0], 99)]
    answer, payload = fetched(client.take(client.send(m.Fetch(places, max_wait_ms=LONG_MS, min_bytes=1 << 20))))
    assert [(part.error, part.frames) for part in answer.partitions] == [(0, 1), (6, 0), (0, 1), (3, 0), (1, 0)]
    assert "1" in answer.partitions[4].message
    assert len(payload) == 2
    answer, payload = fetched(client.take(client.send(m.Fetch(places[::2][:2], max_bytes=500))))
    assert [part.frames for part in answer.partitions] == [1, 0]


def test_places_that_are_not_there(client: RawClient, topic: str) -> None:
    client.create(topic)
    client.produce(topic, batch(3))
    for offset in (4, -1, 2**62):
        answer, payload = fetched(client.fetch(topic, offset, max_wait_ms=LONG_MS))
        part = answer.partitions[0]
        assert (part.error, payload) == (OffsetOutOfRange.code, [])
        assert (part.log_start_offset, part.high_watermark) == (0, 3)
    stale = m.FetchPartition(topic, 0, 0, topic_id=b"o" * 16)
    answer, _ = fetched(client.take(client.send(m.Fetch([stale], max_wait_ms=LONG_MS))))
    assert answer.partitions[0].error == UnknownTopicId.code


def test_a_reader_whose_records_are_gone_is_told_where_they_diverge(
    broker: Broker, client: RawClient, topic: str
) -> None:
    client.create(topic)
    client.produce(topic, batch(3))
    old_epoch = fetched(client.fetch(topic))[0].partitions[0].leader_epoch
    broker.kill_and_wait(f"worker-{owner_of(client, topic, 0)}")
    client.produce(topic, batch(3))
    epoch = fetched(client.fetch(topic))[0].partitions[0].leader_epoch
    assert epoch > old_epoch
    for offset, last_epoch, diverging in ((5, old_epoch, 3), (3, old_epoch, -1), (5, epoch, -1)):
        place = m.FetchPartition(topic, 0, offset, last_epoch=last_epoch)
        answer, payload = fetched(client.take(client.send(m.Fetch([place], max_wait_ms=LONG_MS))))
        assert answer.partitions[0].diverging_offset == diverging
        assert len(payload) == (diverging < 0)


def test_offsets_are_found_by_time(client: RawClient, topic: str) -> None:
    client.create(topic)
    client.produce(topic, batch([b"a", b"b", b"c"]))
    stamps = [record[1] for record in client.records(topic)]

    def find(timestamp_ms: int, name: str = topic, partition: int = 0) -> m.OffsetFound:
        return client.ask(m.OffsetsAnswer, m.ListOffsets([m.OffsetQuery(name, partition, timestamp_ms)])).partitions[0]

    assert (find(-2).offset, find(-1).offset) == (0, 3)
    assert (find(stamps[1]).offset, find(stamps[1]).timestamp_ms) == (1, stamps[1])
    assert find(stamps[0] - 1000).offset == 0
    assert find(stamps[2] + 1).offset == -1
    assert find(-7).error == InvalidRequest.code
    with pytest.raises(UnknownTopicOrPartition):
        find(-1, "nobody")
    assert find(2**63 - 1).offset == -1


def test_times_that_no_clock_has_are_bounded(topic: str) -> None:
    huge = 2**63 - 1
    # A broker of its own: a timer that another test has left would hide what these do to the loops.
    with Broker() as broker, RawClient(broker.server) as client:
        pids = {name: process["pid"] for name, process in broker.processes().items()}
        created = client.ask(m.TopicResults, m.CreateTopics([m.NewTopic(topic)], timeout_ms=huge))
        assert created.topics[0].error == 0
        assert client.ask(m.ProduceAnswer, m.Produce(topic, 0, timeout_ms=huge), batch(1)).base_offset == 0
        places = [m.FetchPartition(topic, 0, 1)]
        parked = client.send(m.Fetch(places, max_wait_ms=huge, max_bytes=huge, min_bytes=huge))
        client.produce(topic, batch(1), acks=1)
        client.ask(m.TopicResults, m.DeleteTopics([topic], timeout_ms=-huge))
        answer, _ = fetched(client.take(parked))
        assert answer.partitions[0].error == UnknownTopicOrPartition.code
        assert {name: process["pid"] for name, process in broker.processes().items()} == pids


def test_reading_across_many_segments(client: RawClient, topic: str) -> None:
    client.create(topic, segment_bytes=str(1 << 20))
    values = [bytes([number]) * 300_000 for number in range(30)]
    for value in values:
        client.produce(topic, batch([value]), acks=1)
    assert [record[4] for record in client.records(topic)] == values
    _, payload = fetched(client.fetch(topic, 17))
    assert read_header(payload[0]).base_offset == 17
