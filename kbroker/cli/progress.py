"""A progress bar on stderr where that is a terminal; nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from kbroker.wording import printable

Advance = Callable[[int, int], None]
"""Called with how many records and bytes were added."""


@contextlib.contextmanager
def progress(label: str, total_bytes: int | None, *, wanted: bool = True) -> Iterator[Advance]:
    """Shows bytes done of `total_bytes` (None: not known), the rate, and the records."""
    if not wanted or not sys.stderr.isatty():
        yield lambda _records, _size_bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(printable(label), total=total_bytes, records=0)
        records = 0

        def advance(record_count: int, size_bytes: int) -> None:
            nonlocal records
            records += record_count
            bar.update(task, advance=size_bytes, records=records)

        yield advance
