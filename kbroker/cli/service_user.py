"""Whether the user that a service runs as can run a program, found out by running it."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from kbroker.errors import StartError

ELSEWHERE = "/opt/kbroker"
_TRIAL_S = 60


def check_program(user: str, program: Sequence[str]) -> None:
    """Raises StartError when `user` cannot run `program --version`: says what is closed, and where to install instead.

    A user who is not there yet has the rights of nobody. For root only, who alone may run a program as others.
    """
    try:
        facts = pwd.getpwnam(user)
    except KeyError:
        facts = pwd.getpwnam("nobody")
    uid, gid = facts.pw_uid, facts.pw_gid
    try:
        done = subprocess.run(
            [*program, "--version"],
            user=uid,
            group=gid,
            extra_groups=[],
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRIAL_S,
            check=False,
        )
        reason = (done.stderr.strip().splitlines() or ["it failed without a word"])[-1] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if not reason:
        return
    closed = next((one for path in _read_by(program) if (one := closed_to(path, uid, gid)) is not None), None)
    if closed is not None:
        found = closed.stat()
        reason = f"{closed} is closed to it ({stat.filemode(found.st_mode)}, uid {found.st_uid})"
    raise StartError(
        f"the service's user {user} cannot run {program[0]}: {reason}. Install kbroker where everybody may read, and "
        f"run `systemd install` from there: make an environment by `/usr/bin/python3 -m venv {ELSEWHERE}`, install "
        f"kbroker into it with {ELSEWHERE}/bin/pip, then `{ELSEWHERE}/bin/kbroker systemd install`"
    )


def _read_by(program: Sequence[str]) -> Iterator[Path]:
    """The files and folders that running `program`, which is this one, needs."""
    yield Path(program[0])
    yield Path(sys.executable)
    yield Path(sys.executable).resolve()
    yield Path(sys.prefix)
    yield Path(sys.base_prefix)
    yield Path(__file__).resolve().parents[1]


def closed_to(path: Path, uid: int, gid: int) -> Path | None:
    """The first on the way to `path`, or `path` itself, that its permissions close to this user; None: none does."""
    for place in (*reversed(path.parents), path):
        try:
            facts = os.stat(place)
        except OSError:
            return None
        bits = facts.st_mode >> (6 if facts.st_uid == uid else 3 if facts.st_gid == gid else 0)
        wanted = 0o1 if place != path else 0o5 if stat.S_ISDIR(facts.st_mode) else 0o4
        if bits & wanted != wanted:
            return place
    return None
