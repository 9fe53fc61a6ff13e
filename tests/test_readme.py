"""The README's tour works as typed: its commands are run in order against a real broker, its output compared.

A `console` block holds commands (`$ …`) and what they print; `…` stands for whatever comes there, alone on a line for
any number of lines. `COMMAND &` is waited for until it has printed what follows it; `kill %1` ends it. A `python` block
is run as a program; `print(…)  # OUTPUT` tells what it prints.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.network import own_network

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


@dataclass
class Step:
    """A command, or a program, and the output that the README shows for it."""

    command: str
    is_python: bool = False
    shown: list[str] = field(default_factory=list)


def tour() -> list[Step]:
    steps: list[Step] = []
    for kind, text in re.findall(r"^```(console|python)\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL):
        if kind == "python":
            steps.append(Step(text, is_python=True))
            continue
        for line in text.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line[2:]))
            else:
                steps[-1].shown.append(line)
    return steps


def matches(shown: list[str], printed: str) -> bool:
    lines = [".*" if line == "…" else re.escape(line).replace("…", "[^\n]*") for line in shown]
    return re.fullmatch("\n".join(lines), printed.rstrip("\n"), re.DOTALL) is not None


@pytest.fixture
def folder() -> Iterator[Path]:
    # A short path: the tour's unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="kbroker-") as path:
        shutil.copy(README, path)
        yield Path(path)


class Shell:
    """Runs the tour's commands: each in a shell of its own, with the environment that was exported so far."""

    def __init__(self, folder: Path, network: list[str]) -> None:
        self.folder = folder
        self.network = network  # words before each command
        programs = folder / "bin"
        programs.mkdir()
        # `kbroker` and `python3` of this tree, whatever is installed here.
        for name, module in (("kbroker", "-m kbroker"), ("python3", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
            program.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KBROKER_")}
        self.environment = kept | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
        }
        self.background: list[subprocess.Popen[str]] = []

    def run(self, step: Step) -> str:
        """Run a step; everything that it printed."""
        command = step.command
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self.environment[name] = value
            return ""
        if command == "kill %1":
            return self.end()
        if command.endswith("&"):
            return self.start(command.removesuffix("&").strip(), len(step.shown))
        arguments = [sys.executable, "-c", command] if step.is_python else ["bash", "-eo", "pipefail", "-c", command]
        done = subprocess.run(
            [*self.network, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        return done.stdout

    def start(self, command: str, lines: int) -> str:
        process = subprocess.Popen(
            [*self.network, "bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.background.append(process)
        assert process.stdout is not None
        return "".join(process.stdout.readline() for _ in range(lines))

    def end(self) -> str:
        for process in self.background:
            process.terminate()
            assert process.wait(30) == 0
            assert process.stdout is not None
            process.stdout.close()
        self.background.clear()
        return ""

    def kill(self) -> None:
        for process in self.background:
            process.kill()
            process.wait()


@pytest.fixture
def network() -> Iterator[list[str]]:
    with own_network() as words:
        yield words


@pytest.mark.slow
def test_the_tour_works_as_typed(folder: Path, network: list[str]) -> None:
    steps = tour()
    assert len(steps) > 8
    shell = Shell(folder, network)
    try:
        for step in steps:
            printed = shell.run(step)
            if step.is_python:
                step.shown = re.findall(r"^ *print\(.*\)  # (.*)$", step.command, re.MULTILINE)
            assert matches(step.shown, printed), f"$ {step.command}\n--- the README shows\n{step.shown}\n{printed}"
    finally:
        shell.kill()
