"""kcat's format language and the JSON lines of `kbroker consume`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from kbroker.cli.format import compile_format, compile_text, json_line, value_lines


@dataclass
class Consumed:
    topic: str = "orders"
    partition: int = 3
    offset: int = 42
    timestamp: int = 1_700_000_000_000
    key: bytes | None = b"k"
    value: bytes | None = b"v"
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("%v", b"v"),
        ("%s\\n", b"v\n"),
        ("%t-%p@%o %T", b"orders-3@42 1700000000000"),
        ("%k=%v%%\\t\\x00\\xFF\\\\", b"k=v%\t\x00\xff\\"),
        ("%K %S %h", b"1 1 a=1,b=,c=\xff"),
        ("", b""),
        ("é\n", "é\n".encode()),
    ],
)
def test_a_format_writes_what_it_says_and_nothing_else(text: str, written: bytes) -> None:
    record = Consumed(headers=[("a", b"1"), ("b", None), ("c", b"\xff")])
    assert compile_format(text)(record) == written


def test_null_prints_empty_and_has_length_minus_one() -> None:
    record = Consumed(key=None, value=None)
    assert compile_format("[%k][%v] %K %S")(record) == b"[][] -1 -1"
    assert value_lines(record) == b"\n"


@pytest.mark.parametrize(("text", "named"), [("%x", "%x"), ("%", "%"), ("\\q", "\\q"), ("\\x1", "\\x"), ("a\\", "\\")])
def test_what_is_not_known_is_named(text: str, named: str) -> None:
    with pytest.raises(ValueError, match="is no") as raised:
        compile_format(text)
    assert str(raised.value).startswith(named + " ")


def test_json_keeps_bytes_that_are_not_text() -> None:
    facts = json.loads(json_line(Consumed(key=None, value=b"\xff\0", headers=[("h", "é".encode()), ("n", None)])))
    assert facts == {
        "topic": "orders",
        "partition": 3,
        "offset": 42,
        "timestamp_ms": 1_700_000_000_000,
        "key": None,
        "value_base64": "/wA=",
        "headers": [{"name": "h", "value": "é"}, {"name": "n", "value": None}],
    }


def test_a_separator_may_be_written_with_escapes() -> None:
    assert compile_text("\\t%:\\x1f") == b"\t%:\x1f"
