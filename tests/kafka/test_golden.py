"""Frames of real clients are read, and written again as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey, api_for
from kbroker.kafka.framing import FrameLimits, RequestFramer

from .golden_frames import GoldenFrame, load_frames


def check(golden: GoldenFrame) -> None:
    if golden.api_key is None or golden.version is None:
        framer = RequestFramer(FrameLimits(), trusted=True)
        framer.receive(golden.frame)
        request = framer.next_request()
        assert request is not None
        assert framer.next_request() is None
        key, version, body = request.api_key, request.version, request.body
        message = codec.read_request(key, version, body)
        written = b"".join(codec.request_writer(key, version)(message, bytearray()))
    else:
        key, version = golden.api_key, golden.version
        body = memoryview(golden.frame)[8 + api_for(key).response_header_version(version) :]
        message = codec.read_response(key, version, body)
        written = b"".join(codec.response_writer(key, version)(message, bytearray()))
    assert bytes(body[: len(written)]) == written


@pytest.mark.parametrize("golden", load_frames(), ids=lambda golden: golden.name)
def test_a_captured_frame(golden: GoldenFrame) -> None:
    check(golden)


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
