"""`kbroker topic`: create, list, describe, change and delete topics."""

from __future__ import annotations

import sys
from typing import Any
from uuid import UUID

import click

from kbroker.cli.near import near_topics
from kbroker.cli.options import assignments, json_option, server_option
from kbroker.cli.outcome import complain
from kbroker.cli.output import print_json, say
from kbroker.cli.table import print_table
from kbroker.errors import TopicAlreadyExists
from kbroker.types import node_name
from kbroker.wording import counted, printable

settings_option = click.option(
    "-c",
    "--set",
    "--config",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="A topic setting (docs/SETTINGS.md, column topic).",
)


@click.group()
def command() -> None:
    """Create, list, describe, change and delete topics."""


@command.command()
@click.argument("name")
@click.option("-p", "--partitions", type=click.IntRange(1), help="How many; default: the broker's num.partitions.")
@settings_option
@click.option("--replication-factor", type=int, default=-1, help="1: there is one host.")
@click.option("--if-not-exists", is_flag=True, help="All well when it is there already.")
@server_option
def create(
    name: str,
    partitions: int | None,
    changes: tuple[str, ...],
    replication_factor: int,
    if_not_exists: bool,
    server: str | None,
) -> None:
    """Create the topic NAME."""
    from kbroker import Admin
    from kbroker.clients.records import NewTopic

    topic = NewTopic(name, partitions or -1, replication_factor, dict(assignments(changes, "--set")))
    with Admin(server=server) as admin:
        try:
            admin.create_topics([topic])
        except TopicAlreadyExists:
            if not if_not_exists:
                raise
            say(f"{name} is there already")
        else:
            say(f"created {name}")
            if "compact" in topic.topic_configs.get("cleanup.policy", ""):
                complain("compaction of topics comes later: until then all records stay (see README, Not for you yet)")


@command.command("list")
@json_option
@server_option
def list_(as_json: bool, server: str | None) -> None:
    """The names of all topics, one on a line."""
    from kbroker import Admin

    with Admin(server=server) as admin:
        names = sorted(admin.list_topics())
    if as_json:
        print_json(names)
    else:
        for name in names:
            say(name)


@command.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all-settings", is_flag=True, help="Every setting in force, not only the topic's own.")
@json_option
@server_option
def describe(names: tuple[str, ...], all_settings: bool, as_json: bool, server: str | None) -> None:
    """Partitions, their workers, offsets and settings of the topics NAME (default: all)."""
    from kbroker import Admin, Consumer, TopicPartition

    facts: list[dict[str, Any]] = []
    with Admin(server=server) as admin, Consumer(server=server) as consumer:
        with near_topics(admin, names):
            described = admin.describe_topics(list(names) or None)
        for topic in described:
            partitions = [TopicPartition(topic.name, partition.partition) for partition in topic.partitions]
            starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            settings = topic.settings
            if all_settings:
                settings = {entry.name: entry.value for entry in admin.describe_configs(topic.name)}
            facts.append(
                {
                    "name": topic.name,
                    "topic_id": str(UUID(bytes=bytes(topic.topic_id))),
                    "settings": settings,
                    "partitions": [
                        {
                            "partition": partition.partition,
                            "leader": partition.leader,
                            "worker": node_name(partition.leader),
                            "leader_epoch": partition.leader_epoch,
                            "log_start_offset": starts[where],
                            "high_watermark": ends[where],
                        }
                        for partition, where in zip(topic.partitions, partitions, strict=True)
                    ],
                }
            )
    if as_json:
        print_json(facts)
        return
    for topic_facts in facts:
        _print_topic(topic_facts)


def _print_topic(facts: dict[str, Any]) -> None:
    settings = " ".join(f"{name}={value}" for name, value in facts["settings"].items())
    records = sum(p["high_watermark"] - p["log_start_offset"] for p in facts["partitions"])
    size = f"{counted(len(facts['partitions']), 'partition')}, {counted(records, 'record')}"
    say(f"{facts['name']}  {size}  {settings}".rstrip())
    columns = {
        "partition": "partition",
        "leader": "worker",
        "epoch": "leader_epoch",
        "first offset": "log_start_offset",
        "next offset": "high_watermark",
    }
    rows = [[partition[field] for field in columns.values()] for partition in facts["partitions"]]
    print_table(list(columns), rows, right=list(columns))
    say()


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@server_option
def delete(names: tuple[str, ...], yes: bool, server: str | None) -> None:
    """Delete topics with all their records."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on: say --yes to delete without being asked")
        click.confirm(printable(f"Delete {', '.join(names)} with all records?"), abort=True, err=True)
    from kbroker import Admin

    with Admin(server=server) as admin:
        for name in names:
            with near_topics(admin, [name]):
                admin.delete_topics([name])
            say(f"deleted {name}")


@command.command()
@click.argument("name")
@settings_option
@click.option("--unset", "removed", multiple=True, metavar="NAME", help="Back to the broker's value.")
@server_option
def alter(name: str, changes: tuple[str, ...], removed: tuple[str, ...], server: str | None) -> None:
    """Change settings of the topic NAME."""
    if not changes and not removed:
        raise click.UsageError("nothing to change: give --set NAME=VALUE or --unset NAME")
    wanted = assignments(changes, "--set")
    for setting in removed:
        if setting in wanted:
            raise click.UsageError(f"--set and --unset both name {setting}")
    from kbroker import Admin

    with Admin(server=server) as admin, near_topics(admin, [name]):
        admin.alter_configs(name, wanted, list(removed))
    say(f"changed {name}")


@command.command("add-partitions")
@click.argument("name")
@click.argument("total", type=click.IntRange(1))
@server_option
def add_partitions(name: str, total: int, server: str | None) -> None:
    """Give the topic NAME more partitions: TOTAL in all. Keys may land elsewhere from then on."""
    from kbroker import Admin

    with Admin(server=server) as admin, near_topics(admin, [name]):
        admin.create_partitions({name: total})
    say(f"{name} has {counted(total, 'partition')}")
