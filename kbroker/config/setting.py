"""One setting: a field of a section's dataclass, with all that is known of it besides its value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class Setting:
    """What is known of one setting besides its value.

    `topic_name` is the name under which a topic may override it, if it may; `name` is empty where only topics have it.
    `least` of a list is of its items; `choices` are a text's, or those of each item of a list. `pattern` is what a
    value's text, or each item of a list, must match, and `pattern_means` says so to people. `reloadable` settings
    follow SIGHUP.
    """

    name: str
    doc: str
    unit: str = ""
    least: int | None = None
    most: int | None = None
    choices: tuple[str, ...] = ()
    topic_name: str | None = None
    reloadable: bool = False
    pattern: str = ""
    pattern_means: str = ""


def setting(
    name: str,
    default: Any,
    doc: str,
    *,
    unit: str = "",
    least: int | None = None,
    most: int | None = None,
    choices: tuple[str, ...] = (),
    topic: str | None = None,
    reloadable: bool = False,
    pattern: str = "",
    pattern_means: str = "",
) -> Any:
    """A dataclass field that carries its Setting."""
    facts = Setting(name, doc, unit, least, most, choices, topic, reloadable, pattern, pattern_means)
    return field(default=default, metadata={"setting": facts})
