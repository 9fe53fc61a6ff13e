"""`kbroker status`: what every process of the broker here is doing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from kbroker.cli.options import json_option
from kbroker.cli.outcome import NOT_READY
from kbroker.cli.output import print_json, say
from kbroker.cli.table import print_table
from kbroker.errors import BrokerUnavailable
from kbroker.wire.endpoints import FRONT, SERVER_VARIABLE, SUPERVISOR, usual_runtime_dirs
from kbroker.wire.status import read_status
from kbroker.wording import duration


def find_runtime_dir() -> Path:
    """Where the broker that client commands would talk to has its sockets. Raises BrokerUnavailable."""
    server = os.environ.get(SERVER_VARIABLE, "")
    if server.startswith("ipc://") and server.endswith(f"/{FRONT}"):
        return Path(server.removeprefix("ipc://")).parent
    if server.startswith(("/", ".", "~")):
        path = Path(server).expanduser()
        return path / "run" if (path / "run" / SUPERVISOR).exists() else path
    usual = usual_runtime_dirs()
    for folder in usual:
        if (folder / SUPERVISOR).exists():
            return folder
    raise BrokerUnavailable(
        f"no broker found in {', '.join(map(str, usual))}: name its folder by --runtime-dir, or start one with "
        "`kbroker serve`"
    )


def _state(process: dict[str, Any]) -> str:
    if not process["pid"]:
        return "restarting"
    if process["stalled"]:
        return "disk stalled"
    return "ready" if process["ready"] else "starting"


def _print(status: dict[str, Any]) -> None:
    say(f"kbroker {status['version']}  {status['state']}: {status['status']}")
    for outage in status["outages"]:
        say(f"out of service: {outage['what']}: {outage['why']}")
    more = status["outages_in_all"] - len(status["outages"])
    if more:
        say(f"out of service: {more} more; the broker's log names them")
    say(f"data in {status['data_dir']}, sockets in {status['runtime_dir']}")
    if status["bootstrap_servers"]:
        say(f"Kafka clients: bootstrap.servers={status['bootstrap_servers']}")
    if status["listeners"].get("native"):
        say(f"native clients: tcp://{status['listeners']['native']}")
    columns = ("process", "pid", "state", "up", "restarts", "memory", "cpu", "last end")
    print_table(
        columns,
        [
            (
                process["title"],
                process["pid"] or "",
                _state(process),
                duration(process["uptime_s"]),
                process["restarts"],
                f"{process['rss_bytes'] / 1e6:.0f} MB",
                f"{process['cpu_s']:.1f} s",
                process["last_exit"] or "",
            )
            for process in status["processes"]
        ],
        right=("pid", "up", "restarts", "memory", "cpu"),
    )


@click.command()
@click.option("--runtime-dir", type=click.Path(path_type=Path, readable=False), help="Folder of the broker's sockets.")
@json_option
def command(runtime_dir: Path | None, as_json: bool) -> None:
    """Tell what every process of the broker here is doing, and what is out of service.

    Ends with 0 when all is well, 3 when a process is not ready or something is out of service, 4 when there is no
    broker.
    """
    status = read_status(runtime_dir or find_runtime_dir())
    if as_json:
        print_json(status)
    else:
        _print(status)
    ready = status["state"] == "ready" and all(process["ready"] for process in status["processes"])
    if not ready:
        raise click.exceptions.Exit(NOT_READY)
