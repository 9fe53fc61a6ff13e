"""ARCHITECTURE.md after many hands: nothing stands there twice, and no part of the broker is left out."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "ARCHITECTURE.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def twice(items: list[str]) -> list[str]:
    return [item for item, count in Counter(items).items() if count > 1]


def test_each_bound_stands_once_and_is_whole() -> None:
    rows = [line.strip("|").split("|") for line in section("Bounds").splitlines() if line.startswith("| ")]
    assert len(rows) > 60
    assert not twice([row[0] for row in rows])
    assert not [row for row in rows if len(row) != 4 or not all(cell.strip() for cell in row)]


def test_each_invariant_has_a_number_of_its_own() -> None:
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", section("What must always hold"), re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_each_limit_stands_once() -> None:
    begins = [line[:40] for line in section("Known limits").splitlines() if line.startswith("- ")]
    assert begins
    assert not twice(begins)


def test_the_table_of_files_has_each_file_of_the_processes() -> None:
    rows = [line.split("|")[1] for line in section("Processes").splitlines() if line.startswith("|")]
    files = [file.removeprefix("workers/") for row in rows for file in re.findall(r"`([a-z_/]+\.py)`", row)]
    told = re.findall(r"`([a-z_/]+\.py)`", section("Processes"))
    assert not twice(files)
    there = {path.name for path in (ROOT / "workers").glob("*.py")} - {"__init__.py"}
    assert not there - {file.removeprefix("workers/") for file in told}
