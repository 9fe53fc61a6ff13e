"""The run fails on skips that nobody allowed, and on no others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SKIPPING = """
import pytest
def test_it():
    pytest.skip("no disk here")
"""
CONFTEST = """
from tests.skips import StrictSkips
def pytest_configure(config):
    config.pluginmanager.register(StrictSkips())
"""


def run(folder: Path, module: str, program: str) -> subprocess.CompletedProcess[str]:
    """A small test run of its own, held to the table."""
    place = folder / module
    place.parent.mkdir(parents=True)
    place.write_text(program)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", module]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_an_unexpected_skip_fails_the_run_and_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "tests/log/test_here.py", SKIPPING)
    assert done.returncode == 1
    assert "tests/log/test_here.py::test_it: Skipped: no disk here" in done.stdout


def test_a_module_that_skips_itself_is_one(tmp_path: Path) -> None:
    done = run(tmp_path, "tests/log/test_here.py", 'import pytest\npytest.importorskip("no_such_module")\n')
    assert done.returncode != 0
    assert "no_such_module" in done.stdout.partition("does not allow it")[2]


def test_an_allowed_skip_passes(tmp_path: Path) -> None:
    program = SKIPPING.replace("no disk here", "kafka-python does not have it")
    done = run(tmp_path, "tests/kafka/test_codec.py", program + "def test_other():\n    pass\n")
    assert done.returncode == 0, done.stdout
