"""A coordinator that takes nothing: what workers pass on to it is refused so that clients try again, and is bounded."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import msgpack
import pytest
import zmq

from kbroker.errors import ThrottlingQuotaExceeded
from kbroker.kafka import codec
from kbroker.kafka.apis import APIS, ApiKey
from kbroker.kafka.refusals import NOT_CONTROLLER, refused
from kbroker.testing import Broker
from kbroker.wire import codec as codec_native
from kbroker.wire import messages as m

from ..kafka.making import make, write
from .kafka_client import KafkaClient
from .raw_client import RawClient

TIMEOUT_MS = 1_500
LOAD_IN_PROGRESS, TIMED_OUT = 14, 7


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    settings = {"request.timeout.ms": TIMEOUT_MS, "process.heartbeat.timeout.ms": 600_000}
    with Broker(settings, workers=1) as running:
        yield running


@pytest.fixture
def stopped(broker: Broker) -> Iterator[Broker]:
    """The broker while its coordinator does nothing."""
    broker.kill("coordinator", signal.SIGSTOP)
    try:
        yield broker
    finally:
        broker.kill("coordinator", signal.SIGCONT)
        types = codec.request_types(ApiKey.INIT_PRODUCER_ID)
        asked = types.InitProducerIdRequest(transactional_id=None)
        with KafkaClient(broker, 1) as client:  # the coordinator has gone through all that waited
            broker.wait_until(lambda: client.ask(ApiKey.INIT_PRODUCER_ID, 4, asked).error_code == 0)


def creation(name: str, size_bytes: int = 0) -> Any:
    types = codec.request_types(ApiKey.CREATE_TOPICS)
    config = types.CreatableTopicConfig(name="retention.ms", value="1" * size_bytes)
    topic = types.CreatableTopic(name=name, num_partitions=1, replication_factor=1, configs=[config])
    return types.CreateTopicsRequest(topics=[topic], timeout_ms=60_000)


def test_what_is_not_answered_in_time_is_refused(stopped: Broker, topic: str) -> None:
    with KafkaClient(stopped, 1) as client:
        begun = time.monotonic()
        types = codec.request_types(ApiKey.INIT_PRODUCER_ID)
        client.send(ApiKey.INIT_PRODUCER_ID, 4, types.InitProducerIdRequest(transactional_id=None))
        client.send(ApiKey.CREATE_TOPICS, 7, creation(topic))
        types = codec.request_types(ApiKey.DESCRIBE_CONFIGS)
        resource = types.DescribeConfigsResource(resource_type=2, resource_name=topic)
        client.send(ApiKey.DESCRIBE_CONFIGS, 4, types.DescribeConfigsRequest(resources=[resource]))
        types = codec.request_types(ApiKey.METADATA)
        wanted = types.MetadataRequest(topics=[types.MetadataRequestTopic(name=topic)], allow_auto_topic_creation=True)
        client.send(ApiKey.METADATA, 12, wanted)
        assert client.receive().error_code == LOAD_IN_PROGRESS
        assert TIMEOUT_MS / 1000 <= time.monotonic() - begun < 10
        (created,) = client.receive().topics
        assert (created.name, created.error_code) == (topic, TIMED_OUT)
        assert "has not answered" in created.error_message
        assert client.receive().results[0].error_code == TIMED_OUT
        assert client.receive().topics[0].error_code in (3, 5)


@pytest.mark.slow
def test_a_full_queue_refuses_at_once_and_holds_little(stopped: Broker, topic: str) -> None:
    """100 MB are sent; little is kept of them, and each client is told."""

    def send_many() -> tuple[list[int], int]:
        told: list[int] = []
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(KafkaClient(stopped, 1)) for _ in range(40)]
            for client in clients:
                for _ in range(60):
                    client.send(ApiKey.CREATE_TOPICS, 7, creation(topic, 15_000))
            for client in clients:
                for _ in range(60):
                    told += [item.error_code for item in client.receive().topics]
        return told, stopped.processes()["worker-0"]["rss_anon_bytes"]

    told, held = send_many()
    assert set(told) == {NOT_CONTROLLER, TIMED_OUT}
    for _ in range(2):
        told, now = send_many()
        assert set(told) == {NOT_CONTROLLER}
        assert now < held + (64 << 20)


@pytest.mark.slow
def test_native_requests_are_refused_above_a_bound(stopped: Broker, topic: str) -> None:
    header = codec_native.encode_request(m.DeleteTopics([f"{topic}-{'x' * 100_000}" for _ in range(9)]))
    codes: list[int] = []
    with RawClient(stopped.server) as client:
        for _ in range(200):
            client.send_header(header)
        client.set_timeout_ms(1_000)
        with contextlib.suppress(zmq.Again):
            while True:
                codes.append(msgpack.unpackb(client.take_any()[1][0])["error"])
        assert set(codes) == {ThrottlingQuotaExceeded.code}
        assert 40 < len(codes) < 160  # the others, 128 MiB of them, wait
        client.set_timeout_ms(20_000)
        assert client.ask(m.HelloAnswer, m.Hello()).version == 1


def test_after_that_all_is_served_again(broker: Broker, topic: str) -> None:
    with KafkaClient(broker, 1) as client:
        client.create(topic)
        assert client.produce(topic, 0, b"x").error_code == 0


PASSED_ON = [
    api
    for api in APIS
    if api.key
    in {
        *(ApiKey.CREATE_TOPICS, ApiKey.DELETE_TOPICS, ApiKey.CREATE_PARTITIONS, ApiKey.DESCRIBE_CONFIGS),
        *(ApiKey.ALTER_CONFIGS, ApiKey.INCREMENTAL_ALTER_CONFIGS, ApiKey.LIST_CONFIG_RESOURCES),
        *(ApiKey.INIT_PRODUCER_ID,),
    }
]


@pytest.mark.parametrize("api", PASSED_ON, ids=lambda api: str(api.name))
def test_every_request_that_is_passed_on_has_a_refusal_in_every_version(api: Any) -> None:
    for version in range(api.min_version, api.max_version + 1):
        body = write(api, version, "request", make(api, version, "request", Random(version)))
        for is_unknown in (False, True):
            answer = refused(api.key, version, body, "why", is_unknown=is_unknown)
            assert codec.write_response(api.key, version, 1, answer)
