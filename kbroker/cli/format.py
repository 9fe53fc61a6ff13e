"""How `kbroker consume` writes a record: kcat's format language, or a JSON object on a line.

    %t topic   %p partition   %o offset   %T timestamp in ms   %k key   %v or %s value   %h headers, NAME=VALUE,…
    %K and %S: bytes in the key and in the value, -1 for null      %%: a percent sign
    \\n \\r \\t \\0 \\\\ \\xNN: a byte

A format adds nothing of its own; null prints empty. On a terminal what a record holds is escaped where it could steer
the terminal; what the format itself says is not.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kbroker.cli.output import for_terminal, json_text, on_terminal


class Record(Protocol):
    """What a format needs of a consumed record."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> Any: ...
    @property
    def value(self) -> Any: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


Field = Callable[[Record], bytes]
Format = Callable[[Record], bytes]


def _headers(record: Record) -> bytes:
    return b",".join(name.encode() + b"=" + (value or b"") for name, value in record.headers)


def _number(value: int) -> bytes:
    return b"%d" % value


_FIELDS: dict[str, Field] = {
    "t": lambda record: record.topic.encode(),
    "p": lambda record: _number(record.partition),
    "o": lambda record: _number(record.offset),
    "T": lambda record: _number(record.timestamp),
    "k": lambda record: bytes(record.key or b""),
    "v": lambda record: bytes(record.value or b""),
    "s": lambda record: bytes(record.value or b""),
    "h": _headers,
    "K": lambda record: _number(-1 if record.key is None else len(record.key)),
    "S": lambda record: _number(-1 if record.value is None else len(record.value)),
}
_ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0", "\\": b"\\"}
_TOKEN = re.compile(r"%(.?)|\\x([0-9A-Fa-f]{2})|\\(.?)|([^%\\]+)", re.DOTALL)
_ESCAPE = re.compile(r"\\x([0-9A-Fa-f]{2})|\\(.?)|([^\\]+)", re.DOTALL)


def _escaped(byte: str | None, escape: str | None, literal: str | None) -> bytes:
    if byte is not None:
        return bytes.fromhex(byte)
    if literal is not None:
        return literal.encode("utf-8", "surrogateescape")
    if escape not in _ESCAPES:
        raise ValueError(f"\\{escape} is no escape; known are \\n \\r \\t \\0 \\\\ and \\xNN")
    return _ESCAPES[escape]


def compile_text(text: str) -> bytes:
    """The bytes that `text` with its escapes stands for. Raises ValueError for an unknown escape."""
    return b"".join(_escaped(*match.groups()) for match in _ESCAPE.finditer(text))


def _field(name: str, is_escaped: bool) -> Field:
    read = _FIELDS[name]
    return (lambda record: for_terminal(read(record))) if is_escaped else read


def compile_format(text: str) -> Format:
    """A function that writes a record as `text` says. Raises ValueError naming what is not known."""
    is_escaped = on_terminal()
    parts: list[Field | bytes] = []
    for match in _TOKEN.finditer(text):
        field, byte, escape, literal = match.groups()
        if field is None:
            parts.append(_escaped(byte, escape, literal))
        elif field == "%":
            parts.append(b"%")
        elif field in _FIELDS:
            parts.append(_field(field, is_escaped))
        else:
            raise ValueError(f"%{field} is no field; known are " + " ".join(f"%{name}" for name in _FIELDS) + " and %%")

    def write(record: Record) -> bytes:
        return b"".join([part if isinstance(part, bytes) else part(record) for part in parts])

    return write


def value_lines(record: Record) -> bytes:
    """The default format, `%v\\n`, without the detours; into a pipe."""
    return bytes(record.value or b"") + b"\n"


def _text(name: str, value: bytes | None) -> dict[str, str | None]:
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def json_line(record: Record) -> bytes:
    """A JSON object on a line. A key or value that is not UTF-8 stands as `key_base64`, `value_base64`."""
    fields: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp,
        **_text("key", record.key),
        **_text("value", record.value),
        "headers": [{"name": name, **_text("value", value)} for name, value in record.headers],
    }
    return json_text(fields).encode() + b"\n"
