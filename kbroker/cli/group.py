"""`kbroker group`: show, watch, move and delete consumer groups, of Kafka's clients and native ones alike."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kbroker.cli.options import json_option, parse_time_option, print_json, server_option
from kbroker.cli.outcome import complain
from kbroker.cli.table import print_table
from kbroker.errors import GroupIdNotFound
from kbroker.types import TopicPartition
from kbroker.wording import counted

if TYPE_CHECKING:
    from kbroker.clients.admin import Admin
    from kbroker.clients.consumer import Consumer
    from kbroker.clients.groups import GroupDescription


class PartitionLag(NamedTuple):
    """How far a group is behind in one partition. `committed` -1: nothing was committed, and `lag` is None."""

    topic: str
    partition: int
    committed: int
    end: int
    lag: int | None
    member: str
    host: str


@click.group()
def command() -> None:
    """Show, watch, move and delete consumer groups."""


@command.command("list")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Only groups in this state: Stable, Empty, …")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only groups of this type: consumer, classic.")
@json_option
@server_option
def list_(states: tuple[str, ...], types: tuple[str, ...], as_json: bool, server: str | None) -> None:
    """All groups with their type and state."""
    from kbroker import Admin

    with Admin(server=server) as admin:
        found = admin.list_consumer_groups(states, types)
    if as_json:
        print_json([one._asdict() for one in found])
    else:
        print_table(("group", "type", "state"), [(one.group, one.type, one.state) for one in found])


@command.command()
@click.argument("groups", nargs=-1, required=True, metavar="GROUP...")
@json_option
@server_option
def describe(groups: tuple[str, ...], as_json: bool, server: str | None) -> None:
    """State, members, committed offsets and lag of each GROUP."""
    from kbroker import Admin, Consumer

    with Admin(server=server) as admin, Consumer(server=server) as consumer:
        facts = [(one, _lags(admin, consumer, one)) for one in admin.describe_consumer_groups(list(groups))]
    if as_json:
        print_json([{**_group_facts(one), "partitions": [lag._asdict() for lag in lags]} for one, lags in facts])
        return
    for one, lags in facts:
        assignor = f", assigned by {one.assignor}" if one.assignor else ""
        click.echo(
            f"{one.group}  {one.type}, {one.state}, epoch {one.epoch}, {counted(len(one.members), 'member')}{assignor}"
        )
        _print_lags(lags)
        click.echo()


@command.command()
@click.argument("group")
@json_option
@server_option
def members(group: str, as_json: bool, server: str | None) -> None:
    """The members of GROUP and what each reads."""
    from kbroker import Admin

    with Admin(server=server) as admin:
        found = admin.describe_consumer_groups([group])[0]
    if as_json:
        print_json(_group_facts(found)["members"])
        return
    print_table(
        ("member", "instance", "client", "host", "epoch", "partitions"),
        [
            (
                member.member_id,
                member.instance_id or "",
                member.client_id,
                member.host,
                member.epoch,
                " ".join(f"{tp.topic}-{tp.partition}" for tp in member.assignment),
            )
            for member in found.members
        ],
        right=("epoch",),
    )


@command.command()
@click.argument("group")
@click.option(
    "--watch", "interval_s", type=click.FloatRange(0.1), is_flag=False, flag_value=2.0, metavar="SECONDS",
    help="Show it again and again, until stopped (default every 2 seconds); JSON comes in lines.",
)  # fmt: skip
@json_option
@server_option
def lag(group: str, interval_s: float | None, as_json: bool, server: str | None) -> None:
    """How many records GROUP has yet to read, by partition and in all."""
    from kbroker import Admin, Consumer

    with Admin(server=server) as admin, Consumer(server=server) as consumer:
        while True:
            lags = _lags(admin, consumer, admin.describe_consumer_groups([group])[0])
            if as_json:
                facts = {"group": group, "lag": _total(lags), "partitions": [one._asdict() for one in lags]}
                print_json(facts, in_one_line=interval_s is not None)
            else:
                if interval_s is not None and sys.stdout.isatty():
                    click.clear()
                _print_lags(lags)
                click.echo(f"lag of {group}: {_total(lags)}")
            sys.stdout.flush()
            if interval_s is None:
                return
            time.sleep(interval_s)  # what --watch asks for


@command.command("reset-offsets")
@click.argument("group")
@click.option("-t", "--topic", "topics", multiple=True, metavar="TOPIC[:PARTITION,…]", help="Default: all committed.")
@click.option("--to-earliest", is_flag=True, help="To the first record there is.")
@click.option("--to-latest", is_flag=True, help="Behind the last record.")
@click.option("--to-offset", type=click.IntRange(0), metavar="OFFSET", help="To this one, within what there is.")
@click.option(
    "--to-timestamp", "since_ms", metavar="TIME", callback=parse_time_option,
    help="To the first record not older: ms since 1970, or an ISO time.",
)  # fmt: skip
@click.option("--shift-by", type=int, metavar="RECORDS", help="Forward, or back when negative.")
@click.option("--execute", is_flag=True, help="Do it; without this option the plan is only shown.")
@json_option
@server_option
def reset_offsets(
    group: str,
    topics: tuple[str, ...],
    to_earliest: bool,
    to_latest: bool,
    to_offset: int | None,
    since_ms: int | None,
    shift_by: int | None,
    execute: bool,
    as_json: bool,
    server: str | None,
) -> None:
    """Move the committed offsets of GROUP, which must have no members. Shows the plan first; --execute does it."""
    targets = to_earliest + to_latest + sum(option is not None for option in (to_offset, since_ms, shift_by))
    if targets != 1:
        raise click.UsageError("give one of --to-earliest, --to-latest, --to-offset, --to-timestamp and --shift-by")
    from kbroker import Admin, Consumer

    with Admin(server=server) as admin, Consumer(server=server) as consumer:
        committed = {tp: at.offset for tp, at in admin.list_consumer_group_offsets(group).items()}
        partitions = _chosen(consumer, committed, topics)
        if not partitions:
            raise GroupIdNotFound(f"group {group:.249} has committed nothing: name topics with --topic")
        starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        times = consumer.offsets_for_times(dict.fromkeys(partitions, since_ms)) if since_ms is not None else {}
        plan: dict[TopicPartition, int] = {}
        for partition in partitions:
            start, end = starts[partition], ends[partition]
            if to_earliest:
                at = start
            elif to_latest:
                at = end
            elif to_offset is not None:
                at = to_offset
            elif shift_by is not None:
                at = committed.get(partition, start) + shift_by
            else:
                found = times.get(partition)
                at = end if found is None else found.offset
            plan[partition] = min(max(at, start), end)
        if execute:
            admin.alter_consumer_group_offsets(group, plan)
    rows = [(tp.topic, tp.partition, committed.get(tp, -1), at) for tp, at in sorted(plan.items())]
    columns = ("topic", "partition", "committed", "new offset")
    if as_json:
        names = ("topic", "partition", "committed", "offset")
        print_json(
            {"group": group, "executed": execute, "partitions": [dict(zip(names, row, strict=True)) for row in rows]}
        )
        return
    print_table(columns, [["-" if cell == -1 else cell for cell in row] for row in rows], right=columns[1:])
    if not execute:
        complain("nothing was changed yet: say --execute to do it")


@command.command()
@click.argument("groups", nargs=-1, required=True, metavar="GROUP...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@server_option
def delete(groups: tuple[str, ...], yes: bool, server: str | None) -> None:
    """Forget groups that have no members, with their committed offsets."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on: say --yes to delete without being asked")
        click.confirm(f"Forget {', '.join(groups)} with all committed offsets?", abort=True, err=True)
    from kbroker import Admin

    with Admin(server=server) as admin:
        for group in groups:
            admin.delete_consumer_groups([group])
            click.echo(f"deleted {group}")


