"""The group `kbroker`. It knows its commands by name and one line each; a command's file is loaded when it runs."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import NoReturn

import click

from kbroker import __version__
from kbroker.cli.outcome import EXIT_CODES, complain, outcome
from kbroker.cli.output import prepare_streams
from kbroker.wording import did_you_mean

COMMANDS = {
    "serve": "Run a broker in the foreground.",
    "status": "Tell what every process of the broker is doing, and what is out of service.",
    "topic": "Create, list, describe, change and delete topics.",
    "produce": "Send lines to a topic, each a record.",
    "consume": "Print a topic's records.",
    "group": "Show, watch, move and delete consumer groups.",
    "log": "Look into a partition's files, and go past what is damaged in them.",
    "config": "Show, check and explain settings.",
    "systemd": "Run the broker as a service.",
}

EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."


class Warnings(logging.Handler):
    """Tells the clients' warnings in the way of all complaints. `serve` puts its own log in the place of this."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())


class Commands(click.Group):
    """Loads `kbroker.cli.NAME` for command NAME, and none for `--help`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"kbroker.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command {name!r}{did_you_mean(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="kbroker", message="%(prog)s %(version)s")
def commands() -> None:
    """kbroker: Kafka's log and semantics for one Linux host.

    Client commands find the broker by --server, KBROKER_SERVER, or in the usual folders of this host.
    """


def run(arguments: list[str]) -> int:
    """Run the command that `arguments` name; its exit code."""
    if "_KBROKER_COMPLETE" in os.environ:  # the shell asks for completions: click's own business
        commands.main(arguments, prog_name="kbroker")

    prepare_streams()
    logging.getLogger("kbroker").addHandler(Warnings(logging.WARNING))

    def invoke() -> None:
        with commands.make_context("kbroker", arguments or ["--help"]) as context:
            commands.invoke(context)

    return outcome(invoke)


def main() -> NoReturn:
    """Entry point of the command `kbroker`."""
    sys.exit(run(sys.argv[1:]))
