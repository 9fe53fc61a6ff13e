"""Every field of every request with values that no proper client sends: answered, and nobody falls over."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from kbroker.errors import KbrokerError
from kbroker.testing import Broker
from kbroker.wire import messages as m
from kbroker.wire.schema import to_map
from tests.broker.raw_client import RawClient, batch, direct

ODD: list[Any] = [
    None, True, -1, -2, -3, 0, 1, 7, 2**31 - 1, 2**31, 2**63 - 1, -(2**63), 2**64 - 1, 1.5, "", "x", "x" * 100_000,
    "\0", "../../etc", b"", b"\xff" * 16, b"x" * 17, [], [None], [[]], {}, {"": ""}, {"x": None}, [{}], ["x"] * 1000,
]  # fmt: skip

PLACES: dict[str, Any] = {
    "partitions": [{"topic": "odd", "partition": 0, "offset": 0, "timestamp_ms": 0}],
    "topics": [{"name": "odd-2"}],
    "names": ["nobody"],
    "topic": "odd",
    "name": "odd",
    "partition": 0,
    "total": 1,
}


def usual(request: type) -> dict[str, Any]:
    """A request of that kind in whose place nothing is odd yet; it waits for nothing."""
    fields = {item.name: PLACES[item.name] for item in dataclasses.fields(request) if item.name in PLACES}
    return {**fields, "op": request.OP, "v": 1, "max_wait_ms": 0}  # type: ignore[attr-defined]  # each request has one


def odd_requests(request: type) -> Iterator[dict[str, Any]]:
    for item in dataclasses.fields(request):
        for value in ODD:
            yield {**usual(request), item.name: value}
    inner = {m.Fetch: m.FetchPartition, m.ListOffsets: m.OffsetQuery, m.CreateTopics: m.NewTopic}.get(request)
    if inner is not None:
        (several,) = {"partitions", "topics"} & {item.name for item in dataclasses.fields(request)}
        for item in dataclasses.fields(inner):
            for value in ODD:
                yield {**usual(request), several: [{**PLACES[several][0], item.name: value}]}
    if request is m.Fetch:
        for item in dataclasses.fields(m.Credit):
            for value in ODD:
                yield {**usual(request), "credit": {**to_map(m.Credit()), item.name: value}}


@pytest.mark.parametrize("request_", m.REQUESTS, ids=lambda request: request.OP)
def test_every_odd_value_is_answered(broker: Broker, client: RawClient, request_: type) -> None:
    if not client.ask(m.MetadataAnswer, m.Metadata(["odd"])).topics[0].partitions:
        client.create("odd")
    before = {name: process["pid"] for name, process in broker.processes().items()}
    payload = [batch(1)] if request_ is m.Produce else []
    with RawClient(direct(broker, 0)) as first, RawClient(direct(broker, 1)) as second:
        for door in (client, first, second):
            for fields in odd_requests(request_):
                if "max_wait_ms" in fields and type(fields["max_wait_ms"]) is int and fields["max_wait_ms"] > 7:
                    continue  # parks, as it should; test_fetch has those
                header = door.take(door.send_header(msgpack.packb(fields), *payload))[0]
                answer = msgpack.unpackb(header)
                assert type(answer["error"]) is int
                assert answer["error"] == 0 or answer["message"], fields
    assert {name: process["pid"] for name, process in broker.processes().items()} == before
    with pytest.raises(KbrokerError):
        client.ask(m.ProduceAnswer, m.Produce("nobody", 0), batch(1))
