"""`kbroker log`: look into a partition's files, with no broker, and repair them (`repair.py`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbroker.cli.options import json_option
from kbroker.cli.output import print_json, say
from kbroker.cli.repair import repair
from kbroker.cli.table import print_table
from kbroker.errors import KbrokerError

if TYPE_CHECKING:
    from kbroker.log.scan import Scan
    from kbroker.records.batch import BatchFacts

PATH = click.Path(exists=True, path_type=Path)


@dataclass
class SegmentReport:
    """What one segment holds. `problems` is empty when all of it is whole and right."""

    path: str
    base_offset: int
    next_offset: int = 0
    batches: int = 0
    records: int = 0
    size_bytes: int = 0
    problems: list[str] = field(default_factory=list)


def _segments(path: Path) -> list[Path]:
    """The segments that `path` means: itself, those of a partition's folder, or of all partitions in a data folder."""
    from kbroker.log.names import LOG, parse

    def is_segment(file: Path) -> bool:
        parsed = parse(file.name)
        return parsed is not None and parsed[1] == LOG

    if path.is_file():
        if not is_segment(path):
            raise click.UsageError(f"{path} is no segment: name a file such as {0:020d}.log, or a folder")
        return [path]
    found = [file for file in sorted(path.iterdir()) if is_segment(file)]
    found = found or [file for file in sorted(path.glob("*/*.log")) if is_segment(file)]
    if not found:
        raise click.UsageError(f"there is no segment in {path}")
    return found


def _scan(path: Path) -> Scan:
    from kbroker.log.names import parse
    from kbroker.log.scan import Scan
    from kbroker.log.storage import DISK

    parsed = parse(path.name)
    assert parsed is not None
    file = DISK.open_to_read(path)
    return Scan(DISK, file, 0, DISK.size(file), parsed[0])


def _check_offset_index(path: Path, ends: dict[int, int], report: SegmentReport) -> None:
    """`ends`: next offset of each batch by its position."""
    from kbroker.log.index import OffsetIndex
    from kbroker.log.names import INDEX

    index_path = path.with_suffix(INDEX)
    if not index_path.exists():
        return
    index = OffsetIndex.parse(index_path.read_bytes(), report.size_bytes)
    if index is None:
        report.problems.append(f"{index_path.name} is damaged (it is rebuilt from the log at the next start)")
        return
    for relative_offset, position in zip(index.offsets, index.positions, strict=True):
        if ends.get(position) != report.base_offset + relative_offset + 1:
            report.problems.append(f"{index_path.name} points at byte {position}, where no such batch begins")
            return


def inspect(path: Path) -> SegmentReport:
    """Check a segment, every byte of it, and its offset index."""
    scan = _scan(path)
    report = SegmentReport(str(path), scan.next_offset, size_bytes=scan.end)
    ends: dict[int, int] = {}
    while True:
        for facts in scan:
            report.batches += 1
            report.records += facts.record_count
            ends[facts.position] = scan.next_offset
        if scan.done:
            break
        bad, offset = scan.position, scan.next_offset
        if not scan.seek_good():
            report.problems.append(
                f"nothing whole from byte {bad} (offset {offset}) to the end, {scan.end - bad} bytes"
            )
            break
        report.problems.append(
            f"bytes {bad} to {scan.position} are damaged: offsets {offset} to {scan.next_offset - 1}"
        )
    report.next_offset = scan.next_offset
    _check_offset_index(path, ends, report)
    return report


@click.group()
def command() -> None:
    """Look into a partition's files, and go past what is damaged in them."""


command.add_command(repair)


@command.command()
@click.argument("path", type=PATH)
@json_option
def verify(path: Path, as_json: bool) -> None:
    """Check every byte of PATH: a segment, a partition's folder, or a data folder. Ends with 1 when any is damaged.

    What a running broker is just writing may look unfinished at the very end.
    """
    reports = [inspect(segment) for segment in _segments(path)]
    for before, after in pairwise(reports):
        folder = Path(before.path).parent
        is_gap = before.next_offset != after.base_offset and not before.problems
        if folder == Path(after.path).parent and is_gap and not _is_accepted(folder, before, after):
            after.problems.append(f"begins at {after.base_offset}, but the segment before ends at {before.next_offset}")
    if as_json:
        print_json([asdict(report) for report in reports])
    else:
        columns = ("segment", "offsets", "batches", "records", "bytes", "state")
        print_table(
            columns,
            [
                (
                    f"{Path(r.path).parent.name}/{Path(r.path).name}",
                    f"{r.base_offset}…{r.next_offset}",
                    r.batches,
                    r.records,
                    r.size_bytes,
                    "; ".join(r.problems) or "whole",
                )
                for r in reports
            ],
            right=columns[1:5],
        )
    damaged = sum(1 for report in reports if report.problems)
    if damaged:
        raise KbrokerError(f"{damaged} of {len(reports)} segments are damaged: `kbroker log repair` goes past that")


def _is_accepted(folder: Path, before: SegmentReport, after: SegmentReport) -> bool:
    """Whether somebody has accepted that the offsets between two segments are missing (`kbroker log repair`)."""
    from kbroker.log.damage import KnownDamage
    from kbroker.log.names import DAMAGE

    path = folder / DAMAGE
    known = KnownDamage.parse(path.read_bytes()) if path.exists() else None
    if known is None:
        return False
    accepted = KnownDamage(entry for entry in known.entries if entry.is_accepted)
    return accepted.covers(before.next_offset, after.base_offset)


def _batch_facts(facts: BatchFacts) -> dict[str, Any]:
    from kbroker.records.compression import CODEC_NAMES

    return {
        "base_offset": facts.base_offset,
        "next_offset": facts.base_offset + facts.last_offset_delta + 1,
        "position": facts.position,
        "size_bytes": facts.size_bytes,
        "records": facts.record_count,
        "compression": CODEC_NAMES.get(facts.codec, str(facts.codec)),
        "leader_epoch": facts.leader_epoch,
        "producer_id": facts.producer_id,
        "producer_epoch": facts.producer_epoch,
        "base_sequence": facts.base_sequence,
        "max_timestamp_ms": facts.max_timestamp,
    }


def _dump(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    scan = _scan(path)
    for facts in scan:
        yield _batch_facts(facts), scan.storage.pread_all(scan.file, facts.size_bytes, facts.position)
    if not scan.done:
        raise KbrokerError(f"{path}: nothing whole at byte {scan.position}; see `kbroker log verify`")


@command.command()
@click.argument("path", type=PATH)
@click.option("--records", "with_records", is_flag=True, help="The records in each batch too.")
@json_option
def dump(path: Path, with_records: bool, as_json: bool) -> None:
    """Print the batches of PATH (a segment or a partition's folder), a line each; with --json an object on a line."""
    from kbroker.cli.format import json_line
    from kbroker.clients.records import ConsumerRecord
    from kbroker.records.codec import decode_list

    for segment in _segments(path):
        topic, _, number = segment.absolute().parent.name.rpartition("-")
        for facts, batch in _dump(segment):
            if as_json:
                print_json({"segment": segment.name, **facts}, in_one_line=True)
            else:
                say(f"{segment.name} " + " ".join(f"{name}={value}" for name, value in facts.items()))
            if not with_records:
                continue
            partition = int(number) if number.isdigit() else -1
            for offset, timestamp, timestamp_type, key, value, headers in decode_list(batch, check_crc=False):
                record = ConsumerRecord(
                    topic, partition, facts["leader_epoch"], offset, timestamp, timestamp_type, key, value, headers
                )
                sys.stdout.write(("" if as_json else "  ") + json_line(record).decode())
