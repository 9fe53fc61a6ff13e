"""Requests that are legal but dear: whoever sends them, a well-behaved client beside them is served as ever."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kbroker.errors import InvalidRequest, RecordListTooLarge, RequestTimedOut
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.records.batch import HEADER, write_crc
from kbroker.records.codec import BatchBuilder
from kbroker.records.compression import CODECS, compress
from kbroker.testing import Broker
from kbroker.wire import codec as native_codec
from kbroker.wire import messages as m
from kbroker.wire.stream import head

from .kafka_client import KafkaClient, now_ms
from .kafka_raw import dial, frame, receive
from .neighbour import Neighbour
from .raw_client import RawClient, direct
from .raw_client import batch as small_batch

pytestmark = pytest.mark.slow
MANY = 30_000
EMPTY_RECORD = bytes([12, 0, 0, 0, 1, 0, 0])  # no key, an empty value


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(workers=1, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


@pytest.fixture(scope="module")
def neighbour(broker: Broker) -> Neighbour:
    return Neighbour(broker, "neighbour")


def bomb(count: int, codec_name: str = "zstd") -> bytes:
    """So many records in a small batch, all older than its header says and than what `lookup` asks for."""
    packed = compress(CODECS[codec_name], EMPTY_RECORD * count)
    now = now_ms()
    times = now - 10, now + 60_000
    head = HEADER.pack(0, 49 + len(packed), -1, 2, 0, CODECS[codec_name], count - 1, *times, -1, -1, -1, count)
    made = bytearray(head + packed)
    write_crc(made, 0, len(made))
    return bytes(made)


def known(connection: socket.socket) -> socket.socket:
    """After the question with which clients begin."""
    connection.sendall(frame(ApiKey.API_VERSIONS, 0, 1))
    assert receive(connection)
    return connection


def asking(broker: Broker, api_key: int, version: int, request: Any) -> Callable[[], None]:
    """Sends the request by one connection, and takes its answer, without a word about what it says."""
    sent = b"".join(codec.write_request(api_key, version, 1, "a test", request))
    connection = known(dial(broker))
    connection.settimeout(60)

    def ask() -> None:
        connection.sendall(sent)
        assert receive(connection), "the broker has hung up"

    return ask


def lookup(topic: str) -> Any:
    types = codec.request_types(ApiKey.LIST_OFFSETS)
    place = types.ListOffsetsPartition(partition_index=0, timestamp=now_ms() - 5)
    return types.ListOffsetsRequest(
        replica_id=-1, isolation_level=0, topics=[types.ListOffsetsTopic(name=topic, partitions=[place])]
    )


@pytest.mark.parametrize("codec_name", ["gzip", "zstd"])
def test_lookups_by_time_in_a_bomb(
    broker: Broker, worker: KafkaClient, topic: str, neighbour: Neighbour, codec_name: str
) -> None:
    worker.create(topic)
    assert worker.produce_bytes(topic, 0, bomb(1_000_000, codec_name=codec_name)).error_code == 0
    neighbour.is_well_beside(asking(broker, ApiKey.LIST_OFFSETS, 7, lookup(topic)))


def test_lookups_of_a_client_that_has_gone(broker: Broker, worker: KafkaClient, topic: str) -> None:
    compacted = f"{topic}-compacted"
    worker.create(topic)
    worker.create(compacted, cleanup_policy="compact")
    assert worker.produce_bytes(topic, 0, bomb(550_000)).error_code == 0
    sent = b"".join(codec.write_request(ApiKey.LIST_OFFSETS, 7, 1, "a test", lookup(topic)))
    with contextlib.ExitStack() as connections:
        for _ in range(10):
            connection = connections.enter_context(known(dial(broker)))
            connection.sendall(sent * 50)  # some 3 minutes of work
        builder = BatchBuilder(CODECS["zstd"], 1 << 20)
        for _ in range(300):
            assert builder.append(now_ms(), b"k", b"")
        began = time.monotonic()
        assert worker.produce_bytes(compacted, 0, bytes(builder.build())).error_code == 0
        assert time.monotonic() - began < 10, "records wait for other clients' look-ups"
    while (found := worker.ask(ApiKey.LIST_OFFSETS, 7, lookup(topic)).topics[0].partitions[0]).error_code:
        assert found.error_code == RequestTimedOut.code
        assert time.monotonic() - began < 60, "look-ups outlive their clients"


def test_native_lookups_by_time_in_a_bomb(
    broker: Broker, worker: KafkaClient, topic: str, neighbour: Neighbour
) -> None:
    worker.create(topic)
    assert worker.produce_bytes(topic, 0, bomb(1_000_000)).error_code == 0
    with RawClient(direct(broker)) as client:
        client.set_timeout_ms(60_000)
        request = m.ListOffsets([m.OffsetQuery(topic, 0, now_ms() - 5)] * 3)
        neighbour.is_well_beside(lambda: _found_nothing(client.ask(m.OffsetsAnswer, request)))


def _found_nothing(answer: m.OffsetsAnswer) -> None:
    assert {(found.error, found.offset) for found in answer.partitions} == {(0, -1)}


@pytest.fixture(scope="module")
def many_records() -> bytes:
    """A batch of half a million records, each of them sound."""
    builder = BatchBuilder(CODECS["zstd"], 1 << 30)
    now = now_ms()
    for _ in range(500_000):
        assert builder.append(now, b"k", b"")
    return bytes(builder.build())


@pytest.mark.parametrize(
    "settings",
    [
        {"cleanup_policy": "compact"},
        {"message_timestamp_before_max_ms": "3600000"},
        {"compression_type": "gzip"},
        {"record_validation": "records"},
    ],
    ids=["compact", "before_max", "gzip", "records"],
)
def test_many_records_for_a_topic_that_looks_inside(
    broker: Broker,
    worker: KafkaClient,
    topic: str,
    neighbour: Neighbour,
    many_records: bytes,
    settings: dict[str, str],
) -> None:
    worker.create(topic, 1, max_message_bytes=str(200 << 20), **settings)
    with KafkaClient(broker, 1) as client:

        def ask() -> None:
            assert client.produce_bytes(topic, 0, many_records).error_code == 0

        neighbour.is_well_beside(ask)


def test_a_native_produce_of_many_batches(broker: Broker, topic: str, neighbour: Neighbour) -> None:
    with RawClient(broker.server) as maker:
        maker.create(topic)
    with RawClient(direct(broker)) as client:
        client.produce(topic, small_batch([b"x"]) * 256)
        frames = [b"once", native_codec.encode_request(m.Produce(topic, 0, 1)), small_batch([b""]) * 380_000]
        sent = head(frames) + b"".join(frames)  # made once: the neighbour lives in this process too

        def ask() -> None:
            client.socket.stream.sendall(sent)
            with pytest.raises(RecordListTooLarge, match=r"produce\.batches\.max"):
                native_codec.decode_answer(m.ProduceAnswer, client.take(b"once")[0])

        neighbour.is_well_beside(ask)
        assert len(client.records(topic)) == 256


@pytest.mark.parametrize("kind", ["list_offsets", "fetch"])
def test_native_requests_that_name_many_things(broker: Broker, kind: str, neighbour: Neighbour) -> None:
    numbers = range(15_000)
    request: Any = m.ListOffsets([m.OffsetQuery("x", n, -1) for n in numbers])
    if kind == "fetch":
        request = m.Fetch([m.FetchPartition("x", n, 0) for n in numbers], max_wait_ms=0)
    header = native_codec.encode_request(request)
    with RawClient(direct(broker)) as client:
        client.set_timeout_ms(60_000)

        def ask() -> None:
            assert client.take(client.send_header(header))

        neighbour.is_well_beside(ask)


def many_produce(count: int) -> Any:
    types = codec.request_types(ApiKey.PRODUCE)
    one = small_batch([b"x"])
    data = [types.PartitionProduceData(index=number, records=one) for number in range(count)]
    topic_data = [types.TopicProduceData(name="many", partition_data=data)]
    return types.ProduceRequest(acks=1, timeout_ms=10_000, topic_data=topic_data)


def many_of(api_key: ApiKey, count: int) -> Any:
    """A request about so many partitions of a topic that has one, or so many names."""
    types = codec.request_types(api_key)
    numbers = range(count)
    if api_key is ApiKey.PRODUCE:
        return many_produce(count)
    if api_key is ApiKey.LIST_OFFSETS:
        asked = [types.ListOffsetsPartition(partition_index=n, timestamp=5) for n in numbers]
        topics = [types.ListOffsetsTopic(name="many", partitions=asked)]
        return types.ListOffsetsRequest(replica_id=-1, isolation_level=0, topics=topics)
    if api_key is ApiKey.FETCH:
        asked = [types.FetchPartition(partition=n, fetch_offset=0, partition_max_bytes=1) for n in numbers]
        topics = [types.FetchTopic(topic="many", partitions=asked)]
        return types.FetchRequest(max_wait_ms=100, min_bytes=1, topics=topics)
    if api_key is ApiKey.OFFSET_FOR_LEADER_EPOCH:
        asked = [types.OffsetForLeaderPartition(partition=n, leader_epoch=1) for n in numbers]
        topics = [types.OffsetForLeaderTopic(topic="many", partitions=asked)]
        return types.OffsetForLeaderEpochRequest(replica_id=-1, topics=topics)
    if api_key is ApiKey.OFFSET_COMMIT:
        asked = [types.OffsetCommitRequestPartition(partition_index=n, committed_offset=1) for n in numbers]
        topics = [types.OffsetCommitRequestTopic(name="many", partitions=asked)]
        return types.OffsetCommitRequest(group_id="g", generation_id_or_member_epoch=-1, member_id="", topics=topics)
    if api_key is ApiKey.DESCRIBE_GROUPS:
        return types.DescribeGroupsRequest(groups=[f"group-{n}" for n in numbers])
    if api_key is ApiKey.DESCRIBE_CONFIGS:
        asked = [types.DescribeConfigsResource(resource_type=2, resource_name=f"t{n}", configuration_keys=None)
                 for n in numbers]  # fmt: skip
        return types.DescribeConfigsRequest(resources=asked)
    assert api_key is ApiKey.METADATA
    return types.MetadataRequest(
        topics=[types.MetadataRequestTopic(name=f"t{n}") for n in numbers], allow_auto_topic_creation=False
    )


@pytest.mark.parametrize(
    ("api_key", "version"),
    [
        (ApiKey.PRODUCE, 9),
        (ApiKey.FETCH, 11),
        (ApiKey.LIST_OFFSETS, 7),
        (ApiKey.METADATA, 9),
        (ApiKey.OFFSET_FOR_LEADER_EPOCH, 4),
        (ApiKey.OFFSET_COMMIT, 8),
        (ApiKey.DESCRIBE_GROUPS, 5),
        (ApiKey.DESCRIBE_CONFIGS, 4),
    ],
)
def test_requests_that_name_many_things(
    broker: Broker, worker: KafkaClient, neighbour: Neighbour, api_key: ApiKey, version: int
) -> None:
    if "many" not in worker.metadata("many") or worker.metadata("many")["many"].error_code:
        worker.create("many")
    neighbour.is_well_beside(asking(broker, api_key, version, many_of(api_key, MANY)))


def test_a_produce_for_many_partitions_keeps_their_order(worker: KafkaClient, topic: str) -> None:
    """It is done in slices: what its connection sends next waits for all of them."""
    worker.create(topic, partitions=300)
    for number in range(4):
        types = codec.request_types(ApiKey.PRODUCE)
        data = [types.PartitionProduceData(index=n, records=small_batch([b"%d" % number])) for n in range(300)]
        request = types.ProduceRequest(
            acks=1, timeout_ms=10_000, topic_data=[types.TopicProduceData(name=topic, partition_data=data)]
        )
        worker.send(ApiKey.PRODUCE, 9, request)
        worker.send_bytes(topic, 299, small_batch([b"behind"]), acks=1)
    for number in range(4):
        partitions = worker.receive().responses[0].partition_responses
        assert {answer.error_code for answer in partitions} == {0}
        assert {answer.base_offset for answer in partitions[:299]} == {number}
        assert partitions[299].base_offset == 2 * number
        assert worker.receive().responses[0].partition_responses[0].base_offset == 2 * number + 1


def test_one_request_makes_only_so_many_topics(broker: Broker) -> None:
    with KafkaClient(broker, 0) as client:
        types = codec.request_types(ApiKey.CREATE_TOPICS)
        new = [types.CreatableTopic(name=f"new-{n}", num_partitions=1, replication_factor=1) for n in range(1001)]
        request = types.CreateTopicsRequest(topics=new, timeout_ms=10_000, validate_only=True)
        codes = [found.error_code for found in client.ask(ApiKey.CREATE_TOPICS, 7, request).topics]
        assert codes == [0] * 1000 + [89]
        types = codec.request_types(ApiKey.METADATA)
        asked = [types.MetadataRequestTopic(name=f"auto-{n}") for n in range(110)]
        client.ask(ApiKey.METADATA, 9, types.MetadataRequest(topics=asked, allow_auto_topic_creation=True))
        assert sum(name.startswith("auto-") for name in client.metadata()) == 100


def test_one_native_request_makes_only_so_many_topics(broker: Broker) -> None:
    with RawClient(broker.server) as client:
        with pytest.raises(InvalidRequest, match="1000 topics at most, not 1001"):
            client.ask(m.TopicResults, m.CreateTopics([m.NewTopic(f"n{n}") for n in range(1001)], validate_only=True))
        with pytest.raises(InvalidRequest, match="1000 topics at most"):
            client.ask(m.TopicResults, m.DeleteTopics([f"n{n}" for n in range(1001)]))


def test_a_request_with_too_many_elements_is_told_in_the_log(broker: Broker) -> None:
    with dial(broker) as connection:
        known(connection)
        body = struct.pack(">iih", -1, 1, 1) + b"t" + struct.pack(">i", 250_000) + bytes(250_000 * 12)
        connection.sendall(struct.pack(">ihhih", len(body) + 10, ApiKey.LIST_OFFSETS, 1, 1, -1) + body)
        assert not receive(connection)
    broker.wait_until(lambda: "the message has too many elements" in broker.log)
