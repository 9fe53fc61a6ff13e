"""`kbroker group`: show, watch, move and delete consumer groups, of Kafka's clients and native ones alike."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from kbroker.cli.clamping import Clamping
from kbroker.cli.lag import GroupLag, group_lag, print_group_lags, print_partition_lags
from kbroker.cli.near import near_groups, unknown_topic
from kbroker.cli.options import json_option, parse_time_option, server_option
from kbroker.cli.outcome import TOO_FAR_BEHIND, complain
from kbroker.cli.output import on_terminal, print_json, say
from kbroker.cli.table import print_table
from kbroker.errors import GroupIdNotFound
from kbroker.types import TopicPartition
from kbroker.wording import counted, did_you_mean, printable

if TYPE_CHECKING:
    from kbroker.clients.admin import Admin
    from kbroker.clients.consumer import Consumer
    from kbroker.clients.groups import GroupDescription


TYPES = ("consumer", "classic")
STATES = (
    "Empty", "Assigning", "Reconciling", "Stable", "PreparingRebalance", "CompletingRebalance", "Dead",
)  # fmt: skip


@click.group()
def command() -> None:
    """Show, watch, move and delete consumer groups."""


@command.command("list")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES, case_sensitive=False),
    help="Only groups in this state.",
)  # fmt: skip
@click.option(
    "--type", "types", multiple=True, type=click.Choice(TYPES, case_sensitive=False), help="Only groups of this type."
)  # fmt: skip
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
        with near_groups(admin, groups):
            described = admin.describe_consumer_groups(groups)
        facts = [(one, group_lag(admin, consumer, one).partitions) for one in described]
    if as_json:
        print_json([{**_group_facts(one), "partitions": [lag._asdict() for lag in lags]} for one, lags in facts])
        return
    for one, lags in facts:
        assignor = f", assigned by {one.assignor}" if one.assignor else ""
        say(f"{one.group}  {one.type}, {one.state}, epoch {one.epoch}, {counted(len(one.members), 'member')}{assignor}")
        print_partition_lags(lags)
        say()


@command.command()
@click.argument("group")
@json_option
@server_option
def members(group: str, as_json: bool, server: str | None) -> None:
    """The members of GROUP and what each reads."""
    from kbroker import Admin

    with Admin(server=server) as admin, near_groups(admin, [group]):
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
@click.argument("groups", nargs=-1, metavar="[GROUP]...")
@click.option("--all", "of_all", is_flag=True, help="Of every group that there is, a line each.")
@click.option(
    "--max-lag", type=click.IntRange(0), metavar="RECORDS",
    help=f"End with {TOO_FAR_BEHIND} when a group is further behind than this, and say which: for alarms.",
)  # fmt: skip
@click.option(
    "--auto-offset-reset", type=click.Choice(["earliest", "latest"]), default="earliest", show_default=True,
    help="Where the group's members begin where nothing is committed: earliest counts all that is there, latest none.",
)  # fmt: skip
@click.option(
    "--watch", "interval_s", type=click.FloatRange(0.1), is_flag=False, flag_value=2.0, metavar="SECONDS",
    help="Show it again and again, until stopped (default every 2 seconds); JSON comes in lines.",
)  # fmt: skip
@json_option
@server_option
def lag(
    groups: tuple[str, ...],
    of_all: bool,
    max_lag: int | None,
    auto_offset_reset: str,
    interval_s: float | None,
    as_json: bool,
    server: str | None,
) -> None:
    """How many records each GROUP has yet to read, by partition and in all, and when it has committed last.

    All partitions count of the topics that it reads or has committed for; one without a commit from its first record
    on.
    """
    if of_all == bool(groups):
        raise click.UsageError("name groups, or say --all")
    from kbroker import Admin, Consumer

    begins_at_end = auto_offset_reset == "latest"
    with Admin(server=server) as admin, Consumer(server=server) as consumer:
        while True:
            with near_groups(admin, groups):
                described = _every_group(admin) if of_all else admin.describe_consumer_groups(groups)
            lags = [group_lag(admin, consumer, one, begins_at_end=begins_at_end) for one in described]
            if interval_s is not None and not as_json and on_terminal():
                click.clear()
            _show_lags(lags, is_list=of_all or len(groups) > 1, as_json=as_json, in_one_line=interval_s is not None)
            sys.stdout.flush()
            if max_lag is not None:
                _check_lags(lags, max_lag)
            if interval_s is None:
                return
            time.sleep(interval_s)  # what --watch asks for


def _every_group(admin: Admin) -> list[GroupDescription]:
    found = []
    for one in admin.list_consumer_groups():
        with contextlib.suppress(GroupIdNotFound):  # deleted meanwhile
            found += admin.describe_consumer_groups([one.group])
    return found


def _show_lags(lags: list[GroupLag], *, is_list: bool, as_json: bool, in_one_line: bool) -> None:
    if as_json:
        facts = [one.facts() for one in lags]
        print_json(facts if is_list else facts[0], in_one_line=in_one_line)
    elif is_list:
        print_group_lags(lags)
    else:
        print_partition_lags(lags[0].partitions)
        say(f"lag of {lags[0].group}: {lags[0].lag}")


def _check_lags(lags: list[GroupLag], max_lag: int) -> None:
    late = [one for one in lags if one.lag > max_lag]
    for one in late:
        complain(f"group {one.group} is {counted(one.lag, 'record')} behind, more than --max-lag {max_lag}")
    if late:
        raise click.exceptions.Exit(TOO_FAR_BEHIND)


@command.command("reset-offsets")
@click.argument("group")
@click.option("-t", "--topic", "topics", multiple=True, metavar="TOPIC[:PARTITION,...]", help="Default: all committed.")
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
            groups = {one.group for one in admin.list_consumer_groups()}
            hint = "" if group in groups else did_you_mean(group, groups)
            raise GroupIdNotFound(f"group {group:.249} has committed nothing: name topics with --topic{hint}")
        starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        times = consumer.offsets_for_times(dict.fromkeys(partitions, since_ms)) if since_ms is not None else {}
        plan: dict[TopicPartition, int] = {}
        clamping = Clamping("it is the new offset")
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
            asked = "" if shift_by is None else f"{at} (shifted by {shift_by})"
            plan[partition] = clamping.clamp(partition, at, start, end, asked=asked)
        clamping.tell()
        if times and not any(times.values()):
            complain("no record is that young; the end is the new offset")
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
        click.confirm(printable(f"Forget {', '.join(groups)} with all committed offsets?"), abort=True, err=True)
    from kbroker import Admin

    with Admin(server=server) as admin:
        for group in groups:
            with near_groups(admin, [group]):
                admin.delete_consumer_groups([group])
            say(f"deleted {group}")


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
            raise click.UsageError(str(unknown_topic(name, consumer.topics())))
        wanted = known
        if colon:
            if not all(number.isdigit() for number in numbers.split(",")):
                raise click.UsageError(f"--topic takes TOPIC or TOPIC:PARTITION,..., not {text!r}")
            wanted = {int(number) for number in numbers.split(",")}
            if not wanted <= known:
                raise click.UsageError(f"topic {name!r} has only the partitions 0 to {max(known)}, not {numbers}")
        chosen += [TopicPartition(name, number) for number in sorted(wanted)]
    return chosen
