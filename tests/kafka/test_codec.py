"""The codec against itself, kio.serial and kafka-python, for every API and version in both directions."""

from __future__ import annotations

import importlib
import io
import pkgutil
from dataclasses import make_dataclass
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import kafka.protocol
import pytest
from kio.serial import entity_reader, entity_writer

from kbroker.kafka import codec
from kbroker.kafka.apis import USUAL, Api, ApiKey, api_for
from kbroker.kafka.reader import compile_reader
from kbroker.kafka.schema import Direction, Field, Struct, load
from kbroker.kafka.writer import compile_writer

from .kio_oracle import assert_same, kio_entity
from .making import ALL, label, lists, make, read, types_of, write

pytestmark = pytest.mark.slow

SEEDS = range(12)


@pytest.mark.parametrize("case", ALL, ids=label)
def test_what_is_written_is_read_back(case: tuple[Api, int, Direction]) -> None:
    api, version, direction = case
    for seed in SEEDS:
        message = make(api, version, direction, Random(seed))
        assert lists(read(api, version, direction, write(api, version, direction, message))) == lists(message)


@pytest.mark.parametrize("case", ALL, ids=label)
def test_a_message_of_defaults_is_written_and_read_back(case: tuple[Api, int, Direction]) -> None:
    api, version, direction = case
    struct = load(api, version, direction)
    message = getattr(types_of(api, direction), struct.name)()
    if any(field.struct and not field.array and not field.nullable for field in struct.untagged):
        pytest.skip("holds a struct that must be given")
    assert lists(read(api, version, direction, write(api, version, direction, message))) == lists(message)


@pytest.mark.parametrize("case", ALL, ids=label)
def test_bytes_after_the_message_are_ignored(case: tuple[Api, int, Direction]) -> None:
    """librdkafka 2.16 sends Metadata v13 with 3 of them."""
    api, version, direction = case
    message = make(api, version, direction, Random(1))
    body = write(api, version, direction, message)
    assert lists(read(api, version, direction, body + b"\x01\x00\xff")) == lists(message)


# --- kio.serial ---


@pytest.mark.parametrize("case", ALL, ids=label)
def test_kio_reads_what_we_write_field_by_field_and_writes_the_same_bytes(case: tuple[Api, int, Direction]) -> None:
    api, version, direction = case
    struct = load(api, version, direction)
    entity = kio_entity(api, version, direction)
    kio_read, kio_write = entity_reader(entity), entity_writer(entity)
    for seed in SEEDS:
        message = make(api, version, direction, Random(seed))
        body = write(api, version, direction, message)
        theirs, size = kio_read(body, 0)
        assert size == len(body)
        assert_same(struct, message, theirs)
        buffer = io.BytesIO()
        kio_write(buffer, theirs)
        assert buffer.getvalue() == body
        assert_same(struct, read(api, version, direction, buffer.getvalue()), theirs)


# --- kafka-python ---


def _kafka_python(name: str) -> Any:
    for found in pkgutil.walk_packages(kafka.protocol.__path__, "kafka.protocol."):
        if ".old" in found.name or ".schemas" in found.name or "generate" in found.name:
            continue
        module: ModuleType = importlib.import_module(found.name)
        if hasattr(module, name):
            return getattr(module, name)
    return None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", ALL, ids=label)
def test_kafka_python_reads_what_we_write_and_writes_the_same_bytes(case: tuple[Api, int, Direction]) -> None:
    api, version, direction = case
    theirs = _kafka_python(load(api, version, direction).name)
    if theirs is None:
        pytest.skip("kafka-python does not have it")
    if version > theirs.max_version:
        pytest.skip(f"kafka-python knows it up to version {theirs.max_version}")
    for seed in SEEDS:
        message = make(api, version, direction, Random(seed))
        if api.key == ApiKey.API_VERSIONS and direction == "response":
            message.error_code = 0  # with any error, clients read version 0
        if direction == "request":
            frame = b"".join(codec.write_request(api.key, version, seed, "a client", message))
        else:
            frame = b"".join(codec.write_response(api.key, version, seed, message))
        decoded = theirs.decode(frame, version=version, header=True, framed=True)
        assert decoded.header.correlation_id == seed
        decoded._header = None
        body = bytes(decoded.encode(version=version))
        assert body == write(api, version, direction, message)
        assert frame.endswith(body)


# --- what the server relies on ---


