"""Reads and writes Kafka's messages: the compiled readers and writers, each made when it is first asked for.

    request = read_request(ApiKey.METADATA, 12, frame.body)
    types = response_types(ApiKey.METADATA)
    answer = types.MetadataResponse(brokers=[types.MetadataResponseBroker(node_id=0, host="::1", port=9092)])
    buffers = write_response(ApiKey.METADATA, 12, frame.correlation_id, answer)

Making one takes some milliseconds (kio's module of that message and version is imported then); `prepare` does it
ahead, where others will be forked from. Versions outside the table in apis.py raise UnsupportedVersion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from struct import Struct as Packing
from types import SimpleNamespace
from typing import Any, Final

from kbroker.kafka.apis import USUAL, api_for, served
from kbroker.kafka.messages import make_types
from kbroker.kafka.reader import ELEMENTS_MAX, Reader, compile_reader
from kbroker.kafka.schema import Direction, load
from kbroker.kafka.writer import Writer, compile_writer

_RESPONSE_HEAD: Final = Packing(">ii")  # size of what follows, correlation id
_REQUEST_HEAD: Final = Packing(">ihhi")  # size of what follows, API, version, correlation id
_SIZE: Final = Packing(">i")
_TAGS_NONE: Final = b"\0"


@cache
def request_types(api_key: int) -> SimpleNamespace:
    """The classes of an API's request by name, as attributes: `request_types(ApiKey.FETCH).FetchRequest`."""
    return make_types(api_for(api_key), "request")


@cache
def response_types(api_key: int) -> SimpleNamespace:
    """The classes of an API's response by name, as attributes: `response_types(ApiKey.FETCH).PartitionData`."""
    return make_types(api_for(api_key), "response")


@cache
def request_reader(api_key: int, version: int) -> Reader:
    """`(body) -> message`, for a loop that keeps it at hand."""
    return _reader(api_key, version, "request", request_types(api_key))


@cache
def response_reader(api_key: int, version: int) -> Reader:
    """`(body) -> message`, as a client reads."""
    return _reader(api_key, version, "response", response_types(api_key))


@cache
def request_writer(api_key: int, version: int) -> Writer:
    """`(message, head) -> buffers`, as a client writes: without the frame's head."""
    return _writer(api_key, version, "request")


@cache
def response_writer(api_key: int, version: int) -> Writer:
    """`(message, head) -> buffers`, without the frame's head, which the caller may have put into `head`."""
    return _writer(api_key, version, "response")


def read_request(api_key: int, version: int, body: memoryview, elements_max: int = ELEMENTS_MAX) -> Any:
    """The request in a frame's body (after the header). `records` in it are views into `body`.

    Raises MalformedRequest naming API, version and field; UnsupportedVersion.
    """
    return request_reader(api_key, version)(body, elements_max)


def read_response(api_key: int, version: int, body: memoryview, elements_max: int = ELEMENTS_MAX) -> Any:
    """The response in a frame's body (after the header). Raises MalformedRequest, UnsupportedVersion."""
    return response_reader(api_key, version)(body, elements_max)


def write_response(api_key: int, version: int, correlation_id: int, message: Any) -> list[Any]:
    """A whole response frame, size and header included, as buffers to send one after the other.

    Every `records` field is a buffer of its own, the very object that was in the message.
    """
    head = bytearray(_RESPONSE_HEAD.pack(0, correlation_id))
    if api_for(api_key).response_header_version(version):
        head += _TAGS_NONE
    return _sized(response_writer(api_key, version)(message, head))


def write_request(api_key: int, version: int, correlation_id: int, client_id: str | None, message: Any) -> list[Any]:
    """A whole request frame, size and header included, as buffers to send one after the other."""
    head = bytearray(_REQUEST_HEAD.pack(0, api_key, version, correlation_id))
    if client_id is None:
        head += b"\xff\xff"
    else:
        text = client_id.encode()
        head += len(text).to_bytes(2, "big") + text
    if api_for(api_key).request_header_version(version) == 2:
        head += _TAGS_NONE
    return _sized(request_writer(api_key, version)(message, head))


def prepare(wanted: Iterable[tuple[int, Iterable[int]]] = USUAL) -> Iterator[None]:
    """Makes the readers of requests and the writers of responses for these APIs and their versions.

    One reader or writer each time that the iterator is asked.
    """
    for api_key, versions in wanted:
        for version in versions:
            request_reader(api_key, version)
            yield
            response_writer(api_key, version)
            yield


def _sized(buffers: list[Any]) -> list[Any]:
    """Puts the frame's size into its first 4 bytes."""
    if len(buffers) > 1 and not buffers[-1]:
        buffers.pop()
    _SIZE.pack_into(buffers[0], 0, sum(map(len, buffers)) - 4)
    return buffers


def _reader(api_key: int, version: int, direction: Direction, types: SimpleNamespace) -> Reader:
    api = served(api_key, version)
    return compile_reader(f"{api.name} v{version} {direction}", load(api, version, direction), types)


def _writer(api_key: int, version: int, direction: Direction) -> Writer:
    api = served(api_key, version)
    return compile_writer(f"{api.name} v{version} {direction}", load(api, version, direction))
