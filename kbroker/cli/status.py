"""`kbroker status`: what every process of a broker is doing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kbroker.cli.options import json_option, server_option
from kbroker.cli.outcome import NOT_READY
from kbroker.cli.output import print_json, say
from kbroker.cli.table import print_table
from kbroker.wire.endpoints import FRONT, SUPERVISOR, denied, is_there, usual_runtime_dirs
from kbroker.wire.status import read_status
from kbroker.wording import duration


def _status(runtime_dir: Path | None, server: str | None) -> dict[str, Any]:
    if runtime_dir is None:
        runtime_dir = local_runtime_dir(server)
    if runtime_dir is not None:
        return read_status(runtime_dir)
    from kbroker import Admin

    with Admin(server=server) as admin:
        return admin.broker_status()


def local_runtime_dir(server: str | None) -> Path | None:
    """The folder of the broker's sockets, which tell even when its front is away; None: it is reached by tcp only."""
    if not server:
        found = [folder for folder in usual_runtime_dirs() if is_there(folder / SUPERVISOR)]
        readable = [folder for folder in found if not denied(folder / SUPERVISOR)]
        return next(iter(readable or found), None)
    if server.startswith("ipc://"):
        return Path(server.removeprefix("ipc://")).parent
    if server.startswith(("/", ".", "~")):
        path = Path(server).expanduser()
        if path.name == FRONT:
            return path.parent
        return path / "run" if is_there(path / "run" / SUPERVISOR) else path
    return None


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
    for notice in status.get("notices", ()):
        say(f"notice: {notice}")
    say(f"data in {status['data_dir']}, sockets in {status['runtime_dir']}")
    if status["bootstrap_servers"]:
        say(f"Kafka clients: bootstrap.servers={status['bootstrap_servers']}")
    if status["listeners"].get("native"):
        say(f"native clients: tcp://{status['listeners']['native']}")
    columns = ("process", "node", "pid", "state", "up", "restarts", "memory", "cpu", "last end")
    print_table(
        columns,
        [
            (
                process["title"],
                "" if process.get("node") is None else process["node"],
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
        right=("node", "pid", "up", "restarts", "memory", "cpu"),
    )


@click.command()
@click.option("--runtime-dir", type=click.Path(path_type=Path, readable=False), help="Folder of the broker's sockets.")
@json_option
@server_option
@click.pass_context
def command(context: click.Context, runtime_dir: Path | None, as_json: bool, server: str | None) -> None:
    """Tell what every process of the broker is doing, and what is out of service.

    On the broker's host its supervisor is asked, which tells whatever else is away; over tcp the coordinator is.

    Ends with 0 when all is well, 3 when a process is not ready or something is out of service, 4 when there is no
    broker.
    """
    if runtime_dir is not None and context.get_parameter_source("server") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--server and --runtime-dir exclude each other")
    status = _status(runtime_dir, server)
    if as_json:
        print_json(status)
    else:
        _print(status)
    ready = status["state"] == "ready" and all(process["ready"] for process in status["processes"])
    if not ready:
        raise click.exceptions.Exit(NOT_READY)
