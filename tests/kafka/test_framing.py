"""The framer: sizes, headers, any split of the stream, and what is not Kafka."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbroker.errors import MalformedRequest, UnsupportedVersion
from kbroker.kafka import codec
from kbroker.kafka.apis import APIS, ApiKey
from kbroker.kafka.framing import FrameLimits, Request, RequestFramer

from .making import make

LIMITS = FrameLimits(produce_bytes=1_000_000, other_bytes=100_000, stranger_bytes=10_000)


def stream(seeds: range = range(3)) -> tuple[bytes, list[tuple[int, int, int, bytes]]]:
    """Requests of every API one after the other, and what must come out."""
    frames, expected = [], []
    correlation_id = 0
    for seed in seeds:
        for api in APIS:
            for version in (api.min_version, api.max_version):
                message = make(api, version, "request", Random(seed))
                client_id = (None, "", "a client", "Ω" * 40)[correlation_id % 4]
                frame = b"".join(codec.write_request(api.key, version, correlation_id, client_id, message))
                if len(frame) > 90_000:
                    continue
                frames.append(frame)
                body = b"".join(codec.request_writer(api.key, version)(message, bytearray()))
                expected.append((int(api.key), version, correlation_id, body))
                correlation_id += 1
    return b"".join(frames), expected


def taken(request: Request) -> tuple[int, int, int, bytes]:
    return request.api_key, request.version, request.correlation_id, bytes(request.body)


def drain(framer: RequestFramer) -> list[tuple[int, int, int, bytes]]:
    found = []
    while request := framer.next_request():
        found.append(taken(request))
    return found


BYTES, EXPECTED = stream()


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 64, 1000, 4096, 65536, 10**9])
def test_requests_come_out_whole_however_the_stream_is_cut(step: int) -> None:
    framer = RequestFramer(LIMITS)
    found = []
    buffer = bytearray(min(step, len(BYTES)))
    for start in range(0, len(BYTES), step):
        piece = BYTES[start : start + step]
        buffer[: len(piece)] = piece  # one buffer, as a loop has: nothing unfinished may look into it
        framer.receive(memoryview(buffer)[: len(piece)])
        found += drain(framer)
    assert found == EXPECTED
    assert framer.buffered_bytes == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, len(BYTES)), max_size=20), st.booleans())
def test_any_split(cuts: list[int], in_place: bool) -> None:
    framer = RequestFramer(LIMITS)
    edges = [0, *sorted(cuts), len(BYTES)]
    found = []
    for start, end in pairwise(edges):
        piece = BYTES[start:end]
        while in_place and piece and (room := framer.room()) is not None:
            size = min(len(room), len(piece))
            room[:size] = piece[:size]
            framer.filled(size)
            piece = piece[size:]
            found += drain(framer)
        framer.receive(piece)
        found += drain(framer)
    assert found == EXPECTED


def test_a_caller_may_stop_asking_and_reuse_its_buffer() -> None:
    framer = RequestFramer(LIMITS)
    buffer = bytearray(BYTES)
    framer.receive(buffer)
    first = framer.next_request()
    assert first is not None
    found = [taken(first)]
    framer.hold()
    buffer[:] = bytes(len(buffer))
    second = framer.next_request()
    assert second is not None
    assert not second.body.readonly, "batches are numbered in place"
    assert [*found, taken(second), *drain(framer)] == EXPECTED


def test_an_idle_connection_keeps_no_buffer() -> None:
    framer = RequestFramer(LIMITS)
    buffer = bytearray(frame(b"abc"))
    framer.receive(buffer)
    while framer.next_request():
        pass
    buffer.clear()  # BufferError if someone still looks into it


def test_the_body_of_a_whole_frame_is_not_copied() -> None:
    framer = RequestFramer(LIMITS)
    buffer = bytearray(frame(b"abc"))
    framer.receive(buffer)
    request = framer.next_request()
    assert request is not None
    buffer[-1] = ord("x")
    assert bytes(request.body) == b"abx"


def frame(body: bytes, api_key: int = 3, version: int = 1, client_id: bytes = b"\0\x01c", tags: bytes = b"") -> bytes:
    content = api_key.to_bytes(2, "big", signed=True) + version.to_bytes(2, "big", signed=True) + b"\0\0\0\x07"
    content += client_id + tags + body
    return len(content).to_bytes(4, "big") + content


def one(data: bytes, trusted: bool = True) -> Request | None:
    framer = RequestFramer(LIMITS, trusted=trusted)
    framer.receive(data)
    return framer.next_request()


def test_the_header_with_tagged_fields_keeps_its_old_client_id() -> None:
    request = one(frame(b"body", version=12, tags=b"\x02\x00\x01x\x05\x00"))
    assert request is not None
    assert (request.client_id, bytes(request.body)) == ("c", b"body")


@pytest.mark.parametrize(("version", "tags"), [(1, b""), (12, b"\0")])
def test_a_client_id_that_is_not_utf_8_is_replaced_as_kafka_does(version: int, tags: bytes) -> None:
    framer = RequestFramer(LIMITS)
    framer.receive(2 * frame(b"body", version=version, client_id=b"\0\x04a\xff\xc3b", tags=tags))
    for _ in range(2):  # the second is known by its bytes
        request = framer.next_request()
        assert request is not None
        assert (request.client_id, bytes(request.body)) == ("a��b", b"body")
    assert framer.client_id == "a��b"


def test_small_limits_hold_for_small_frames_too() -> None:
    framer = RequestFramer(FrameLimits(produce_bytes=2_000, other_bytes=1_000))
    framer.receive(frame(bytes(1_500)))
    with pytest.raises(MalformedRequest, match="a frame of Metadata of 1511 bytes is too large: at most 1000"):
        framer.next_request()


def test_a_client_id_may_be_null() -> None:
    request = one(frame(b"", client_id=b"\xff\xff"))
    assert request is not None
    assert request.client_id is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            frame(b"", client_id=b"\0\x20c"),
            "Metadata v1 request header: client_id: 32 bytes are announced and 1 are left",
        ),
        (frame(b"", client_id=b"\xff\xfec"), "client_id: the length -2 is negative"),
        (frame(b"", version=12, tags=b"\xff\xff\xff\xff\x0f"), "tags: 4294967295 tagged fields, and 64 are taken"),
        (frame(b"", version=12, tags=b"\x40"), "tags: 64 tagged fields in 0 bytes"),
        (frame(b"", version=12), "tags: the frame's 11 bytes end here"),
        (b"\0\0\0\0", "a frame of 0 bytes cannot be"),
        (b"\0\0\0\x09", "a frame of 9 bytes cannot be"),
        (b"\xff\xff\xff\xff", "a frame of -1 bytes cannot be"),
        (b"\x80\0\0\0\0\0", "a frame of -2147483648 bytes cannot be"),
        (b"\x7f\xff\xff\xff", "a frame of 2147483647 bytes is too large: at most 1000000"),
        (b"\0\x0f\x42\x41\0\0", "a frame of Produce of 1000001 bytes is too large"),
        (b"\0\x01\x86\xa1\0\x03", "a frame of Metadata of 100001 bytes is too large: at most 100000"),
        (b"\0\x01\x86\xa1\x7f\x03", "a frame of API 32515 of 100001 bytes is too large"),
    ],
)
def test_a_broken_frame_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(MalformedRequest, match=said):
        one(data)


@pytest.mark.parametrize("key", [ApiKey.PRODUCE, ApiKey.METADATA])
def test_a_stranger_may_send_little(key: int) -> None:
    head = (10_001).to_bytes(4, "big") + key.to_bytes(2, "big")
    with pytest.raises(MalformedRequest, match="at most 10000 are taken from a client that has not logged in"):
        one(head, trusted=False)
    assert one(head, trusted=True) is None


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"POST /topics HTTP", "HTTP"),
        (b"PRI * HTTP/2.0\r\n", "HTTP/2"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "TLS"),
        (b"SSH-2.0-OpenSSH", "SSH"),
        (b"*1\r\n$4\r\nPING\r\n", "Redis"),
        (b"\xff\0\0\0\0\0\0\0\x01\x7f\x03", "ZeroMQ"),
        (b"PROXY TCP4 ", "PROXY"),
    ],
)
@pytest.mark.parametrize("step", [1, 4, 100])
def test_another_protocol_is_named(data: bytes, name: str, step: int) -> None:
    framer = RequestFramer(FrameLimits())

    def feed() -> None:
        for start in range(0, len(data), step):
            framer.receive(data[start : start + step])
            framer.next_request()

    with pytest.raises(MalformedRequest, match=f"this is not Kafka.*{name}"):
        feed()


def test_apis_and_versions_that_are_not_served() -> None:
    with pytest.raises(UnsupportedVersion, match="API 71 version 0 is not supported"):
        one(frame(b"", api_key=71, version=0))
    with pytest.raises(UnsupportedVersion, match="API -1 version -1"):
        one(frame(b"", api_key=-1, version=-1))
    with pytest.raises(UnsupportedVersion, match="Produce version 2 is not supported: 3 to 13 are"):
        one(frame(b"", api_key=0, version=2))


def test_api_versions_of_any_version_comes_through_to_be_answered() -> None:
    request = one(frame(b"whatever", api_key=ApiKey.API_VERSIONS, version=99))
    assert request is not None
    assert not request.supported
    assert request.correlation_id == 7


def test_after_an_error_nothing_is_read_on() -> None:
    framer = RequestFramer(LIMITS)
    framer.receive(b"\0\0\0\0" + frame(b""))
    for _ in range(2):
        with pytest.raises(MalformedRequest, match="0 bytes"):
            framer.next_request()
    framer.receive(frame(b""))
    with pytest.raises(MalformedRequest, match="0 bytes"):
        framer.next_request()


def test_an_announced_size_allocates_little() -> None:
    head = (90_000_000).to_bytes(4, "big") + bytes(6)
    tracemalloc.start()
    try:
        framer = RequestFramer(FrameLimits())
        framer.receive(head)
        assert framer.next_request() is None
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
    assert framer.buffered_bytes == 65536
