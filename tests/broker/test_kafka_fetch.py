"""Fetch, ListOffsets and who leads what, by raw frames on a running broker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker
from kbroker.workers.kafka_fetching import COLD_BYTES_MAX
from kbroker.workers.page_cache import PageCache
from tests.kafka.making import lists

from .kafka_client import KafkaClient, batch

pytestmark = pytest.mark.slow

TYPES = codec.request_types(ApiKey.FETCH)


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    settings = {"max.incremental.fetch.session.cache.slots": 20}
    with Broker(settings, workers=2, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


@pytest.fixture
def coordinator(broker: Broker) -> Iterator[KafkaClient]:
    with KafkaClient(broker, 0) as client:
        yield client


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "." for c in request.node.name).strip(".")


def fetch_request(
    topic: str | bytes,
    offsets: dict[int, int],
    *,
    session: tuple[int, int] = (0, -1),
    forgotten: tuple[int, ...] = (),
    wait_ms: int = 0,
    partition_max_bytes: int = 1 << 20,
    epoch: int = -1,
    **fields: Any,
) -> Any:
    named = {"topic_id": topic} if isinstance(topic, bytes) else {"topic": topic}
    partitions = [
        TYPES.FetchPartition(
            partition=index,
            fetch_offset=offset,
            partition_max_bytes=partition_max_bytes,
            current_leader_epoch=epoch,
        )
        for index, offset in offsets.items()
    ]
    return TYPES.FetchRequest(
        max_wait_ms=wait_ms,
        min_bytes=fields.pop("min_bytes", 1),
        max_bytes=fields.pop("max_bytes", 1 << 24),
        session_id=session[0],
        session_epoch=session[1],
        topics=[TYPES.FetchTopic(partitions=partitions, **named)] if partitions else [],
        forgotten_topics_data=[TYPES.ForgottenTopic(partitions=list(forgotten), **named)] if forgotten else [],
        **fields,
    )


def fetch(client: KafkaClient, topic: str | bytes, offsets: dict[int, int], version: int = 12, **rest: Any) -> Any:
    return client.ask(ApiKey.FETCH, version, fetch_request(topic, offsets, **rest))


def partitions(answer: Any) -> list[Any]:
    return [partition for topic in answer.responses for partition in topic.partitions]


def errors(answer: Any) -> dict[int, int]:
    return {item.partition_index: item.error_code for item in partitions(answer)}


@pytest.fixture
def owned(broker: Broker, coordinator: KafkaClient, topic: str) -> Iterator[tuple[KafkaClient, list[int], bytes]]:
    """A topic of 6 partitions: a client of the first one's leader, all that this node leads, the topic's id."""
    topic_id = coordinator.create(topic, 6)
    known = coordinator.metadata(topic)[topic].partitions
    node = known[0].leader_id
    with KafkaClient(broker, node) as client:
        yield client, [item.partition_index for item in known if item.leader_id == node], topic_id


Owned = tuple[KafkaClient, list[int], bytes]


@pytest.mark.parametrize("version", [7, 11, 12, 13, 16, 17])
def test_a_session(broker: Broker, owned: Owned, topic: str, version: int) -> None:
    client, (one, two, three), topic_id = owned
    named = topic_id if version >= 13 else topic
    client.produce(topic, one, b"a")
    first = fetch(client, named, {one: 0, two: 0, three: 0}, version, session=(0, 0))
    session = first.session_id
    assert session > 0
    assert errors(first) == {one: 0, two: 0, three: 0}
    assert [bool(item.records) for item in partitions(first)] == [True, False, False]
    assert partitions(fetch(client, named, {one: 1}, version, session=(session, 1))) == []
    client.produce(topic, two, b"b")
    second = fetch(client, named, {}, version, session=(session, 2))
    assert (second.session_id, errors(second)) == (session, {two: 0})
    # A long poll over all partitions of the session, of which the request names one.
    client.send(ApiKey.FETCH, version, fetch_request(named, {two: 1}, session=(session, 3), wait_ms=20_000))
    with KafkaClient(broker, client.node) as producer:
        producer.produce(topic, three, b"c")
    woken = client.receive()
    assert errors(woken) == {three: 0}
    assert bytes(partitions(woken)[0].records).endswith(b"c\0")
    last = fetch(client, named, {}, version, session=(session, 4), forgotten=(three,))
    assert errors(last) == {}
    assert fetch(client, named, {}, version, session=(session, 4)).error_code == 71
    assert fetch(client, named, {}, version, session=(session ^ 1, 5)).error_code == 70
    ended = fetch(client, named, {one: 0}, version, session=(session, -1))
    assert (ended.session_id, errors(ended)) == (0, {one: 0})
    assert fetch(client, named, {}, version, session=(session, 5)).error_code == 70


def test_slots_are_bounded(owned: Owned, topic: str) -> None:
    client, (one, *_), _ = owned
    given = [fetch(client, topic, {one: 0}, session=(0, 0)).session_id for _ in range(25)]
    assert sum(map(bool, given)) <= 20
    assert given[-1] == 0, "all slots are taken by young sessions: served all the same, without one"
    for session in filter(None, given):
        fetch(client, topic, {}, session=(session, -1))
    assert fetch(client, topic, {one: 0}, session=(0, 0)).session_id > 0


def test_a_topic_that_is_deleted_and_made_anew(broker: Broker, coordinator: KafkaClient, topic: str) -> None:
    old_id = coordinator.create(topic, 1)
    node = coordinator.metadata(topic)[topic].partitions[0].leader_id
    with KafkaClient(broker, node) as client:
        session = fetch(client, old_id, {0: 0}, 13, session=(0, 0)).session_id
        coordinator.delete(topic)
        assert errors(fetch(client, old_id, {}, 13, session=(session, 1))) == {0: 3}
        new_id = coordinator.create(topic, 2)
        known = coordinator.metadata(topic)[topic].partitions
        if known[0].leader_id == node:
            assert errors(fetch(client, old_id, {}, 13, session=(session, 2))) == {0: 103}
        assert errors(fetch(client, old_id, {0: 0}, 13)) == {0: 100}
        index = next(item.partition_index for item in known if item.leader_id == node)
        assert errors(fetch(client, new_id, {index: 0}, 13)) == {index: 0}


@pytest.mark.parametrize("node", [0, 1, 2])
def test_who_leads_is_told_to_who_asks_the_wrong_node(
    broker: Broker, coordinator: KafkaClient, topic: str, node: int
) -> None:
    topic_id = coordinator.create(topic, 4)
    known = {item.partition_index: item for item in coordinator.metadata(topic)[topic].partitions}
    with KafkaClient(broker, node) as client:
        # A new leader's epoch reaches the other nodes a moment after its first answer.
        broker.wait_until(lambda: lists(client.metadata(topic)[topic]) == lists(coordinator.metadata(topic)[topic]))
        for version, named in ((15, topic_id), (16, topic_id), (17, topic_id)):
            answer = fetch(client, named, dict.fromkeys(known, 0), version)
            for item in partitions(answer):
                leader = known[item.partition_index].leader_id
                assert item.error_code == (0 if leader == node else 6)
                if leader == node or version < 16:
                    assert item.current_leader is None
                else:
                    assert (item.current_leader.leader_id, item.current_leader.leader_epoch) == (
                        leader,
                        known[item.partition_index].leader_epoch,
                    )
            ports = {endpoint.node_id: (endpoint.host, endpoint.port) for endpoint in answer.node_endpoints}
            assert ports == ({} if version < 16 else nodes(coordinator, {1, 2} - {node}))
        types = codec.request_types(ApiKey.PRODUCE)
        for version in (9, 10, 13):
            data = [types.PartitionProduceData(index=index, records=batch(b"x")) for index in known]
            wanted = types.TopicProduceData(name=topic, topic_id=topic_id, partition_data=data)
            produced = client.ask(
                ApiKey.PRODUCE, version, types.ProduceRequest(acks=1, timeout_ms=9_000, topic_data=[wanted])
            )
            for item in produced.responses[0].partition_responses:
                leader = known[item.index].leader_id
                assert item.error_code == (0 if leader == node else 6)
                hint = item.current_leader
                assert (hint.leader_id if hint else -1) == (-1 if leader == node or version < 10 else leader)
            ports = {endpoint.node_id: (endpoint.host, endpoint.port) for endpoint in produced.node_endpoints}
            assert ports == ({} if version < 10 else nodes(coordinator, {1, 2} - {node}))


def nodes(client: KafkaClient, wanted: set[int]) -> dict[int, tuple[str, int]]:
    """Those nodes as Metadata tells of them."""
    types = codec.request_types(ApiKey.METADATA)
    answer = client.ask(ApiKey.METADATA, 12, types.MetadataRequest(topics=[]))
    return {node.node_id: (node.host, node.port) for node in answer.brokers if node.node_id in wanted}


def test_leader_epochs(owned: Owned, topic: str) -> None:
    client, (one, *_), topic_id = owned
    epoch = client.metadata(topic)[topic].partitions[one].leader_epoch
    assert errors(fetch(client, topic, {one: 0}, epoch=epoch)) == {one: 0}
    assert errors(fetch(client, topic, {one: 0}, epoch=epoch + 1)) == {one: 75}
    fenced = fetch(client, topic_id, {one: 0}, 16, epoch=epoch - 1)
    assert errors(fenced) == {one: 74}
    assert partitions(fenced)[0].current_leader.leader_id == client.node
    assert [endpoint.node_id for endpoint in fenced.node_endpoints] == [client.node]


def test_limits(owned: Owned, topic: str) -> None:
    client, (one, two, _), _ = owned
    for _ in range(3):
        client.produce(topic, one, b"x" * 1000)
        client.produce(topic, two, b"x" * 1000)
    size = len(batch(b"x" * 1000))

    def sizes(**limits: Any) -> list[int]:
        return [len(item.records or b"") for item in partitions(fetch(client, topic, {one: 0, two: 0}, **limits))]

    assert sizes() == [3 * size, 3 * size]
    assert sizes(partition_max_bytes=2 * size + 1) == [2 * size, 2 * size]
    assert sizes(max_bytes=4 * size) == [3 * size, size]
    assert sizes(max_bytes=1) == [size, 0], "one batch in all, whatever its size"
    assert sizes(partition_max_bytes=1) == [size, 0]
    assert sizes(max_bytes=0) == [size, 0]


def test_waiting_for_enough(broker: Broker, owned: Owned, topic: str) -> None:
    client, (one, *_), _ = owned
    size = len(batch(b"x" * 100))
    client.send(ApiKey.FETCH, 12, fetch_request(topic, {one: 0}, min_bytes=3 * size, wait_ms=20_000))
    with KafkaClient(broker, client.node) as producer:
        for _ in range(3):
            producer.produce(topic, one, b"x" * 100)
    assert len(partitions(client.receive())[0].records) == 3 * size
    late = fetch(client, topic, {one: 3}, min_bytes=1, wait_ms=50)
    assert len(partitions(late)[0].records or b"") == 0


def test_what_is_out_of_range_and_what_is_not_there(owned: Owned, topic: str) -> None:
    client, (one, two, three), _ = owned
    answer = fetch(client, topic, {one: 5, two: -1, three: 0, 99: 0}, wait_ms=20_000)
    assert errors(answer) == {one: 1, two: 1, three: 0, 99: 3}
    assert [item.high_watermark for item in partitions(answer)] == [-1, -1, 0, -1]
    assert errors(fetch(client, b"?" * 16, {0: 0}, 13)) == {0: 100}


@pytest.mark.parametrize("version", [4, 14, 15, 17])
def test_replicas_are_refused(owned: Owned, topic: str, version: int) -> None:
    client, (one, *_), topic_id = owned
    replica = (
        {"replica_state": TYPES.ReplicaState(replica_id=3, replica_epoch=1)} if version >= 15 else {"replica_id": 3}
    )
    named = topic_id if version >= 13 else topic
    assert errors(fetch(client, named, {one: 0}, version, **replica)) == {one: 42}


def test_committed_reads_and_racks(owned: Owned, topic: str) -> None:
    client, (one, *_), _ = owned
    client.produce(topic, one, b"x")
    (item,) = partitions(fetch(client, topic, {one: 0}, isolation_level=1, rack_id="a rack"))
    assert (item.high_watermark, item.last_stable_offset, item.preferred_read_replica) == (1, 1, -1)
    assert item.aborted_transactions == []
    assert item.records


# --- ListOffsets ---

OFFSETS = codec.request_types(ApiKey.LIST_OFFSETS)


def list_offsets(client: KafkaClient, topic: str, index: int, timestamp: int, version: int = 9, **fields: Any) -> Any:
    asked = OFFSETS.ListOffsetsPartition(partition_index=index, timestamp=timestamp, current_leader_epoch=-1)
    wanted = OFFSETS.ListOffsetsTopic(name=topic, partitions=[asked] * fields.pop("often", 1))
    request = OFFSETS.ListOffsetsRequest(replica_id=fields.pop("replica_id", -1), topics=[wanted], **fields)
    found = client.ask(ApiKey.LIST_OFFSETS, version, request).topics[0].partitions
    return found[0].error_code, found[0].offset, found[0].timestamp


def test_offsets_by_time(owned: Owned, topic: str) -> None:
    client, (one, two, _), _ = owned
    types = codec.request_types(ApiKey.PRODUCE)
    now_ms = time.time_ns() // 1_000_000
    for timestamp in (now_ms, now_ms + 20, now_ms + 10):
        data = types.PartitionProduceData(index=one, records=batch(b"x", timestamp_ms=timestamp))
        wanted = types.TopicProduceData(name=topic, partition_data=[data])
        client.ask(ApiKey.PRODUCE, 9, types.ProduceRequest(acks=-1, timeout_ms=9_000, topic_data=[wanted]))
    assert list_offsets(client, topic, one, -2) == (0, 0, -1)
    assert list_offsets(client, topic, one, -1) == (0, 3, -1)
    assert list_offsets(client, topic, one, -1, isolation_level=1) == (0, 3, -1)
    assert list_offsets(client, topic, one, now_ms + 5) == (0, 1, now_ms + 20)
    assert list_offsets(client, topic, one, now_ms + 21) == (0, -1, -1)
    assert list_offsets(client, topic, one, -3) == (0, 1, now_ms + 20)
    assert list_offsets(client, topic, two, -3) == (0, -1, -1)
    assert list_offsets(client, topic, one, -4) == (0, 0, -1)
    assert list_offsets(client, topic, one, -5) == (0, -1, -1)


def test_offsets_that_cannot_be_asked_for(owned: Owned, topic: str) -> None:
    client, (one, *_), _ = owned
    for timestamp, since in ((-3, 7), (-4, 8), (-5, 9)):
        assert list_offsets(client, topic, one, timestamp, since)[0] == 0
        assert list_offsets(client, topic, one, timestamp, since - 1)[0] == 35
    assert list_offsets(client, topic, one, -9)[0] == 35
    assert list_offsets(client, topic, one, -1, often=2)[0] == 42
    assert list_offsets(client, topic, one, -1, replica_id=2)[0] == 42
    assert list_offsets(client, topic, 99, -1)[0] == 3
    elsewhere = next(i for i in range(6) if i not in owned[1])
    assert list_offsets(client, topic, elsewhere, -1)[0] == 6


def test_what_lies_on_the_disk_is_read_little_by_little(broker: Broker, topic: str) -> None:
    with KafkaClient(broker, 0) as any_node:
        any_node.create(topic, 2)
        leaders = [partition.leader_id for partition in any_node.metadata(topic)[topic].partitions]
    with KafkaClient(broker, leaders[0]) as client:
        for _ in range(6):
            client.produce(topic, 0, bytes(300_000))
        size_bytes = len(batch(bytes(300_000)))
        (segment,) = (broker.data_dir / f"{topic}-0").glob("*.log")
        fd = os.open(segment, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        is_cold = PageCache().has(fd, 0, 6 * size_bytes) is False
        os.close(fd)
        if not is_cold:
            pytest.skip("this file system keeps what it has in memory")
        offset = fetches = 0
        while offset < 6:
            (found,) = partitions(fetch(client, topic, {0: offset}, partition_max_bytes=1 << 24))
            assert 0 < len(found.records) <= COLD_BYTES_MAX
            offset += len(found.records) // size_bytes
            fetches += 1
        assert fetches > 1


LONG_MS = 60_000
"""More than a test waits for an answer."""


def led_by(client: KafkaClient, topic: str, node: int) -> list[int]:
    """The partitions of a topic that a node leads."""
    partitions = client.metadata(topic)[topic].partitions
    return [item.partition_index for item in partitions if item.leader_id == node]


@pytest.mark.parametrize(
    ("bounds", "offsets"),
    [
        ({"min_bytes": 2 << 20, "max_bytes": 1 << 20}, {0: 0}),  # KIP-541
        ({"min_bytes": 2 << 20, "partition_max_bytes": 1_048_576}, {0: 0}),
        ({"min_bytes": 2 << 20, "partition_max_bytes": 700_000}, {0: 0, 1: 0}),  # two, both full
        ({"min_bytes": 2**31 - 1, "max_bytes": 2**31 - 1, "partition_max_bytes": 1 << 20}, {0: 3}),
        ({"min_bytes": 1_048_576, "max_bytes": 1_048_576}, {0: 0}),  # whole batches never fill it to the byte
        ({"min_bytes": 100, "max_bytes": 1}, {0: 0, 1: 0}),
    ],
)
def test_more_wanted_than_an_answer_may_hold_waits_for_nothing(
    broker: Broker, coordinator: KafkaClient, topic: str, bounds: dict[str, Any], offsets: dict[int, int]
) -> None:
    coordinator.create(topic, 4)
    led = led_by(coordinator, topic, 1)
    with KafkaClient(broker, 1) as client:
        for number in offsets:
            for _ in range(6):
                client.produce(topic, led[number], os.urandom(500_000))
        request = fetch_request(topic, {led[i]: at for i, at in offsets.items()}, wait_ms=LONG_MS, **bounds)
        answer = client.ask(ApiKey.FETCH, 11, request)
    assert sum(len(found.records or b"") for found in answer.responses[0].partitions) >= 500_000


def test_a_partition_with_room_is_waited_for_beside_a_full_one(
    broker: Broker, coordinator: KafkaClient, topic: str
) -> None:
    coordinator.create(topic, 4)
    full, empty = led_by(coordinator, topic, 1)
    with KafkaClient(broker, 1) as client, KafkaClient(broker, 1) as producer:
        for _ in range(3):
            producer.produce(topic, full, os.urandom(500_000))
        bounds: Any = {"min_bytes": 1_100_000, "partition_max_bytes": 1_000_000}
        client.send(ApiKey.FETCH, 11, fetch_request(topic, {full: 0, empty: 0}, wait_ms=LONG_MS, **bounds))
        producer.produce(topic, empty, os.urandom(200_000))
        sizes = [len(found.records or b"") for found in client.receive().responses[0].partitions]
    assert sizes[0] > 500_000
    assert sizes[1] > 200_000
