"""The table for people, the JSON for later."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from perf.figure import Figure, rounded

RESULTS = Path(__file__).resolve().parent / "results"


def table(title: str, figures: list[Figure]) -> Table:
    """One group of figures."""
    found = Table("figure", "value", "", "goal", "beside", title=title, title_justify="left", title_style="bold")
    for column in (1, 3):
        found.columns[column].justify = "right"
    for figure in figures:
        goal = "" if figure.goal is None else f"{'≥' if figure.more_is_better else '≤'} {figure.goal:g}"
        mark = {None: "", True: "[green]", False: "[red]"}[figure.reached]
        beside = ", ".join(f"{name} {rounded(value):g}" for name, value in figure.beside.items())
        found.add_row(figure.name, f"{mark}{rounded(figure.value):g}", figure.unit, goal, beside)
    return found


def show(title: str, figures: list[Figure]) -> None:
    """Print a group as soon as it is measured."""
    Console(width=200).print(table(title, figures))


def write(name: str, command: str, host: dict[str, Any], groups: dict[str, list[Figure]]) -> Path:
    """The JSON file, with the command that made it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "host": host,
        "groups": {title: [figure.as_dict() for figure in figures] for title, figures in groups.items()},
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path
