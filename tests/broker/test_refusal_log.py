"""What a client shows as something else, or without the reason, has a WARNING with the reason and who it was."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker
from kbroker.workers.caller import KAFKA, Caller
from kbroker.workers.complaints import LINES_MAX
from kbroker.workers.refusal_log import INTERVAL_MS, REMEMBERED_MAX, RefusalLog
from tests.hand_clock import HandClock

from .kafka_client import KafkaClient, batch
from .kafka_raw import dial, receive

BY = r"asked by kafka client at 127\.0\.0\.1:\d+ with client id 'a test', which may show another reason"


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(workers=1, topics_max=3, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


def told(broker: Broker, pattern: str) -> int:
    return sum(1 for line in broker.log.splitlines() if re.search(rf" WARNING [a-z]+( \d+)?: {pattern}", line))


def test_a_transactional_producer(broker: Broker) -> None:
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap_servers, "transactional.id": "orders-1", "client.id": "a shop"}
    )
    with pytest.raises(KafkaException):
        producer.init_transactions(10)
    pattern = r"transactional\.id 'orders-1' refused: transactions are not supported yet: leave transactional\.id out; "
    assert told(broker, pattern + r"asked by kafka client at 127\.0\.0\.1:\d+ with client id 'a shop'") >= 1


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("version", [1, 4])
def test_it_is_told_once_in_a_while(broker: Broker, node: int, version: int) -> None:
    name = f"tx-{node}-{version}"
    types = codec.request_types(ApiKey.FIND_COORDINATOR)
    for _ in range(20):
        with KafkaClient(broker, node) as client:
            asked = types.FindCoordinatorRequest(key=name, key_type=1, coordinator_keys=[name])
            client.ask(ApiKey.FIND_COORDINATOR, version, asked)
    assert told(broker, rf"transactional\.id '{name}' refused: .*{BY}") == 1


@pytest.mark.parametrize("node", [0, 1])
def test_a_producer_id_for_transactions(broker: Broker, node: int) -> None:
    types = codec.request_types(ApiKey.INIT_PRODUCER_ID)
    with KafkaClient(broker, node) as client:
        request = types.InitProducerIdRequest(transactional_id=f"init-{node}", transaction_timeout_ms=1000)
        assert client.ask(ApiKey.INIT_PRODUCER_ID, 3, request).error_code
    assert told(broker, rf"transactional\.id 'init-{node}' refused: .*{BY}") == 1


def test_records_and_their_deletion(broker: Broker) -> None:
    with KafkaClient(broker, 1) as client:
        client.create("compacted", cleanup_policy="compact")
        for _ in range(5):
            assert client.produce("compacted", 0, b"no key").error_code
            assert client.produce("nobody", 0, b"x").error_code == 3
        corrupt = bytearray(batch(b"x"))
        corrupt[-1] ^= 1
        assert client.produce_bytes("compacted", 0, bytes(corrupt)).error_code == 2
        types = codec.request_types(ApiKey.DELETE_RECORDS)
        topic = types.DeleteRecordsTopic(
            name="compacted", partitions=[types.DeleteRecordsPartition(partition_index=0, offset=0)]
        )
        client.ask(ApiKey.DELETE_RECORDS, 2, types.DeleteRecordsRequest(topics=[topic], timeout_ms=10_000))
    assert told(broker, rf"records for compacted-0 refused: .*key.*{BY}") == 1
    assert told(broker, rf"records for compacted-0 refused: .*(CRC|checksum).*{BY}") == 1
    assert told(broker, rf"DeleteRecords of compacted-0 refused: .*cleanup\.policy=compact.*{BY}") == 1
    assert not told(broker, "records for nobody")


def test_records_for_an_internal_topic(broker: Broker) -> None:
    with KafkaClient(broker, 0) as client:
        client.produce("__consumer_offsets", 0, b"x")
    assert told(broker, rf"records for __consumer_offsets-0 refused: .*broker's own.*{BY}") == 1


def test_groups(broker: Broker) -> None:
    types = codec.request_types(ApiKey.JOIN_GROUP)
    with KafkaClient(broker, 0) as client:
        join = types.JoinGroupRequest(
            group_id="hurried",
            session_timeout_ms=1,
            rebalance_timeout_ms=1,
            member_id="",
            protocol_type="consumer",
            protocols=[types.JoinGroupRequestProtocol(name="range", metadata=b"")],
        )
        assert client.ask(ApiKey.JOIN_GROUP, 5, join).error_code == 26
        join.session_timeout_ms = 30_000
        assert client.ask(ApiKey.JOIN_GROUP, 5, join).error_code == 79  # MEMBER_ID_REQUIRED: that is how it goes
    assert told(broker, rf"JoinGroup of group 'hurried' refused: InvalidSessionTimeout \(code 26\).*{BY}") == 1


def test_a_timestamp_that_is_not_known(broker: Broker) -> None:
    types = codec.request_types(ApiKey.LIST_OFFSETS)
    with KafkaClient(broker, 1) as client:
        item = types.ListOffsetsPartition(partition_index=0, timestamp=-5)
        topic = types.ListOffsetsTopic(name="compacted", partitions=[item])
        client.ask(ApiKey.LIST_OFFSETS, 7, types.ListOffsetsRequest(replica_id=-1, topics=[topic]))
    assert told(broker, rf"ListOffsets of compacted-0 refused: version 7 has no timestamp -5.*{BY}") == 1


@pytest.mark.parametrize("node", [0, 1])
def test_a_topic_that_cannot_be_made(broker: Broker, node: int) -> None:
    types = codec.request_types(ApiKey.METADATA)
    with KafkaClient(broker, node) as client:
        names = [f"full-{node}-{number}" for number in range(4)]
        asked = [types.MetadataRequestTopic(name=name) for name in names]
        client.ask(ApiKey.METADATA, 12, types.MetadataRequest(topics=asked, allow_auto_topic_creation=True))
    assert told(broker, rf"making topic 'full-{node}-3' refused: .*topics\.max=3.*{BY}") == 1


def test_the_rest_is_counted_and_memory_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    clock: Any = HandClock()
    refusals = RefusalLog(clock)
    for port in range(10):
        refusals.say(Caller(KAFKA, f"127.0.0.1:{port}", client_id="app"), "this", "that")
    assert len(caplog.messages) == 1
    clock.time_ms += INTERVAL_MS
    refusals.say(Caller(KAFKA, "127.0.0.1:99", client_id="app"), "this", "that")
    assert caplog.messages[1].endswith("(9 more times since it was told last)")
    for number in range(2 * REMEMBERED_MAX):
        refusals.say(Caller(KAFKA, "127.0.0.1:99", client_id=f"app-{number}"), "this", "that")
    assert len(refusals._told) == REMEMBERED_MAX
    assert len(caplog.messages) <= LINES_MAX + 1


def test_long_names_are_not_kept() -> None:
    clock: Any = HandClock()
    refusals = RefusalLog(clock)
    tracemalloc.start()
    try:
        for number in range(1_000):
            long = f"{number}" + 32_000 * "x"
            refusals.say(Caller(KAFKA, "127.0.0.1:99", client_id=long), long, long, kind=long)
        assert tracemalloc.get_traced_memory()[0] < 16 << 20, "each has 96 KB of names"
    finally:
        tracemalloc.stop()


def test_a_long_client_id_is_cut_in_the_log(broker: Broker) -> None:
    types = codec.request_types(ApiKey.INIT_PRODUCER_ID)
    request = types.InitProducerIdRequest(transactional_id="long-id", transaction_timeout_ms=1000)
    with dial(broker, 0) as connection:
        connection.sendall(b"".join(codec.write_request(ApiKey.INIT_PRODUCER_ID, 1, 1, "y" * 32_000, request)))
        assert receive(connection)
    (line,) = [line for line in broker.log.splitlines() if "'long-id' refused" in line]
    assert len(line) < 1_000