def _lags(admin: Admin, consumer: Consumer, group: GroupDescription) -> list[PartitionLag]:
    committed = admin.list_consumer_group_offsets(group.group)
    readers = {tp: member for member in group.members for tp in member.assignment}
    known = {topic: consumer.partitions_for_topic(topic) or set() for topic in {tp.topic for tp in committed | readers}}
    partitions = sorted(tp for tp in committed | readers if tp.partition in known[tp.topic])
    ends = consumer.end_offsets(partitions)
    lags = []
    for tp in partitions:
        at, reader = committed.get(tp), readers.get(tp)
        lags.append(
            PartitionLag(
                tp.topic,
                tp.partition,
                -1 if at is None else at.offset,
                ends[tp],
                None if at is None else max(0, ends[tp] - at.offset),
                "" if reader is None else reader.member_id,
                "" if reader is None else reader.host,
            )
        )
    return lags


def _total(lags: list[PartitionLag]) -> int:
    return sum(one.lag or 0 for one in lags)


def _print_lags(lags: list[PartitionLag]) -> None:
    print_table(
        ("topic", "partition", "committed", "end", "lag", "member"),
        [
            (
                one.topic,
                one.partition,
                "-" if one.committed < 0 else one.committed,
                one.end,
                "-" if one.lag is None else one.lag,
                one.member,
            )
            for one in lags
        ],
        right=("partition", "committed", "end", "lag"),
    )


def _group_facts(group: GroupDescription) -> dict[str, Any]:
    return {
        "group": group.group,
        "type": group.type,
        "state": group.state,
        "epoch": group.epoch,
        "assignor": group.assignor,
        "members": [
            {
                "member_id": member.member_id,
                "instance_id": member.instance_id,
                "client_id": member.client_id,
                "host": member.host,
                "epoch": member.epoch,
                "is_classic": member.is_classic,
                "topics": member.topics,
                "pattern": member.pattern,
                "assignment": [tp._asdict() for tp in member.assignment],
                "target": [tp._asdict() for tp in member.target],
            }
            for member in group.members
        ],
    }


def _chosen(consumer: Consumer, committed: dict[TopicPartition, int], topics: tuple[str, ...]) -> list[TopicPartition]:
    """The partitions that `--topic` names: TOPIC, or TOPIC:0,3; without it those with a committed offset."""
    if not topics:
        return sorted(committed)
    chosen: list[TopicPartition] = []
    for text in topics:
        name, colon, numbers = text.partition(":")
        known = consumer.partitions_for_topic(name)
        if known is None:
            raise click.UsageError(f"there is no topic {name!r}; see `kbroker topic list`")
        wanted = known
        if colon:
            if not all(number.isdigit() for number in numbers.split(",")):
                raise click.UsageError(f"--topic takes TOPIC or TOPIC:PARTITION,…, not {text!r}")
            wanted = {int(number) for number in numbers.split(",")}
            if not wanted <= known:
                raise click.UsageError(f"topic {name!r} has only the partitions 0 to {max(known)}, not {numbers}")
        chosen += [TopicPartition(name, number) for number in sorted(wanted)]
    return chosen
