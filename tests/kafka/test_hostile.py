"""Whatever the bytes: a message or MalformedRequest, in time and memory bounded by the frame."""

from __future__ import annotations

import time
import tracemalloc
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbroker.errors import MalformedRequest
from kbroker.kafka import codec
from kbroker.kafka.apis import Api, ApiKey, api_for
from kbroker.kafka.schema import Direction

from .making import ALL, label, make, read, write

BODY_BYTES_MAX = 500


def small(api: Api, version: int, direction: Direction) -> bytes:
    """A valid message, small enough that each of its bytes can be tried."""
    bodies = [write(api, version, direction, make(api, version, direction, Random(seed))) for seed in range(40)]
    return max((body for body in bodies if len(body) <= BODY_BYTES_MAX), key=len, default=min(bodies, key=len))


def attempt(api: Api, version: int, direction: Direction, body: bytes) -> Any:
    """The message, or None when it was refused; any other exception fails the test."""
    try:
        return read(api, version, direction, body)
    except MalformedRequest as error:
        if not str(error).startswith(f"{api.name} v{version} {direction}: "):
            raise
        return None


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=label)
def test_every_truncation_is_refused(case: tuple[Api, int, Direction]) -> None:
    api, version, direction = case
    body = small(api, version, direction)
    for size in range(min(len(body), BODY_BYTES_MAX)):
        assert attempt(api, version, direction, body[:size]) is None, size


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=label)
def test_no_mutation_of_one_byte_does_harm(case: tuple[Api, int, Direction]) -> None:
    api, version, direction = case
    body = bytearray(small(api, version, direction))
    for position in range(min(len(body), BODY_BYTES_MAX)):
        before = body[position]
        for value in (0, 1, 0x7F, 0x80, 0xFF, before ^ 1):
            body[position] = value
            attempt(api, version, direction, bytes(body))
        body[position] = before


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ALL), st.binary(max_size=300))
def test_any_bytes(case: tuple[Api, int, Direction], body: bytes) -> None:
    attempt(*case, body)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(ALL),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 4), st.binary(max_size=5)), min_size=1, max_size=4),
)
def test_any_edits(case: tuple[Api, int, Direction], edits: list[tuple[int, int, bytes]]) -> None:
    body = small(*case)
    for at, cut, put in edits:
        position = at % (len(body) + 1)
        body = body[:position] + put + body[position + cut :]
    attempt(*case, body)


HUGE = {
    "2^31-1 elements": (
        ApiKey.METADATA,
        4,
        b"\x7f\xff\xff\xff",
        "topics: 2147483647 elements are announced in 0 bytes",
    ),
    "2^32-2 elements": (ApiKey.METADATA, 9, b"\xff\xff\xff\xff\x0f", "topics: 4294967294 elements are announced"),
    "a count of 36 bits": (ApiKey.METADATA, 9, b"\xff\xff\xff\xff\x1f", "longer than 32 bits"),
    "a count without end": (ApiKey.METADATA, 9, b"\xff" * 11, "longer than 32 bits"),
    "-2 elements": (ApiKey.METADATA, 4, b"\xff\xff\xff\xfe", "topics: the length -2 is negative"),
    "-1 where null cannot be": (ApiKey.METADATA, 0, b"\xff\xff\xff\xff", "topics: must not be null"),
    "null where it cannot be": (ApiKey.API_VERSIONS, 3, b"\0\0\0", "client_software_name: must not be null"),
    "a string of 32767 bytes": (ApiKey.METADATA, 4, b"\0\0\0\x01\x7f\xffabc", "topics.name: 32767 bytes are announced"),
    "a string of -2 bytes": (ApiKey.METADATA, 4, b"\0\0\0\x01\xff\xfeabc", "topics.name: the length -2 is negative"),
    "text that is not UTF-8": (
        ApiKey.API_VERSIONS,
        3,
        b"\x02\xff\x02a\0",
        "client_software_name: the text is not UTF-8",
    ),
    "a surrogate": (ApiKey.API_VERSIONS, 3, b"\x04\xed\xa0\x80\x02a\0", "client_software_name: the text is not UTF-8"),
    "2^32-1 tags": (
        ApiKey.API_VERSIONS,
        3,
        b"\x02a\x02a\xff\xff\xff\xff\x0f",
        "tags: the message has too many elements",
    ),
    "100 tags in no bytes": (ApiKey.API_VERSIONS, 3, b"\x02a\x02a\x64", "tags: 100 tagged fields in 0 bytes"),
    "a tag that ends too late": (ApiKey.API_VERSIONS, 3, b"\x02a\x02a\x01\x05\x09a", "tags: a tagged field of 9 bytes"),
    "records of 2^31-1 bytes": (
        ApiKey.PRODUCE,
        3,
        b"\xff\xff"
        + b"\xff\xff"
        + b"\0\0\0\x01"
        + b"\0\0\0\x01"
        + b"\0\x01t"
        + b"\0\0\0\x01"
        + b"\0\0\0\0"
        + b"\x7f\xff\xff\xff",
        "Produce v3 request: topic_data.partition_data.records: 2147483647 bytes are announced and 0 are left",
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_length_that_cannot_be_allocates_nothing(name: str) -> None:
    key, version, body, said = HUGE[name]
    codec.request_reader(key, version)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedRequest, match=said):
            codec.read_request(key, version, memoryview(body))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_large_frame_of_tiny_elements_is_refused() -> None:
    count = 1_000_000
    body = memoryview(count.to_bytes(4, "big") + b"\0\0" * count)  # a million topics with no name
    with pytest.raises(MalformedRequest, match="topics: the message has too many elements"):
        codec.read_request(ApiKey.METADATA, 4, body)


def test_unknown_tagged_fields_are_stepped_over_in_linear_time() -> None:
    def seconds(count: int) -> float:
        tags = b"".join(codec_varint(tag) + b"\x01x" for tag in range(100, 100 + count))
        body = memoryview(b"\x02a\x02b" + codec_varint(count) + tags)
        best = 9.9
        for _ in range(3):
            start = time.process_time()
            request = codec.read_request(ApiKey.API_VERSIONS, 3, body)
            best = min(best, time.process_time() - start)
            assert (request.client_software_name, request.client_software_version) == ("a", "b")
        return best

    assert seconds(100_000) < 40 * seconds(10_000) + 0.01


def codec_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize("extra", [b"\x07\x00", b"\xc8\x01\x03abc"])
def test_unknown_tags_between_known_ones(extra: bytes) -> None:
    """Fetch v17 has known tags (0: cluster_id, 1: replica_state): one that nobody knows beside them does no harm."""
    api = api_for(ApiKey.FETCH)
    types = codec.request_types(ApiKey.FETCH)
    body = write(api, 17, "request", types.FetchRequest(cluster_id="c"))
    tagged = b"\x01\x00\x02\x02c"  # one field: tag 0, 2 bytes
    assert body.endswith(tagged)
    request = read(api, 17, "request", body[: -len(tagged)] + b"\x02" + tagged[1:] + extra)
    assert request.cluster_id == "c"


def test_a_tagged_field_must_end_where_its_size_says() -> None:
    api = api_for(ApiKey.FETCH)
    body = write(api, 17, "request", codec.request_types(ApiKey.FETCH).FetchRequest())
    with pytest.raises(MalformedRequest, match="does not end where its size says"):
        read(api, 17, "request", body[:-1] + b"\x01\x00\x03\x02cc")
