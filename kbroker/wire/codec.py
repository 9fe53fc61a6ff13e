"""Messages to headers and back. The limits on sizes are checked by the process that receives the frames."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar, cast

import msgpack

from kbroker.errors import InvalidRequest, RequestError, UnsupportedVersion, code_of, error_for
from kbroker.wire.group_messages import GROUP_REQUESTS
from kbroker.wire.messages import PARTITION_OPS, PROTOCOL_VERSION, REQUESTS
from kbroker.wire.schema import compile_message, to_map

A = TypeVar("A")

REQUEST_ID_BYTES_MAX = 16


@cache
def _decoder(cls: type) -> Callable[[Any, str], Any]:
    return compile_message(cls)


_REQUESTS_BY_OP: dict[str, type] = {cls.OP: cls for cls in (*REQUESTS, *GROUP_REQUESTS)}


_pack_produced: Final = msgpack.Packer(buf_size=1024).pack


def _pack(fields: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


def _unpack(header: bytes | memoryview) -> dict[str, Any]:
    try:
        # A header is bounded in bytes; msgpack bounds every count by the bytes that are there.
        value = msgpack.unpackb(header, raw=False, strict_map_key=True)
    except Exception as error:  # msgpack raises many kinds; all mean the same
        raise InvalidRequest(f"the header is not msgpack: {error or type(error).__name__}") from None
    if type(value) is not dict:
        raise InvalidRequest(f"the header must be a map, not {type(value).__name__}")
    return value


def encode_request(request: Any) -> bytes:
    """The header of a request."""
    return _pack({"op": request.OP, "v": PROTOCOL_VERSION, **to_map(request)})


def unpack_request(header: bytes | memoryview) -> dict[str, Any]:
    """A request's header as a map whose `op` is known and whose version we speak; fields not yet checked.

    Raises InvalidRequest or UnsupportedVersion, naming what was wrong.
    """
    fields = _unpack(header)
    version = fields.get("v")
    if version != PROTOCOL_VERSION:
        raise UnsupportedVersion(f"protocol version {version!r:.40} is not spoken here; this broker speaks 1")
    op = fields.get("op")
    if not isinstance(op, str) or op not in _REQUESTS_BY_OP:
        raise InvalidRequest(f"unknown operation {op!r:.60}; known are {', '.join(_REQUESTS_BY_OP)}")
    return fields


def decode_request(fields: dict[str, Any]) -> Any:
    """The message in a header that `unpack_request` passed. Raises InvalidRequest naming the field at fault."""
    return _decoder(_REQUESTS_BY_OP[fields["op"]])(fields, fields["op"])


def route_of(fields: dict[str, Any]) -> tuple[str, int] | None:
    """The partition whose owner gets this request; None: the coordinator. Raises InvalidRequest."""
    op = fields["op"]
    if op not in PARTITION_OPS:
        return None
    first = fields
    if "partitions" in fields:
        several = fields["partitions"]
        if type(several) is not list or not several or type(several[0]) is not dict:
            raise InvalidRequest(f"{op}.partitions must be a list of at least one map")
        first = several[0]
    topic, partition = first.get("topic"), first.get("partition")
    if type(topic) is not str or type(partition) is not int:
        raise InvalidRequest(f"{op} must name a topic (text) and a partition (integer)")
    return topic, partition


def encode_answer(answer: Any) -> bytes:
    """The header of an answer that succeeded (single partitions or topics in it may still carry errors)."""
    return _pack({"error": 0, **to_map(answer)})


def encode_produced(base_offset: int, next_offset: int, log_start_offset: int, append_time_ms: int) -> bytes:
    """`encode_answer(ProduceAnswer(…))`, which each produce request needs: without the object, without its map, and
    without a packer of its own. For a single thread."""
    packed: bytes = _pack_produced(
        {
            "error": 0,
            "base_offset": base_offset,
            "next_offset": next_offset,
            "log_start_offset": log_start_offset,
            "append_time_ms": append_time_ms,
        }
    )
    return packed


def encode_error(error: BaseException) -> bytes:
    """The header of an answer that failed as a whole."""
    return _pack({"error": code_of(error), "message": str(error)})


def decode_answer(cls: type[A], header: bytes | memoryview) -> A:
    """The answer in a header. Raises the RequestError that it carries, or InvalidRequest for one of the wrong form."""
    fields = _unpack(header)
    code = fields.get("error")
    if type(code) is not int:
        raise InvalidRequest("the answer has no error code")
    if code:
        raise error_for(code, str(fields.get("message", "")))
    answer: A = _decoder(cast(Any, cls))(fields, cls.__name__)
    return answer


def raise_error(code: int, message: str) -> None:
    """Raise the error of a single partition or topic inside an answer; does nothing for code 0."""
    if code:
        error: RequestError = error_for(code, message)
        raise error
