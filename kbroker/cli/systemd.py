"""`kbroker systemd`: the unit that runs the broker as a service, with this environment's path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import click

from kbroker.cli.output import say
from kbroker.cli.service_user import ELSEWHERE, check_program
from kbroker.config import read_settings
from kbroker.errors import StartError

_PLACEHOLDER = "/usr/bin/kbroker"
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))


@dataclass(frozen=True)
class InstalledFile:
    """A file of the service: its name here, where it goes, and whether one that is there is kept."""

    source: str
    target: Path
    is_kept: bool = False


SERVICE_USER = "kbroker"
CONFIGURATION = InstalledFile("kbroker.toml", Path("/etc/kbroker/kbroker.toml"), is_kept=True)
SYSTEM_FILES = (
    InstalledFile("kbroker.service", Path("/etc/systemd/system/kbroker.service")),
    InstalledFile("kbroker.sysusers", Path("/etc/sysusers.d/kbroker.conf")),
    InstalledFile("kbroker.tmpfiles", Path("/etc/tmpfiles.d/kbroker.conf")),
    CONFIGURATION,
)


def program() -> list[str]:
    """The command line that runs this very kbroker."""
    script = Path(sys.executable).parent / "kbroker"
    return [str(script)] if script.exists() else [sys.executable, "-m", "kbroker"]


def _template(name: str) -> str:
    return (resources.files("kbroker") / "systemd" / name).read_text(encoding="utf-8")


def unit(for_user: bool, writable: Sequence[Path] = ()) -> str:
    """The unit's text, for the system or for one user's own systemd. `writable`: folders besides the usual ones."""
    text = _template("kbroker-user.service" if for_user else "kbroker.service")
    text = text.replace(_PLACEHOLDER, " ".join(program()))
    folder = Path(sys.prefix)
    if not for_user and any(folder.is_relative_to(home) for home in _HOMES):
        text = text.replace("ProtectHome=yes", "# The program itself lies in a home folder.\nProtectHome=read-only")
    if writable:
        paths = " ".join(str(path) for path in writable)
        text = text.replace("\nProtectSystem=strict\n", f"\nProtectSystem=strict\nReadWritePaths={paths}\n")
    return text


def _writable(configuration: Path) -> list[Path]:
    """The folders of an existing configuration that the unit does not give anyway. Raises ConfigError."""
    if not configuration.exists():
        return []
    settings = read_settings(configuration)
    chosen = [Path(settings[name]) for name in ("log.dir", "runtime.dir") if settings.get(name)]
    usual = (Path("/var/lib/kbroker"), Path("/run/kbroker"))
    return [folder for folder in dict.fromkeys(chosen) if not any(folder.is_relative_to(one) for one in usual)]


def _check_reachable(for_user: bool) -> None:
    if not for_user and any(Path(sys.prefix).is_relative_to(folder) for folder in _TEMPORARY):
        raise StartError(
            f"this kbroker lies in {sys.prefix}, which its own service could not see (PrivateTmp): install kbroker "
            f"into an environment elsewhere, for example {ELSEWHERE}"
        )


@click.group()
def command() -> None:
    """Run the broker as a service of systemd."""


@command.command("print")
@click.option("--user", "for_user", is_flag=True, help="The unit for your own systemd, not the system's.")
def print_unit(for_user: bool) -> None:
    """Print the unit, with the path of the environment that this command runs in."""
    sys.stdout.write(unit(for_user))


@command.command()
@click.option("--user", "for_user", is_flag=True, help="For your own systemd, not the system's; needs no root.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="Put the files below this folder, for an image or a package, and run nothing.",
)
def install(for_user: bool, root: Path | None) -> None:
    """Put unit, user, folders and configuration in place; says how to start the service.

    A configuration file that is there is kept.
    """
    _check_reachable(for_user)
    if not for_user and root is None and os.geteuid() != 0:
        raise StartError("installing for the system needs root; `kbroker systemd install --user` does not")
    if not for_user and root is None:
        check_program(SERVICE_USER, program())
    if for_user:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        _write(_below(root, base / "systemd" / "user" / "kbroker.service"), unit(for_user=True))
    else:
        writable = _writable(_below(root, CONFIGURATION.target))
        for file in SYSTEM_FILES:
            target = _below(root, file.target)
            if file.is_kept and target.exists():
                say(f"kept {target}")
            else:
                is_unit = file.source == "kbroker.service"
                _write(target, unit(False, writable) if is_unit else _template(file.source))
        for folder in writable:
            say(f"{folder} is named in the unit (ReadWritePaths=); it must be there and belong to {SERVICE_USER}")
    if root is None:
        _tell_systemd(for_user)
    say(f"start it: systemctl {'--user ' if for_user else ''}enable --now kbroker")


def _below(root: Path | None, target: Path) -> Path:
    return target if root is None else root / target.relative_to("/")


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    target.chmod(0o644)
    say(f"wrote {target}")


def _tell_systemd(for_user: bool) -> None:
    """Make the user and the folders, and have a running systemd read its units again."""
    commands = []
    if not for_user:
        commands += [["systemd-sysusers", "kbroker.conf"], ["systemd-tmpfiles", "--create", "kbroker.conf"]]
    if Path("/run/systemd/system").exists():
        commands.append(["systemctl", *(["--user"] if for_user else []), "daemon-reload"])
    for line in commands:
        if shutil.which(line[0]) is None:
            raise StartError(f"{line[0]} is not installed: is this a systemd host?")
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StartError(f"`{' '.join(line)}` failed: {done.stderr.strip() or done.stdout.strip()}")
