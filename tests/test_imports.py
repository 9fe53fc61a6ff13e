"""Imports run one way, and the state machines do no I/O and read no clock (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kbroker"

# Each part may import the parts of lower ranks, and itself; parts of one rank do not know each other.
RANKS: tuple[frozenset[str], ...] = (
    frozenset({"types", "wording"}),
    frozenset({"errors"}),
    frozenset({"config", "metrics"}),
    frozenset({"records"}),
    frozenset({"groups", "transactions", "kafka", "wire", "log", "catalog", "shm"}),
    frozenset({"workers", "clients"}),
    frozenset({"aio", "cli", "testing"}),
    frozenset({"__main__"}),
)
RANK_OF = {part: rank for rank, parts in enumerate(RANKS) for part in parts}

# What the rules allow beyond the ranks, each with its reason.
EXCEPTIONS = {
    # `from kbroker import Producer`: what users import from. The clients are loaded on first use.
    ("__init__", "clients"),
    ("__init__", "errors"),
    ("__init__", "types"),
    # Kafka's requests about groups become events of the state machines, which know nothing of the protocol.
    ("kafka", "groups"),
}

PURE = ("groups", "transactions", "kafka", "wire", "log/log.py")
# These hold none of the protocol: where sockets lie, and whether one is there; asking the supervisor for its
# status; frames in and out.
NOT_PURE = {"wire/endpoints.py", "wire/status.py", "wire/frames.py"}
# log/log.py holds its files through the Storage that it is given: that door, and paths as names, it must know.
GIVEN = {"log/log.py": ("pathlib.Path", "kbroker.log.storage.")}
# fmt: off
WORLD = frozenset({
    "_thread", "aiokafka", "asyncio", "concurrent", "ctypes", "datetime", "fcntl", "io", "kbroker.log.storage",
    "mmap", "multiprocessing", "os", "pathlib", "psutil", "queue", "random", "resource", "secrets", "select",
    "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time",
    "uuid", "zmq",
})
# fmt: on


def modules() -> list[Path]:
    """Every module of the package, the two linked folders with it; examples are no part of the package."""
    found = {path for folder in ("", "workers", "clients") for path in (PACKAGE / folder).rglob("*.py")}
    return sorted(path for path in found if "examples" not in path.parts)


def part_of(module: Path) -> str:
    first = module.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(module: Path) -> Iterator[tuple[str, int, bool]]:
    """Absolute names of what a module imports, the line, and whether it is for type checkers only."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    for_types = {id(node) for block in ast.walk(tree) if _is_type_checking(block) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in for_types
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                assert "tests" in module.parts, f"{module}:{node.lineno}: imports are absolute"
                continue
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno, id(node) in for_types


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_the_two_links_point_at_the_root_folders() -> None:
    for name in ("workers", "clients"):
        link = PACKAGE / name
        assert link.is_symlink()
        assert str(link.readlink()) == f"../{name}"


def test_nothing_is_imported_by_a_name_that_only_works_in_the_tree() -> None:
    wrong = [
        f"{module.relative_to(ROOT)}:{line}: {name}"
        for module in [*modules(), *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "clients").rglob("*.py"))]
        for name, line, _ in imported(module)
        if name.split(".")[0] in {"workers", "clients"}
    ]
    assert not wrong


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(module: Path) -> None:
    own = part_of(module)
    wrong = []
    for name, line, _ in imported(module):
        pieces = name.split(".")
        if pieces[0] != "kbroker" or len(pieces) == 1:
            continue
        other = pieces[1]
        if other not in RANK_OF or other == own or (own, other) in EXCEPTIONS:
            continue  # kbroker.__version__, its own part
        if own == "__init__" or RANK_OF[other] >= RANK_OF[own]:
            wrong.append(f"line {line}: {own} imports {name}")
    assert wrong == []


def pure_modules() -> list[Path]:
    found: set[Path] = set()
    for name in PURE:
        path = PACKAGE / name
        found.update(path.rglob("*.py") if path.is_dir() else [path] if path.exists() else [])
    return sorted(path for path in found if str(path.relative_to(PACKAGE)) not in NOT_PURE)


@pytest.mark.parametrize("module", pure_modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_state_machines_do_no_io_and_read_no_clock(module: Path) -> None:
    given = GIVEN.get(str(module.relative_to(PACKAGE)), ())
    wrong = [
        f"line {line}: {name}"
        for name, line, only_for_types in imported(module)
        if not only_for_types
        and not name.startswith(given)
        and any(name == world or name.startswith(f"{world}.") for world in WORLD)
    ]
    assert not wrong


def test_every_part_has_a_rank() -> None:
    parts = {part_of(module) for module in modules()} - {"__init__"}
    assert parts <= RANK_OF.keys()


def test_every_package_is_shipped() -> None:
    """`packages` in pyproject.toml is a list by hand: a new folder must be added to it."""
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {".".join(module.parent.relative_to(ROOT).parts) for module in modules()}
    assert there == listed


def loaded_by(program: str) -> set[str]:
    """The packages that a process has loaded after this program, which runs in one of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", program + "\nimport sys; print(*sys.modules)"],
        capture_output=True, text=True, timeout=60, check=True, cwd=ROOT,
    )  # fmt: skip
    return {name.partition(".")[0] for name in ended.stdout.split()}


def test_a_broker_starts_without_what_only_some_need() -> None:
    """All that is loaded before the fork delays the start, and every process holds it."""
    loaded = loaded_by("import kbroker.cli.main, kbroker.cli.serve, kbroker.cli.broker")
    assert "zmq" in loaded
    assert loaded & {"aiokafka", "asyncio", "hypothesis", "kio", "rich"} == set()


def test_schemas_load_without_hypothesis_and_leave_it_to_others() -> None:
    loaded = loaded_by("from kbroker.kafka import codec\ncodec.request_reader(3, 12)")
    assert "kio" in loaded
    assert "hypothesis" not in loaded
    assert "hypothesis" in loaded_by(
        "from kbroker.kafka import codec\ncodec.request_reader(3, 12)\nimport hypothesis.strategies"
    )
