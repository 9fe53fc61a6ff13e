"""Values as they are written: what each setting takes, and the error for what it does not take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kbroker.config.config import Known
from kbroker.config.setting import INT64_MAX
from kbroker.errors import ConfigError
from kbroker.wording import did_you_mean

LENGTH_MAX = 32_768
"""A value that topics and broker keep as it is written."""
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def allowed(known: Known) -> str:
    """What a value may be, for people: `1 … 10 ms`, `one of a, b`, `true or false`."""
    facts = known.setting
    if facts.pattern_means:
        return facts.pattern_means
    if facts.choices:
        some = ("one or more of " if facts.least else "any of ") if known.kind is tuple else "one of "
        return some + ", ".join(facts.choices)
    if known.kind is bool:
        return "true or false"
    if known.kind in (int, float):
        unit = f" {facts.unit}" if facts.unit else ""
        return f"a {'whole ' if known.kind is int else ''}number, {facts.least} … {facts.most}{unit}"
    return "items with commas between them" if known.kind is tuple else "text"


def parse_value(known: Known, text: str, name: str) -> Any:
    """The value that `text` stands for. Raises ConfigError naming the setting, the value and what is allowed."""
    facts = known.setting
    if len(text) > LENGTH_MAX:
        raise ConfigError(f"{name}: a value of {len(text)} characters is too long; at most {LENGTH_MAX} are possible")
    text = text.strip()
    value: Any = text
    try:
        if known.kind is tuple:
            value = list_items(text)
            if len(value) < (facts.least or 0):
                raise ValueError
        for item in value if known.kind is tuple else (text,):
            if facts.choices and item not in facts.choices:
                raise ValueError
            if facts.pattern and not re.fullmatch(facts.pattern, item):
                raise ValueError
        if known.kind is bool:
            value = {"true": True, "false": False}[text.lower()]
        elif known.kind in (int, float):
            value = _number(known.kind, text)
            if not (facts.least or 0) <= value <= (INT64_MAX if facts.most is None else facts.most):
                raise ValueError
    except (KeyError, ValueError):
        raise ConfigError(f"{name}={text!r:.200} is not valid: it must be {allowed(known)}") from None
    return value


def _number(kind: type, text: str) -> int | float:
    if not _NUMBER.fullmatch(text):  # Python also takes 1_000, nan and other scripts' digits
        raise ValueError
    number: int | float = kind(text)
    return number


def list_items(text: str) -> tuple[str, ...]:
    """The items of a list as it is written, `a, b`: each once, in their order."""
    return tuple(dict.fromkeys(item for part in text.split(",") if (item := part.strip())))


def value_text(value: Any) -> str:
    """A value as it is written in a configuration file."""
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def known_by(names: Mapping[str, Known], name: str, what: str) -> Known:
    """The setting of that name. Raises ConfigError, naming the nearest right one; `what` it is said to be."""
    found = names.get(name)
    if found is None:
        raise ConfigError(f"unknown {what} {name!r}{did_you_mean(name, names)}")
    return found
