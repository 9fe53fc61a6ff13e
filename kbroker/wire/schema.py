"""Compiles a message's dataclass into a checked decoder: every field's presence and type, by name.

A message is a slots dataclass whose fields are int, str, bytes, bool, list[…], dict[str, …], another such dataclass,
or one of these or None. Fields with a default may be missing. Fields that are not known are skipped, so that a newer
peer may send more.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from kbroker.errors import InvalidRequest

M = TypeVar("M")
Check = Callable[[Any, str], Any]

_SIMPLE = frozenset((int, str, bytes, bool, type(None)))
_INT64 = range(-(2**63), 2**63)


def _plain(kind: type) -> Check:
    def check(value: Any, where: str) -> Any:
        if type(value) is not kind:
            raise InvalidRequest(f"{where} must be {kind.__name__}, not {type(value).__name__}")
        return value

    return check


def _integer(value: Any, where: str) -> Any:
    if type(value) is not int or value not in _INT64:
        raise InvalidRequest(f"{where} must be a 64-bit integer, not {type(value).__name__}")
    return value


def _list(item: Check) -> Check:
    def check(value: Any, where: str) -> Any:
        if type(value) is not list:
            raise InvalidRequest(f"{where} must be a list, not {type(value).__name__}")
        return [item(entry, where) for entry in value]

    return check


def _dict(item: Check) -> Check:
    def check(value: Any, where: str) -> Any:
        if type(value) is not dict or not all(type(key) is str for key in value):
            raise InvalidRequest(f"{where} must be a map with text keys, not {type(value).__name__}")
        return {key: item(entry, f"{where}.{key[:64]}") for key, entry in value.items()}

    return check


def _optional(item: Check) -> Check:
    def check(value: Any, where: str) -> Any:
        return None if value is None else item(value, where)

    return check


def _any(value: Any, _where: str) -> Any:
    return value


def _check_for(hint: Any) -> Check:
    if hint is Any:
        return _any
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (kind,) = [arg for arg in args if arg is not type(None)]
        return _optional(_check_for(kind))
    if origin is list:
        return _list(_check_for(args[0]))
    if origin is dict:
        return _dict(_check_for(args[1]))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return compile_message(hint)
    if hint is int:
        return _integer
    if isinstance(hint, type):
        return _plain(hint)
    raise TypeError(f"no check for {hint!r}")


def compile_message(cls: type[M]) -> Callable[[Any, str], M]:
    """A function `(map, where) -> cls` that raises InvalidRequest naming the field at fault."""
    hints = typing.get_type_hints(cls)
    checks: list[tuple[str, Check, bool]] = [
        (
            item.name,
            _check_for(hints[item.name]),
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING,
        )
        for item in dataclasses.fields(cls)  # type: ignore[arg-type]  # every message is a dataclass
    ]

    def decode(value: Any, where: str) -> M:
        if type(value) is not dict:
            raise InvalidRequest(f"{where} must be a map, not {type(value).__name__}")
        found = {}
        for name, check, required in checks:
            if name in value:
                found[name] = check(value[name], f"{where}.{name}")
            elif required:
                raise InvalidRequest(f"{where}.{name} is missing")
        return cls(**found)

    return decode


def to_map(message: Any) -> dict[str, Any]:
    """The map that stands for a message on the wire; nested messages become maps too."""
    found = {}
    for name in message.__dataclass_fields__:
        value = getattr(message, name)
        found[name] = value if type(value) in _SIMPLE else _plain_value(value)
    return found


def _plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_value(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return to_map(value)
    return value
