"""systemd's own tools look at the unit, and the example configuration is one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kbroker.config import load_config

FOLDER = Path(__file__).parents[2] / "systemd"
EXPOSURE_TIMES_10_MAX = 15

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*arguments: str) -> str:
    """What systemd-analyze says; fails when it does."""
    done = subprocess.run(
        ["systemd-analyze", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@needs_systemd
def test_verify(tmp_path: Path) -> None:
    # ExecStart must exist: the test puts a program of this machine there.
    unit = tmp_path / "kbroker.service"
    text = (FOLDER / "kbroker.service").read_text()
    assert "ExecStart=/usr/bin/kbroker serve " in text
    unit.write_text(text.replace("/usr/bin/kbroker", sys.executable))
    assert analyze("verify", "--man=no", "--recursive-errors=yes", str(unit)) == ""


@needs_systemd
def test_security() -> None:
    threshold = f"--threshold={EXPOSURE_TIMES_10_MAX}"
    analyze("security", "--offline=true", threshold, "--no-pager", str(FOLDER / "kbroker.service"))


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_sysusers() -> None:
    done = subprocess.run(
        ["systemd-sysusers", "--dry-run", str(FOLDER / "kbroker.sysusers")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_example_configuration_is_valid() -> None:
    config = load_config(FOLDER / "kbroker.toml", {})
    assert str(config.data_dir) == "/var/lib/kbroker"
    assert str(config.runtime_dir) == "/run/kbroker"
