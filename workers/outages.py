"""What is out of service in a process, and why: told by the process with its facts, shown by the supervisor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

NAMED_MAX = 10
"""A process names so many; of the others it tells the number. Together they fit into its facts."""
WHY_MAX = 500
SHOWN_MAX = 3
"""In one line for people."""


class Outage(NamedTuple):
    """`what`: a partition, writes to one, groups, a process."""

    what: str
    why: str


def outage_facts(outages: Iterable[Outage]) -> dict[str, Any]:
    """For `ChildContext.report`."""
    found = list(outages)
    return {"outages": [[what, why[:WHY_MAX]] for what, why in found[:NAMED_MAX]], "outages_in_all": len(found)}


def outages_of(facts: dict[str, Any]) -> tuple[list[Outage], int]:
    """Those that a process has named, and how many there are in all."""
    named = [Outage(what, why) for what, why in facts.get("outages", ())]
    return named, max(len(named), facts.get("outages_in_all", 0))


def outage_text(named: list[Outage], in_all: int) -> str:
    """One line for people: the first few with their reasons, and how many more there are."""
    parts = [f"{what} ({why})" for what, why in named[:SHOWN_MAX]]
    if in_all > len(parts):
        parts.append(f"{in_all - len(parts)} more")
    return f"out of service: {', '.join(parts)}"
