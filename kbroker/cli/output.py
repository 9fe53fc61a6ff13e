"""What commands print: on a terminal nothing that comes from outside can steer it; a pipe gets every byte as it is.

Commands print by `say`, `print_table` and `print_json`, and `complain` (`outcome.py`), never by click or `print`.
"""

from __future__ import annotations

import io
import json
import locale
import os
import re
import select
import sys
from typing import Any, TextIO

from kbroker.wording import printable, printable_bytes, printable_json

_SURROGATE = re.compile("[\ud800-\udfff]")


def on_terminal() -> bool:
    """Whether what is printed goes to a terminal."""
    return sys.stdout.isatty()


def prepare_streams() -> None:
    """Let no character and no locale make printing fail.

    A terminal gets what its locale can show, the rest escaped (`LC_ALL=C`: ASCII); a pipe gets UTF-8, and bytes that
    came as arguments or file names as they came.
    """
    if sys.stdout is None:  # closed by who started us
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for the rest of the process
    _prepare(sys.stdout, "surrogateescape")
    _prepare(sys.stderr, "backslashreplace")


def _prepare(stream: TextIO | None, errors_in_a_pipe: str) -> None:
    if not isinstance(stream, io.TextIOWrapper):
        return
    if not stream.isatty():
        stream.reconfigure(encoding="utf-8", errors=errors_in_a_pipe)
        return
    encoding = stream.encoding
    if sys.flags.utf8_mode and "PYTHONUTF8" not in os.environ:
        encoding = locale.getencoding()  # Python takes UTF-8 in the locale C; such a terminal may not
    stream.reconfigure(encoding=encoding, errors="backslashreplace")


def raise_if_unread() -> None:
    """Raises BrokenPipeError when whoever read standard output has gone: who has nothing to write learns it here."""
    poller = select.poll()
    poller.register(sys.stdout, 0)
    if any(events & (select.POLLERR | select.POLLHUP) for _, events in poller.poll(0)):
        raise BrokenPipeError


def shown(text: str) -> str:
    """`text` as it may be printed to where standard output goes."""
    return printable(text) if on_terminal() else text


def for_terminal(data: bytes) -> bytes:
    """A record's key, value or header as it may be printed on the terminal; tabs and newlines stay."""
    return printable_bytes(data, keep_lines=True).encode(sys.stdout.encoding, "backslashreplace")


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as a JSON document that may be printed. It says the same wherever it goes."""
    if not on_terminal():
        document = json.dumps(value, indent=indent, ensure_ascii=False)
        return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", document)
    can_show_all = sys.stdout.encoding.lower().startswith("utf")
    return printable_json(json.dumps(value, indent=indent, ensure_ascii=not can_show_all))


def say(line: str = "") -> None:
    """One line on standard output."""
    sys.stdout.write(shown(line) + "\n")


def print_json(value: Any, *, in_one_line: bool = False) -> None:
    """`value` as JSON on stdout: indented, or in one line where more such values follow."""
    sys.stdout.write(json_text(value, None if in_one_line else 2) + "\n")
