"""`kbroker consume`: print a topic's records."""

from __future__ import annotations

import signal
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, NoReturn

import click
from click.core import ParameterSource

from kbroker.cli.clamping import Clamping
from kbroker.cli.format import Format, compile_format, json_line, value_lines
from kbroker.cli.near import unknown_topic
from kbroker.cli.options import parse_time_option, server_option
from kbroker.cli.outcome import complain
from kbroker.cli.output import on_terminal, raise_if_unread
from kbroker.clients.rebalance_listener import ConsumerRebalanceListener
from kbroker.errors import CorruptRecord, UnknownTopicOrPartition
from kbroker.types import TopicPartition
from kbroker.wording import counted

if TYPE_CHECKING:
    from kbroker.clients.consumer import Consumer


POLL_MS = 500
POLL_RECORDS = 10_000
DEFAULT_FORMAT = r"%v\n"


def _format_option(_context: click.Context, _parameter: click.Parameter, text: str) -> Format:
    try:
        return value_lines if text == DEFAULT_FORMAT and not on_terminal() else compile_format(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("topic")
@click.option("--from-beginning", is_flag=True, help="Start at the first record.")
@click.option("--offset", type=int, help="Start at this offset; a negative one counts from each partition's end.")
@click.option(
    "--from-timestamp", "since_ms", metavar="TIME", callback=parse_time_option,
    help="Start at the first record not older: ms since 1970, or an ISO time.",
)  # fmt: skip
@click.option("-p", "--partition", "numbers", multiple=True, type=click.IntRange(0), help="Only this partition.")
@click.option("-n", "--count", type=click.IntRange(0), help="Stop after this many records.")
@click.option("--exit-at-end", is_flag=True, help="Stop at the end offsets found at the start.")
@click.option(
    "-f", "--format", "write", default=DEFAULT_FORMAT, show_default=True, callback=_format_option,
    help=r"%t topic, %p partition, %o offset, %k key, %v value, %T timestamp, %h headers, \n, \xNN; adds nothing.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="A JSON object on a line; not with --format.")
@click.option(
    "-g", "--group", metavar="GROUP",
    help="As a member of this group: its partitions, from its committed offsets on (without any: --from-beginning or "
    "the end).",
)  # fmt: skip
@click.option(
    "--skip-corrupt", is_flag=True,
    help="Go past records that cannot be read, with a warning that names their offsets; else the first one ends it.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Say at the end how many records came, and which way.")
@server_option
@click.pass_context
def command(
    context: click.Context,
    topic: str,
    from_beginning: bool,
    offset: int | None,
    since_ms: int | None,
    numbers: tuple[int, ...],
    count: int | None,
    exit_at_end: bool,
    write: Format,
    as_json: bool,
    group: str | None,
    skip_corrupt: bool,
    verbose: bool,
    server: str | None,
) -> None:
    """Print TOPIC's records, from the end on unless told otherwise, until stopped.

    Null prints empty. In JSON, a key or value that is not UTF-8 stands as key_base64, value_base64.
    """
    if as_json and context.get_parameter_source("write") is not ParameterSource.DEFAULT:
        raise click.UsageError("--json and --format exclude each other")
    if from_beginning + (offset is not None) + (since_ms is not None) > 1:
        raise click.UsageError("--from-beginning, --offset and --from-timestamp exclude each other")
    _end_in_order()
    on_corrupt = "skip" if skip_corrupt else "raise"
    if group is not None:
        if offset is not None or since_ms is not None or numbers or exit_at_end:
            raise click.UsageError(
                "--group reads what the group gives, from where it stands: --offset, --from-timestamp, --partition and "
                "--exit-at-end do not go with it (`kbroker group reset-offsets` moves a group)"
            )
        write = json_line if as_json else write
        _consume_in_group(topic, group, from_beginning, count, write, on_corrupt, verbose, server)
        return
    from kbroker import Consumer

    # Where retention overtakes us, the next record that there is comes next, not the end.
    with Consumer(server=server, auto_offset_reset="earliest", on_corrupt=on_corrupt) as consumer:
        partitions = _partitions(consumer, topic, numbers)
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        if from_beginning or offset is not None or since_ms is not None:
            _seek(consumer, partitions, ends, from_beginning, offset, since_ms)
        else:
            for partition, end in ends.items():
                consumer.seek(partition, end)
        printed = _print(consumer, json_line if as_json else write, count, ends if exit_at_end else None)
        if verbose:
            complain(f"{counted(printed, 'record')}, read through {consumer.transport}")


def _end_in_order() -> None:
    """SIGTERM and SIGHUP end the command as Ctrl-C does: the consumer leaves its group. Not those that are ignored."""

    def end(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


def _consume_in_group(
    topic: str,
    group: str,
    from_beginning: bool,
    count: int | None,
    write: Format,
    on_corrupt: str,
    verbose: bool,
    server: str | None,
) -> None:
    from kbroker import Consumer

    # Where retention overtakes us, the next record that there is comes next, not the end.
    with Consumer(server=server, group=group, auto_offset_reset="earliest", on_corrupt=on_corrupt) as consumer:
        _partitions(consumer, topic, ())
        consumer.subscribe([topic], listener=_Standing(consumer, from_beginning))
        printed = _print(consumer, write, count, None)
        if verbose:
            complain(f"{counted(printed, 'record')}, read through {consumer.transport}")


class _Standing(ConsumerRebalanceListener):
    """Puts partitions that the group gives to where it stands, or to the nearest offset that is there."""

    def __init__(self, consumer: Consumer, from_beginning: bool) -> None:
        self._consumer = consumer
        self._from_beginning = from_beginning

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        consumer, clamping = self._consumer, Clamping("going on there")
        starts, ends = consumer.beginning_offsets(assigned), consumer.end_offsets(assigned)
        for partition in sorted(assigned):
            committed = consumer.committed(partition)
            if committed is None:
                consumer.seek(partition, starts[partition] if self._from_beginning else ends[partition])
                continue
            at = clamping.clamp(
                partition,
                committed.offset,
                starts[partition],
                ends[partition],
                asked=f"the group's committed offset {committed.offset}",
            )
            if at != committed.offset:
                consumer.seek(partition, at)
        clamping.tell()


def _partitions(consumer: Consumer, topic: str, numbers: tuple[int, ...]) -> list[TopicPartition]:
    known = consumer.partitions_for_topic(topic)
    if not known:
        raise unknown_topic(topic, consumer.topics())
    for number in numbers:
        if number not in known:
            raise UnknownTopicOrPartition(f"topic {topic!r} has no partition {number}, only 0 to {max(known)}")
    return [TopicPartition(topic, number) for number in sorted(set(numbers) or known)]


def _seek(
    consumer: Consumer,
    partitions: list[TopicPartition],
    ends: dict[TopicPartition, int],
    from_beginning: bool,
    offset: int | None,
    since_ms: int | None,
) -> None:
    starts = consumer.beginning_offsets(partitions)
    found = consumer.offsets_for_times(dict.fromkeys(partitions, since_ms)) if since_ms is not None else {}
    clamping = Clamping("starting there")
    for partition in partitions:
        start, end = starts[partition], ends[partition]
        if from_beginning:
            at = start
        elif offset is not None and offset >= 0:
            at = clamping.clamp(partition, offset, start, end)
        elif offset is not None:
            at = clamping.clamp(partition, end + offset, start, end, asked=f"{counted(-offset, 'record')} back")
        else:
            match = found.get(partition)
            at = match.offset if match is not None else end
        consumer.seek(partition, at)
    clamping.tell()
    if found and not any(found.values()):
        complain("no record is that young; starting at the end")


def _print(consumer: Consumer, write: Format, count: int | None, ends: dict[TopicPartition, int] | None) -> int:
    """Print until `count` records were, or each partition has reached its end in `ends`; how many were printed."""
    out = sys.stdout.buffer
    left = count
    printed = 0
    while left is None or left > 0:
        if ends is not None and all(consumer.position(partition) >= end for partition, end in ends.items()):
            break
        raise_if_unread()
        most = POLL_RECORDS if left is None else min(POLL_RECORDS, left)
        try:
            batches = consumer.poll(timeout_ms=POLL_MS, max_records=most)
        except CorruptRecord as error:
            raise click.ClickException(f"{error.fault}; --skip-corrupt goes on at offset {error.past}") from None
        for partition, records in batches.items():
            if ends is not None:
                records = [record for record in records if record.offset < ends[partition]]
            out.write(b"".join([write(record) for record in records]))
            printed += len(records)
            if left is not None:
                left -= len(records)
        out.flush()
    return printed
