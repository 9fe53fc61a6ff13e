"""Options that several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def server_option(command: F) -> F:
    """`--server`: which broker a client command talks to."""
    return click.option(
        "--server",
        metavar="ENDPOINT",
        envvar="KBROKER_SERVER",
        help="tcp://HOST:PORT, HOST:PORT, ipc://PATH or a broker's folder. Default: KBROKER_SERVER, else the broker "
        "found in the usual folders of this host.",
    )(command)


def json_option(command: F) -> F:
    """`--json`: print facts for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def parse_time(text: str) -> int:
    """Milliseconds since 1970 of `text`: such a number, or an ISO date or time (local unless it says otherwise)."""
    if text.lstrip("-").isdigit():
        return int(text)
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def parse_time_option(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Callback of an option that takes a time."""
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither milliseconds since 1970 nor an ISO time") from None


def print_json(value: Any, *, in_one_line: bool = False) -> None:
    """`value` as JSON on stdout: indented, or in one line where more such values follow."""
    json.dump(value, sys.stdout, indent=None if in_one_line else 2, ensure_ascii=False)
    sys.stdout.write("\n")


def assignments(texts: Iterable[str], option: str) -> dict[str, str]:
    """The NAME=VALUE texts that `option` was given, as a map. Raises click.UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"{option} takes NAME=VALUE, not {text!r}")
        found[name.strip()] = value
    return found
