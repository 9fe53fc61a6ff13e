"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

import click

from kbroker.cli.outcome import complain

LATEST_MS = (1 << 63) - 1

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
    """Milliseconds since 1970 of `text`: such a number, or an ISO date or time. One without a zone is local time.

    Raises ValueError.
    """
    if text.lstrip("-").isdigit():
        return int(text)
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (OverflowError, OSError):
        raise ValueError(text) from None


def parse_time_option(_context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Callback of an option that takes a time. Says which zone was taken for a time without one."""
    if text is None:
        return None
    try:
        found_ms = parse_time(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither milliseconds since 1970 nor an ISO time") from None
    if not 0 <= found_ms <= LATEST_MS:
        raise click.BadParameter(f"{text!r} is not a time that records can have: 0 … {LATEST_MS} ms since 1970")
    if not text.lstrip("-").isdigit() and datetime.fromisoformat(text).tzinfo is None:
        local = datetime.fromisoformat(text).astimezone()
        complain(f"{parameter.opts[0]} {text} names no zone: taken as local time, {local.isoformat()} ({local:%Z})")
    return found_ms


def pairs(texts: Iterable[str], option: str) -> list[tuple[str, str]]:
    """The NAME=VALUE texts that `option` was given, in order; a name may come again. Raises click.UsageError."""
    found: list[tuple[str, str]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"{option} takes NAME=VALUE, not {text!r}")
        found.append((name.strip(), value))
    return found


def assignments(texts: Iterable[str], option: str) -> dict[str, str]:
    """As `pairs`, as a map. Raises click.UsageError for a name that is given two values."""
    found: dict[str, str] = {}
    for name, value in pairs(texts, option):
        if found.setdefault(name, value) != value:
            raise click.UsageError(f"{option} gives {name} twice: {found[name]!r} and {value!r}")
    return found
