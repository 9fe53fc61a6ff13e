"""`kbroker systemd`: units with this environment's path, files put in place, nothing overwritten that is the user's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def kbroker(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kbroker", "systemd", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("flags", [(), ("--user",)])
def test_the_printed_unit_runs_this_environment_and_is_valid(tmp_path: Path, flags: tuple[str, ...]) -> None:
    done = kbroker("print", *flags)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ExecStart=")]
    assert Path(line.removeprefix("ExecStart=").split()[0]).exists()
    if shutil.which("systemd-analyze"):
        path = tmp_path / "kbroker.service"
        path.write_text(done.stdout)
        mode = ["--user"] if flags else []
        verified = subprocess.run(
            ["systemd-analyze", *mode, "verify", "--man=no", "--recursive-errors=yes", str(path)],
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (verified.returncode, verified.stderr) == (0, "")


def test_install_below_a_root_keeps_the_configuration(tmp_path: Path) -> None:
    if any(Path(sys.prefix).is_relative_to(folder) for folder in ("/tmp", "/var/tmp")):
        pytest.skip("this environment lies in a temporary folder, which install refuses by name")
    done = kbroker("install", "--root", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "systemctl enable --now kbroker" in done.stdout
    configuration = tmp_path / "etc/kbroker/kbroker.toml"
    configuration.write_text("workers = 3\n")
    again = kbroker("install", "--root", str(tmp_path))
    assert f"kept {configuration}" in again.stdout
    assert configuration.read_text() == "workers = 3\n"
    assert (tmp_path / "etc/systemd/system/kbroker.service").exists()
    assert (tmp_path / "etc/sysusers.d/kbroker.conf").exists()


def test_install_for_one_user_goes_to_the_users_folder(tmp_path: Path) -> None:
    done = kbroker("install", "--user", "--root", str(tmp_path / "root"), XDG_CONFIG_HOME=str(tmp_path / "config"))
    assert done.returncode == 0, done.stderr
    assert "systemctl --user enable --now kbroker" in done.stdout
    target = tmp_path / "root" / (tmp_path / "config").relative_to("/") / "systemd/user/kbroker.service"
    assert "ExecStart=" in target.read_text()