def test_records_are_views_into_the_frame() -> None:
    types = codec.request_types(ApiKey.PRODUCE)
    partition = types.PartitionProduceData(index=7, records=b"r" * 1000)
    request = types.ProduceRequest(acks=-1, topic_data=[types.TopicProduceData(name="t", partition_data=[partition])])
    for version in (3, 9):
        frame = bytearray(b"".join(codec.request_writer(ApiKey.PRODUCE, version)(request, bytearray())))
        records = codec.read_request(ApiKey.PRODUCE, version, memoryview(frame)).topic_data[0].partition_data[0].records
        assert isinstance(records, memoryview)
        frame[frame.index(b"rrr")] = ord("x")
        assert bytes(records) == b"x" + b"r" * 999


class Slice:
    """A stretch of a file that goes by sendfile: all that is known of it is its length."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def __len__(self) -> int:
        return self.size_bytes


@pytest.mark.parametrize("version", [4, 11, 12, 17])
def test_records_that_are_written_stay_the_object_they_were(version: int) -> None:
    types = codec.response_types(ApiKey.FETCH)
    slices = [Slice(1_000_000), Slice(100)]
    partitions = [types.PartitionData(partition_index=i, records=part) for i, part in enumerate(slices)]
    answer = types.FetchResponse(responses=[types.FetchableTopicResponse(topic="t", partitions=partitions)])
    buffers = codec.write_response(ApiKey.FETCH, version, 77, answer)
    assert [buffer for buffer in buffers if isinstance(buffer, Slice)] == slices
    assert int.from_bytes(buffers[0][:4], "big") + 4 == sum(map(len, buffers))
    assert int.from_bytes(buffers[0][4:8], "big") == 77
    whole = b"".join(bytes(part.size_bytes) if isinstance(part, Slice) else bytes(part) for part in buffers)
    body = memoryview(whole)[9 if version >= 12 else 8 :]
    read_back = codec.read_response(ApiKey.FETCH, version, body).responses[0].partitions
    assert [len(partition.records) for partition in read_back] == [1_000_000, 100]


def test_an_api_versions_response_has_a_header_without_tags() -> None:
    types = codec.response_types(ApiKey.API_VERSIONS)
    (frame,) = codec.write_response(ApiKey.API_VERSIONS, 3, 5, types.ApiVersionsResponse(error_code=35))
    assert bytes(frame[:10]) == b"\0\0\0\x0c" + b"\0\0\0\x05" + b"\0\x23"


def test_fields_of_other_versions_are_left_out_and_read_as_their_defaults() -> None:
    types = codec.request_types(ApiKey.FETCH)
    request = types.FetchRequest(session_id=9, session_epoch=4, rack_id="r", max_wait_ms=500)
    read_back = read(api_for(ApiKey.FETCH), 4, "request", write(api_for(ApiKey.FETCH), 4, "request", request))
    assert (read_back.session_id, read_back.session_epoch, read_back.rack_id) == (0, -1, "")
    assert read_back.max_wait_ms == 500


def test_any_object_with_the_fields_can_be_written() -> None:
    class Answer:
        throttle_time_ms = 0
        error_code = 0
        producer_id = 5
        producer_epoch = 1

    (frame,) = codec.write_response(ApiKey.INIT_PRODUCER_ID, 0, 1, Answer())
    assert frame.endswith(b"\0" * 7 + b"\x05\0\x01")


def test_a_value_that_does_not_fit_names_its_field() -> None:
    types = codec.response_types(ApiKey.PRODUCE)
    wrong = types.PartitionProduceResponse(index=2**40)
    answer = types.ProduceResponse(responses=[types.TopicProduceResponse(partition_responses=[wrong])])
    with pytest.raises(Exception, match="format requires") as caught:
        codec.write_response(ApiKey.PRODUCE, 9, 1, answer)
    (note,) = caught.value.__notes__
    assert note == "while writing responses.partition_responses.index of Produce v9 response"


def test_what_is_usual_can_be_prepared() -> None:
    codec.request_reader.cache_clear()
    codec.response_writer.cache_clear()
    steps = len(list(codec.prepare()))
    made = codec.request_reader.cache_info().currsize, codec.response_writer.cache_info().currsize
    assert made == (steps // 2, steps // 2)
    assert {key for key, _ in USUAL} >= {ApiKey.METADATA, ApiKey.API_VERSIONS}


def test_arrays_of_uuids() -> None:
    """No message of the table has one yet; those of the groups to come do."""
    field = Field("ids", "uuid", array=True, nullable=False, tag=None, default=(), struct=None)
    struct = Struct("Ids", flexible=True, fields=(field,))
    message = SimpleNamespace(ids=[b"a" * 16, b"b" * 16, b"c" * 16])
    (body,) = compile_writer("a message", struct)(message, bytearray())
    assert bytes(body) == b"\x04" + b"a" * 16 + b"b" * 16 + b"c" * 16 + b"\0"
    types = SimpleNamespace(Ids=make_dataclass("Ids", ["ids"]))
    assert compile_reader("a message", struct, types)(memoryview(body)).ids == message.ids
