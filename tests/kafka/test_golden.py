"""Frames of real clients are read, written again as they were, and answered."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from kio.serial import entity_reader

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey, api_for
from kbroker.kafka.framing import FrameLimits, Request, RequestFramer
from kbroker.kafka.schema import load
from kbroker.testing import Broker

from .golden_frames import GoldenFrame, load_frames
from .kio_oracle import assert_same, kio_entity

ANSWER_S = 30


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(workers=1) as running:
        yield running


def request_in(frame: bytes) -> Request:
    """The one request that a frame holds."""
    framer = RequestFramer(FrameLimits())
    framer.receive(frame)
    request = framer.next_request()
    assert request is not None
    assert framer.next_request() is None
    return request


def check(golden: GoldenFrame) -> None:
    if golden.api_key is None or golden.version is None:
        request = request_in(golden.frame)
        key, version, body = request.api_key, request.version, request.body
        message = codec.read_request(key, version, body)
        written = b"".join(codec.request_writer(key, version)(message, bytearray()))
    else:
        key, version = golden.api_key, golden.version
        body = memoryview(golden.frame)[8 + api_for(key).response_header_version(version) :]
        message = codec.read_response(key, version, body)
        written = b"".join(codec.response_writer(key, version)(message, bytearray()))
    assert bytes(body[: len(written)]) == written


FRAMES = load_frames()


def named(golden: GoldenFrame) -> str:
    return golden.name


@pytest.mark.parametrize("golden", FRAMES, ids=named)
def test_a_captured_frame(golden: GoldenFrame) -> None:
    check(golden)


@pytest.mark.parametrize("golden", FRAMES, ids=named)
def test_kio_reads_the_same(golden: GoldenFrame) -> None:
    request = request_in(golden.frame)
    api = api_for(request.api_key)
    theirs, _ = entity_reader(kio_entity(api, request.version, "request"))(bytes(request.body), 0)
    ours = codec.read_request(request.api_key, request.version, request.body)
    assert_same(load(api, request.version, "request"), ours, theirs)


def test_there_are_frames_of_every_client() -> None:
    clients = {golden.file_name.partition("-")[0] for golden in FRAMES}
    assert clients == {"aiokafka", "confluent", "kafka", "kafkajs", "kcat", "platformatic"}
    assert {request_in(golden.frame).api_key for golden in FRAMES} >= {ApiKey.PRODUCE, ApiKey.FETCH, ApiKey.METADATA}


def _wants_answer(produce: Request) -> bool:
    return bool(codec.read_request(produce.api_key, produce.version, produce.body).acks)


@pytest.mark.slow
@pytest.mark.parametrize("node", [0, 1])
def test_a_running_broker_answers_each(broker: Broker, node: int) -> None:
    """All on one connection: it is never hung up on, and each answer has its request's number."""
    port = int(broker.status()["listeners"][f"kafka-{node}"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as answers:
        connection.settimeout(ANSWER_S)
        for golden in FRAMES:
            request = request_in(golden.frame)
            if request.api_key == ApiKey.PRODUCE and not _wants_answer(request):
                continue  # what cannot be appended would be told by hanging up
            connection.sendall(golden.frame)
            size = int.from_bytes(answers.read(4), "big")
            assert size > 0, f"hung up on after {golden.name}"
            correlation_id = int.from_bytes(answers.read(size)[:4], "big", signed=True)
            assert correlation_id == request.correlation_id, golden.name


def test_the_files_are_understood(tmp_path: Path) -> None:
    types = codec.request_types(ApiKey.METADATA)
    request = b"".join(codec.write_request(ApiKey.METADATA, 13, 1, "c", types.MetadataRequest(topics=None)))
    request = (len(request) - 4 + 3).to_bytes(4, "big") + request[4:] + b"\1\2\3"
    answer = codec.response_types(ApiKey.METADATA).MetadataResponse(cluster_id="x")
    response = b"".join(codec.write_response(ApiKey.METADATA, 13, 1, answer))
    lines = f"# a client\n\nrequest {request.hex()}  # 3 bytes after the message\nresponse 3 13 {response.hex()}\n"
    (tmp_path / "client-1.frames").write_text(lines)
    frames = load_frames(tmp_path)
    assert [golden.name for golden in frames] == ["client-1.frames:3", "client-1.frames:4"]
    for golden in frames:
        check(golden)
    (tmp_path / "client-2.frames").write_text("reply 00\n")
    with pytest.raises(ValueError, match=r"client-2.frames:1"):
        load_frames(tmp_path)
