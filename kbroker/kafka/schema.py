"""What a message looks like in one version, read from kio's schema dataclasses.

Only the module of that message and version is imported. Times become plain integers, and their names say so: a field
that kio calls `timeout` and holds as a timedelta is `timeout_ms`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from kbroker.kafka.apis import Api

Direction = Literal["request", "response"]

FORMATS: Final[dict[str, str]] = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "int64": "q",
    "float64": "d",
    "uuid": "16s",
    "error_code": "h",
    "timedelta_i32": "i",
    "timedelta_i64": "q",
    "datetime_i64": "q",
}
"""Kinds of a fixed size, with their format in `struct`. All others carry a length, or are structs."""

NO_UUID: Final = bytes(16)
"""A uuid that means none."""

_IN_MILLISECONDS: Final = frozenset({"timedelta_i32", "timedelta_i64", "datetime_i64"})
_ZERO: Final[dict[str, Any]] = {"bool": False, "float64": 0.0, "uuid": NO_UUID, "string": "", "bytes": b""}


@dataclass(frozen=True, slots=True)
class Field:
    """One field in one version. `kind` is kio's kafka_type, or "struct"; `tag` is None for one that is always sent.

    `default` is what a message has where it is not set, and what a tagged field is when it is not sent.
    """

    name: str
    kind: str
    array: bool
    nullable: bool
    tag: int | None
    default: Any
    struct: Struct | None

    @property
    def fixed(self) -> bool:
        """Whether it takes the same number of bytes whatever its value."""
        return self.kind in FORMATS and not self.array


@dataclass(frozen=True, slots=True)
class Struct:
    """A message, or what an array of one holds, in one version: its fields in the order of the wire."""

    name: str
    flexible: bool
    fields: tuple[Field, ...]

    @property
    def untagged(self) -> list[Field]:
        """The fields that are always sent."""
        return [field for field in self.fields if field.tag is None]

    @property
    def tagged(self) -> list[Field]:
        """The fields that may be left out, by their tags."""
        return sorted((field for field in self.fields if field.tag is not None), key=lambda field: field.tag or 0)


def load(api: Api, version: int, direction: Direction) -> Struct:
    """The message's schema. Imports kio's module of that version; ImportError means that kio does not have it."""
    with _without_hypothesis():
        module = importlib.import_module(f"kio.schema.{api.key.name.lower()}.v{version}.{direction}")
    (message,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and getattr(getattr(value, "__type__", None), "name", "") == direction
    ]
    return _struct(message)


@contextlib.contextmanager
def _without_hypothesis() -> Iterator[None]:
    """kio loads Hypothesis where an application has it: 0.2 s and 10 MB that a broker's process has no use for."""
    if "hypothesis" in sys.modules:
        yield
        return
    sys.modules["hypothesis"] = None  # type: ignore[assignment]  # what makes an import fail, says Python's reference
    try:
        yield
    finally:
        del sys.modules["hypothesis"]


def _struct(cls: Any) -> Struct:
    return Struct(cls.__name__, cls.__flexible__, tuple(_field(field) for field in dataclasses.fields(cls)))


def _field(field: dataclasses.Field[Any]) -> Field:
    hint, nullable = _without_none(field.type)
    array = typing.get_origin(hint) is tuple
    if array:
        hint, holes = _without_none(typing.get_args(hint)[0])
        assert not holes, f"{field.name}: no array of Kafka's holds nulls"
    struct = _struct(hint) if dataclasses.is_dataclass(hint) else None
    kind = "struct" if struct else str(field.metadata["kafka_type"])
    if kind in FORMATS and not array:
        nullable = False  # kio's None stands for a uuid of zeros or the time -1
    name = f"{field.name}_ms" if kind in _IN_MILLISECONDS else field.name
    return Field(name, kind, array, nullable, field.metadata.get("tag"), _default(field, kind, array), struct)


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    kinds = [arg for arg in typing.get_args(hint) if arg is not types.NoneType]
    (kind,) = kinds
    return kind, len(kinds) < len(typing.get_args(hint))


def _default(field: dataclasses.Field[Any], kind: str, array: bool) -> Any:
    given = field.default
    if array:
        return None if given is None else ()
    if kind in ("struct", "records"):
        return None
    if given is dataclasses.MISSING:
        return _ZERO.get(kind, 0)
    if kind == "uuid":
        return NO_UUID if given is None else given.bytes
    if kind == "datetime_i64":
        assert given is None, f"{field.name}: a time's only default is none"
        return -1
    if kind.startswith("timedelta"):
        return round(given.total_seconds() * 1000)
    if kind == "error_code":
        return int(getattr(given, "value", given))
    return given
