"""`kbroker serve`: run a broker in the foreground."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kbroker.cli.options import assignments
from kbroker.cli.output import say
from kbroker.cli.sources import CONFIG_VARIABLE, Sources
from kbroker.wire.endpoints import FRONT, check_runtime_path, ipc


def _flags(
    data_dir: Path | None,
    runtime_dir: Path | None,
    workers: int | None,
    native_listen: str | None,
    listen: str | None,
    advertised_host: str | None,
    changes: tuple[str, ...],
) -> dict[str, str]:
    named: dict[str, tuple[str, str | None]] = {
        "log.dir": ("--data-dir", None if data_dir is None else str(data_dir.absolute())),
        "runtime.dir": ("--runtime-dir", None if runtime_dir is None else str(runtime_dir.absolute())),
        "workers": ("--workers", None if workers is None else str(workers)),
        "native.listen": ("--native-listen", None if native_listen is None else native_listen.removeprefix("tcp://")),
        "listeners": ("--listen", listen),
        "advertised.host": ("--advertised-host", advertised_host),
    }
    flags = assignments(changes, "--set")
    for setting, (option, value) in named.items():
        if value is not None and flags.setdefault(setting, value) != value:
            raise click.UsageError(f"{option} and --set give {setting} two values: {value!r} and {flags[setting]!r}")
    return flags


PATH = click.Path(path_type=Path, readable=False)
"""Who may not read it is told by those who open it: they know what it is for, and what to do."""


@click.command()
@click.option("--config", "file", envvar=CONFIG_VARIABLE, type=PATH, help="A configuration file.")
@click.option("--data-dir", type=PATH, help="Folder of partitions and catalog; made if missing.")
@click.option("--runtime-dir", type=PATH, help="Folder of the sockets; made if missing.")
@click.option("--workers", type=int, help="Worker processes; 0: one for each core.")
@click.option(
    "--native-listen",
    "--zmq",
    "native_listen",
    metavar="HOST:PORT",
    help="Native clients over tcp too; port 0 picks a free one. Without it: this host only.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Kafka clients: the coordinator's port, the workers' follow it; port 0 picks free ones, '' takes no Kafka "
    "clients. Without it: localhost:9092.",
)
@click.option(
    "--advertised-host", metavar="HOST", help="The host that Kafka clients are told; behind NAT or port mapping."
)
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Any setting (see `kbroker config`).")
@click.option("--check", is_flag=True, help="Check the settings and end.")
def command(
    file: Path | None,
    data_dir: Path | None,
    runtime_dir: Path | None,
    workers: int | None,
    native_listen: str | None,
    listen: str | None,
    advertised_host: str | None,
    changes: tuple[str, ...],
    check: bool,
) -> None:
    """Run a broker in the foreground, until SIGTERM or Ctrl-C.

    Says `kbroker is ready: KBROKER_SERVER=...` on stdout once every process serves. SIGHUP reloads the settings.
    """
    sources = Sources(
        file, os.environ, _flags(data_dir, runtime_dir, workers, native_listen, listen, advertised_host, changes)
    )
    config = sources.config()
    check_runtime_path(config.runtime_dir)
    if check:
        say(f"the settings are valid; KBROKER_SERVER={ipc(config.runtime_dir, FRONT)}")
        return
    from kbroker.cli import broker  # imports all that the processes share: only when one is wanted

    raise click.exceptions.Exit(broker.run(config, sources.config))
