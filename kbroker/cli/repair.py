"""`kbroker log repair`: go past what is corrupt in a partition's log, or lost of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kbroker.cli.options import json_option, server_option
from kbroker.cli.output import print_json, say
from kbroker.errors import BrokerUnavailable, KbrokerError, StartError
from kbroker.types import OFFSETS_TOPIC, TopicPartition

if TYPE_CHECKING:
    from kbroker.wire.messages import LogRepaired

API_TIMEOUT_MS = 600_000
"""Every byte of the partition is read."""


def _partition_of(name: str) -> TopicPartition:
    topic, dash, number = name.rpartition("-")
    if not dash or not topic or not number.isdigit():
        raise click.UsageError(f"{name!r} is no partition: name one such as orders-0, or its folder")
    return TopicPartition(topic, int(number))


def _broker_here(server: str | None, data_dir: Path | None) -> tuple[Path, Path] | None:
    """Runtime and data folder of the broker on this host that is meant; None: there is none, or another one is."""
    from kbroker.cli.status import local_runtime_dir
    from kbroker.wire.endpoints import FRONT
    from kbroker.wire.status import read_status

    is_in_data = data_dir is not None and server is None and (data_dir / "run" / FRONT).exists()
    runtime_dir = local_runtime_dir(str(data_dir.absolute()) if is_in_data and data_dir is not None else server)
    if runtime_dir is None:
        return None
    try:
        found = Path(read_status(runtime_dir)["data_dir"])
    except BrokerUnavailable:
        return None
    return (runtime_dir, found) if data_dir is None or found.resolve() == data_dir.resolve() else None


def _take_owners_identity(folder: Path) -> None:
    """What root writes here the broker's own user must be able to write again."""
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)


def _repair_files(folder: Path, partition: TopicPartition, accept_loss: bool) -> LogRepaired:
    """With no broker. Raises StartError when one has the folder, StorageError."""
    import time

    from kbroker.catalog.rebuild import read_topic_id
    from kbroker.config import LogConfig
    from kbroker.log.damage import Repair
    from kbroker.log.log import PartitionLog
    from kbroker.log.names import PARTITION_METADATA
    from kbroker.wire.messages import LogRepaired

    topic_id = read_topic_id(folder / PARTITION_METADATA)
    if topic_id is None:
        raise KbrokerError(f"{folder} has no readable {PARTITION_METADATA}, so it is not known whose records these are")
    _take_owners_identity(folder)
    now_ms = time.time_ns() // 1_000_000
    repair = Repair.ACCEPT_LOSS if accept_loss else Repair.PAST_CORRUPTION
    opened = PartitionLog.open(folder, partition, topic_id, LogConfig(), 0, now_ms, repair=repair)
    passed_over = [f"offsets {damage.offsets} ({damage.what})" for damage in opened.recovery.accepted]
    pending = [damage.told(partition) for damage in opened.damage.pending]
    opened.close(now_ms)
    return LogRepaired(passed_over, pending)


def _repair_through_broker(partition: TopicPartition, accept_loss: bool, server: str | None) -> LogRepaired:
    from kbroker import Admin

    with Admin(server=server, api_timeout_ms=API_TIMEOUT_MS) as admin:
        return admin.repair_log(partition, accept_loss=accept_loss)


def _repair(name: str, accept_loss: bool, data_dir: Path | None, server: str | None) -> tuple[str, LogRepaired]:
    from kbroker.cli.status import local_runtime_dir
    from kbroker.wire.endpoints import default_data_dir

    if os.sep in name and Path(name).is_dir():
        folder = Path(name).resolve()
        name, data_dir = folder.name, folder.parent
    partition = _partition_of(name)
    here = _broker_here(server, data_dir)
    if here is None and data_dir is None and server is not None and local_runtime_dir(server) is None:
        return name, _repair_through_broker(partition, accept_loss, server)
    folder = (data_dir or (here[1] if here else default_data_dir())) / name
    if not folder.is_dir():
        raise click.UsageError(f"there is no folder {folder}: name the data folder by --data-dir")
    try:
        return name, _repair_files(folder, partition, accept_loss)
    except StartError:
        if here is None:
            raise
        if partition.topic == OFFSETS_TOPIC:
            raise KbrokerError(
                f"{name} is in use by the broker's coordinator: stop the broker, repair it, and start the broker again"
            ) from None
        return name, _repair_through_broker(partition, accept_loss, str(here[0]))


@click.command()
@click.argument("name", metavar="TOPIC-N")
@click.option("--accept-loss", is_flag=True, help="Also go on without records that were on the disk and are gone.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="The broker's data folder.")
@server_option
@json_option
def repair(name: str, accept_loss: bool, data_dir: Path | None, server: str | None, as_json: bool) -> None:
    """Go past what is corrupt in the log of TOPIC-N (or of the partition's folder).

    Every byte is read: the partition is out of service meanwhile. Damaged files are kept beside the log as *.corrupt;
    the offsets that are missing stay empty, and readers go past them. With a broker running it does this, else this
    command.

    What `kbroker status` calls lost keeps the partition from taking records until --accept-loss. Ends with 1 when
    something is left that has to be accepted.
    """
    partition, repaired = _repair(name, accept_loss, data_dir, server)
    if as_json:
        print_json({"partition": partition, "passed_over": repaired.passed_over, "pending": repaired.pending})
    else:
        for text in repaired.passed_over:
            say(f"{partition}: goes on without {text}")
        if not repaired.passed_over and not repaired.pending:
            say(f"{partition}: nothing is corrupt or lost")
    if repaired.pending:
        raise KbrokerError(f"{partition}: " + "; ".join(repaired.pending))
