"""File names in a partition's folder: this is the one place that knows them. Kafka's, where Kafka has the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

LOG: Final = ".log"
INDEX: Final = ".index"
TIME_INDEX: Final = ".timeindex"
TXN_INDEX: Final = ".txnindex"
INDEXES: Final = (INDEX, TIME_INDEX, TXN_INDEX)
SNAPSHOT: Final = ".snapshot"
DELETED: Final = ".deleted"
CORRUPT: Final = ".corrupt"
CLEANED: Final = ".cleaned"
"""A compacted segment that is being written; worth nothing after a crash."""
SWAP: Final = ".swap"
"""A compacted segment that is whole and on the disk: it stands for all that it covers, whatever else is there."""
TEMPORARY: Final = ".tmp"
DELETED_FOLDER: Final = "-delete"

LEADER_EPOCHS: Final = "leader-epoch-checkpoint"
PARTITION_METADATA: Final = "partition.metadata"
RECOVERY_POINT: Final = "recovery-point"
WRITE_PROBE: Final = "write-probe.tmp"
"""Written to see whether the disk takes something again."""
COMPACTION_CHECKPOINT: Final = "compaction-checkpoint"
CLEAN_SHUTDOWN: Final = "clean-shutdown"
FLUSH_FAILED: Final = "flush-failed"
DAMAGE: Final = "damage"
"""What is missing or damaged, and whether somebody has accepted it: see `kbroker/log/damage.py`."""

NAME_BYTES_MAX: Final = 255
_DELETED_FOLDER = re.compile(r".+\.[0-9a-f]{32}-delete")
_NUMBERED = re.compile(r"(\d{20})(\.log|\.index|\.timeindex|\.txnindex|\.snapshot)")


def numbered(folder: Path, offset: int, suffix: str) -> Path:
    """`00000000000000000042.log` and the like: the file of kind `suffix` that starts at (or is of) `offset`."""
    return folder / f"{offset:020d}{suffix}"


def parse(name: str) -> tuple[int, str] | None:
    """Offset and suffix of a numbered file; None for any other name."""
    match = _NUMBERED.fullmatch(name)
    if match is None:
        return None
    offset = int(match[1])
    return (offset, match[2]) if offset < 2**63 else None


def deleted_folder(name: str, unique: str) -> str:
    """The name under which a deleted partition's folder waits for the end, short enough for any file system."""
    suffix = f".{unique}{DELETED_FOLDER}"
    return name[: NAME_BYTES_MAX - len(suffix)] + suffix


def is_deleted_folder(name: str) -> bool:
    """Whether `deleted_folder` made that name. No partition's folder can have one: those end in a number."""
    return _DELETED_FOLDER.fullmatch(name) is not None


def aside(path: Path, taken: set[str]) -> Path:
    """Where a corrupt file is set aside: `….log.corrupt`, then `….log.1.corrupt`, never one that is there."""
    name = path.name + CORRUPT
    number = 0
    while name in taken:
        number += 1
        name = f"{path.name}.{number}{CORRUPT}"
    return path.with_name(name)
