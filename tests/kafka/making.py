"""Random messages for any schema, and every API, version and direction there is."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

from kbroker.kafka import codec
from kbroker.kafka.apis import APIS, Api
from kbroker.kafka.schema import NO_UUID, Direction, Field, Struct, load

INTEGERS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64, "timedelta_i32": 32}

ALL: list[tuple[Api, int, Direction]] = [
    (api, version, direction)
    for api in APIS
    for version in range(api.min_version, api.max_version + 1)
    for direction in ("request", "response")
]


def label(case: Any) -> str:
    """The name of a test for an entry of ALL."""
    if isinstance(case, tuple):
        api, version, direction = case
        return f"{api.name}-v{version}-{direction}"
    return str(case)


def types_of(api: Api, direction: Direction) -> SimpleNamespace:
    return codec.request_types(api.key) if direction == "request" else codec.response_types(api.key)


def read(api: Api, version: int, direction: Direction, body: bytes) -> Any:
    reader = codec.request_reader if direction == "request" else codec.response_reader
    return reader(api.key, version)(memoryview(body))


def write(api: Api, version: int, direction: Direction, message: Any) -> bytes:
    writer = codec.request_writer if direction == "request" else codec.response_writer
    return b"".join(writer(api.key, version)(message, bytearray()))


def make(api: Api, version: int, direction: Direction, random: Random) -> Any:
    """A message of that version with every field set by chance."""
    return make_struct(load(api, version, direction), types_of(api, direction), random)


def make_struct(struct: Struct, types: SimpleNamespace, random: Random) -> Any:
    values = {field.name: _value(field, types, random) for field in struct.fields}
    return getattr(types, struct.name)(**values)


def _value(field: Field, types: SimpleNamespace, random: Random) -> Any:
    if field.tag is not None and random.random() < 0.5:
        return field.default
    if field.nullable and random.random() < 0.3:
        return None
    if field.array:
        return [_one(field, types, random) for _ in range(random.choice((0, 1, 1, 2, 3)))]
    value = _one(field, types, random)
    if field.tag is not None and field.struct is not None and value == type(value)():
        return None  # the same to a reader; Kafka does not send it
    return value


def _one(field: Field, types: SimpleNamespace, random: Random) -> Any:
    kind = field.kind
    if field.struct is not None:
        return make_struct(field.struct, types, random)
    if kind == "bool":
        return random.random() < 0.5
    if kind == "error_code":
        return random.randint(-1, 100)
    if kind == "string":
        return "".join(random.choices("abc-_.äß日🙂", k=random.choice((0, 1, 9, 40, 200))))
    if kind in ("bytes", "records"):
        return random.randbytes(random.choice((0, 1, 61, 126, 127, 128, 300, 20_000)))
    if kind == "uuid":
        return random.choice((NO_UUID, random.randbytes(16)))
    if kind == "datetime_i64":
        return random.choice((-1, random.randrange(0, 4_000_000_000) * 1000))
    if kind == "timedelta_i64":
        return random.randrange(-(2**40), 2**40)
    if kind == "uint16":
        return random.randrange(2**16)
    if kind == "float64":
        return random.uniform(-1e9, 1e9)
    bits = INTEGERS[kind]
    return random.choice((0, -1, 1, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, random.randrange(100)))


def lists(value: Any) -> Any:
    """The message as plain maps and lists, so that an empty tuple equals an empty list, and a view its bytes."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: lists(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, list | tuple):
        return [lists(item) for item in value]
    return bytes(value) if isinstance(value, memoryview) else value
