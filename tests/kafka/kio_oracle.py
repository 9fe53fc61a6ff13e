"""kio.serial as an oracle: it reads the same schemas, by code that is not ours."""

from __future__ import annotations

import datetime
import importlib
import uuid
from typing import Any

from kbroker.kafka.apis import Api
from kbroker.kafka.schema import NO_UUID, Direction, Field, Struct, load


def kio_entity(api: Api, version: int, direction: Direction) -> Any:
    """kio's class of that message."""
    module = importlib.import_module(f"kio.schema.{api.key.name.lower()}.v{version}.{direction}")
    return getattr(module, load(api, version, direction).name)


def assert_same(struct: Struct, ours: Any, theirs: Any) -> None:
    """Our message and kio's say the same, field by field."""
    for field in struct.fields:
        mine = getattr(ours, field.name)
        other = getattr(theirs, field.name if hasattr(theirs, field.name) else field.name.removesuffix("_ms"))
        where = f"{struct.name}.{field.name}"
        if field.array and mine is not None:
            assert len(mine) == len(other), where
            for one, their_one in zip(mine, other, strict=True):
                _same_value(field, one, their_one, where)
        elif field.tag is not None and field.struct is not None and mine is None:
            continue  # not sent: kio shows the default
        else:
            _same_value(field, mine, other, where)


def _same_value(field: Field, mine: Any, other: Any, where: str) -> None:
    if field.struct is not None and mine is not None:
        assert_same(field.struct, mine, other)
        return
    if isinstance(other, datetime.timedelta):
        other = other // datetime.timedelta(milliseconds=1)
    elif isinstance(other, datetime.datetime):
        other = round(other.timestamp() * 1000)
    elif isinstance(other, uuid.UUID):
        other = other.bytes
    elif field.kind == "error_code":
        other = other.value
    elif other is None and field.kind == "uuid":
        other = NO_UUID
    elif other is None and field.kind == "datetime_i64":
        other = -1
    assert mine == other, where
