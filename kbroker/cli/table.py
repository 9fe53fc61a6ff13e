"""Tables on the terminal; in a pipe the same columns, never cut."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from kbroker.cli.output import on_terminal, say, shown


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> None:
    """Rows under `columns`; those named in `right` are set to the right."""
    cells = [[shown(str(cell)) for cell in row] for row in rows]
    if on_terminal():
        _print_for_people(columns, cells, right)
    else:
        _print_plain(columns, cells, right)


def _print_plain(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    table = [columns, *rows]
    widths = [max(_width(row[number]) for row in table) for number in range(len(columns))]
    for row in table:
        line = [
            " " * (width - _width(cell)) + cell if name in right else cell + " " * (width - _width(cell))
            for name, cell, width in zip(columns, row, widths, strict=True)
        ]
        say("  ".join(line).rstrip(" "))


def _width(text: str) -> int:
    """How many columns `text` takes."""
    if text.isascii():
        return len(text)
    return sum(1 + (unicodedata.east_asian_width(one) in "WF") for one in text)


def _print_for_people(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        # "fold" loses nothing where a terminal is too narrow.
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
