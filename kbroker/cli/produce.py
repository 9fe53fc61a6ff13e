"""`kbroker produce`: send lines to a topic, each a record."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbroker.cli.format import compile_text
from kbroker.cli.lines import split_key, split_lines
from kbroker.cli.near import unknown_topic
from kbroker.cli.options import pairs, server_option
from kbroker.cli.outcome import complain
from kbroker.cli.progress import progress
from kbroker.errors import KbrokerError, TopicAlreadyExists, UnknownTopicOrPartition
from kbroker.wording import counted, did_you_mean, printable

if TYPE_CHECKING:
    from kbroker.clients.producer import Producer

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


@dataclass
class Tally:
    """What became of the records that were sent so far."""

    sent: int = 0
    acknowledged: int = 0
    failed: int = 0
    without_key: int = 0
    """Lines that had no key separator."""
    first_error: BaseException | None = None

    def settle(self, pending: deque[Any]) -> None:
        """Count the answered ones at the head of `pending`; answers come nearly in order."""
        while pending and pending[0].is_done:
            future = pending.popleft()
            if future.failed():
                self.failed += 1
                self.first_error = self.first_error or future.exception
            else:
                self.acknowledged += 1


def _inputs(files: tuple[str, ...]) -> Iterator[Callable[[int], bytes]]:
    for name in files or ("-",):
        if name == "-":
            # What a slow pipe has so far, not a full buffer: a line typed is a line sent.
            yield os.fdopen(os.dup(0), "rb").read1
        else:
            with open(name, "rb") as file:
                yield file.read


def _total_bytes(files: tuple[str, ...]) -> int | None:
    if not files or "-" in files:
        return None
    return sum(os.stat(name).st_size for name in files)


@click.command()
@click.argument("topic")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("-k", "--key", help="The key of every record.")
@click.option("-K", "--key-separator", metavar="TEXT", help=r"A line is KEY, this (\t and other escapes), VALUE.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header of every record.")
@click.option("-p", "--partition", type=click.IntRange(0), help="The partition; else the key's, else any.")
@click.option(
    "--acks", type=click.Choice(["0", "1", "all"]), default="all", show_default=True,
    help="What an acknowledgement promises: nothing; it survives any process's death; it survives power loss.",
)  # fmt: skip
@click.option(
    "-z", "--compression", type=click.Choice(CODECS), default="none", show_default=True, help="Of the batches."
)  # fmt: skip
@click.option(
    "--create", is_flag=True, help="Create TOPIC where it is new; without this option you are asked, on a terminal."
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no summary.")
@server_option
def command(
    topic: str,
    files: tuple[str, ...],
    key: str | None,
    key_separator: str | None,
    headers: tuple[str, ...],
    partition: int | None,
    acks: str,
    compression: str,
    create: bool,
    quiet: bool,
    server: str | None,
) -> None:
    r"""Send the lines of FILEs (or stdin, also `-`) to TOPIC, each a record.

    Only \n separates: an empty line is an empty record, every other byte passes untouched, a last line without \n
    counts. Ends with 0 only when every record was acknowledged; says how many were.

    A TOPIC that is not there is created: with --create, when you say so on a terminal, or, where stdin is no terminal,
    as the broker's auto.create.topics.enable has it.
    """
    if key is not None and key_separator is not None:
        raise click.UsageError("--key and --key-separator exclude each other")
    separator = None if key_separator is None else compile_text(key_separator)
    if separator == b"":
        raise click.UsageError("--key-separator must not be empty")
    fixed = {
        "partition": partition,
        "headers": [(name, os.fsencode(value)) for name, value in pairs(headers, "--header")],
    }
    for name in files:
        if name != "-" and Path(name).is_dir():
            raise click.UsageError(f"{name} is a folder; name files")
    total_bytes = _total_bytes(files)
    _know_topic(topic, create, server)

    from kbroker import Producer

    producer = Producer(
        server=server,
        acks="all" if acks == "all" else int(acks),
        compression_type=None if compression == "none" else compression,
    )
    tally = Tally()
    pending: deque[Any] = deque()
    whole = False
    try:
        with progress(topic, total_bytes, wanted=not quiet and not _is_typed(files)) as advance:
            for read in _inputs(files):
                for lines in split_lines(read):
                    _send(
                        producer,
                        topic,
                        lines,
                        None if key is None else os.fsencode(key),
                        separator,
                        fixed,
                        pending,
                        tally,
                    )
                    advance(len(lines), sum(map(len, lines)) + len(lines))
                    if tally.failed:
                        break
            producer.flush()
            whole = True
    finally:
        # Interrupted, what was handed over already is on its way: give it a moment, then say what is known.
        producer.close(timeout=None if whole else 1)
        tally.settle(pending)
        if tally.without_key:
            lines_without = counted(tally.without_key, "line")
            complain(f"{lines_without} without the key separator {key_separator!r}: sent as a value without a key")
        if not quiet:
            _summary(tally)
    if tally.first_error is not None:
        raise (
            tally.first_error
            if isinstance(tally.first_error, KbrokerError)
            else KbrokerError(f"{type(tally.first_error).__name__}: {tally.first_error}")
        )
    if tally.acknowledged < tally.sent:
        raise KbrokerError(f"{tally.sent - tally.acknowledged} of {tally.sent} records were not acknowledged")


def _is_typed(files: tuple[str, ...]) -> bool:
    """Whether lines are typed on the terminal: a progress bar would be in their way."""
    return (not files or "-" in files) and sys.stdin is not None and sys.stdin.isatty()


def _know_topic(topic: str, create: bool, server: str | None) -> None:
    """See to it that records for `topic` do not make a topic that nobody wanted. Raises UnknownTopicOrPartition."""
    from kbroker import Admin
    from kbroker.clients.records import NewTopic

    with Admin(server=server) as admin:
        try:
            admin.describe_topics([topic])
        except UnknownTopicOrPartition:
            known = admin.list_topics()
        else:
            return
        unknown = unknown_topic(topic, known)
        if create or (sys.stdin is not None and sys.stdin.isatty()):
            hint = did_you_mean(topic, known) or "."
            if not create and not _confirmed(f"there is no topic {topic!r}{hint} Create {topic}? [y/N] "):
                raise unknown
            with contextlib.suppress(TopicAlreadyExists):  # somebody was faster
                admin.create_topics([NewTopic(topic)])
                complain(f"created the topic {topic}")
            return
        try:
            admin.describe_topics([topic], auto_create=True)
        except UnknownTopicOrPartition:
            raise UnknownTopicOrPartition(f"{unknown}; --create makes it") from None
        complain(f"the topic {topic} was not there: created it{did_you_mean(topic, known)}")


def _confirmed(question: str) -> bool:
    # Read by the line, past Python's buffers: what is typed behind the answer is records.
    sys.stderr.write(f"kbroker: {printable(question)}")
    sys.stderr.flush()
    return os.read(0, 1 << 12).strip().lower() in (b"y", b"yes")


def _send(
    producer: Producer,
    topic: str,
    lines: list[bytes],
    key: bytes | None,
    separator: bytes | None,
    fixed: dict[str, Any],
    pending: deque[Any],
    tally: Tally,
) -> None:
    for line in lines:
        if separator is not None:
            key, line = split_key(line, separator)
            tally.without_key += key is None
        pending.append(producer.send(topic, value=line, key=key, **fixed))
        tally.sent += 1
    tally.settle(pending)


def _summary(tally: Tally) -> None:
    if tally.acknowledged == tally.sent:
        complain(f"{counted(tally.acknowledged, 'record')} acknowledged")
    else:
        complain(f"{tally.acknowledged} of {tally.sent} records acknowledged")
