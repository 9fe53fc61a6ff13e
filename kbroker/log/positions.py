"""Facts that the log hands out: where an offset lies, what an append did, what recovery found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kbroker.log.damage import Damage


class LogPosition(NamedTuple):
    """An offset and the byte at which its batch starts, in the segment with base offset `segment_base`."""

    offset: int
    segment_base: int
    position: int


@dataclass(slots=True)
class AppendResult:
    """What an append did.

    Records have the offsets base_offset … next_offset - 1. `append_time_ms` is the broker's stamp under
    LogAppendTime, else -1. `duplicate`: everything had been appended before, and these are those offsets.
    When `sync_needed`, answer once `log.acknowledged_offset >= ack_offset`; else answer now. `batch_offsets` has the
    base offset of each batch when the append had several (a repeated append may find some of them already there).
    """

    base_offset: int
    next_offset: int
    log_start_offset: int
    append_time_ms: int
    duplicate: bool
    sync_needed: bool
    ack_offset: int
    batch_offsets: tuple[int, ...] | None = None


class SegmentInfo(NamedTuple):
    """One segment, for handing out descriptors. `next_base_offset`: the next segment's; None: this is the last."""

    base_offset: int
    path: Path
    size_bytes: int
    closed: bool
    next_base_offset: int | None


@dataclass(slots=True)
class RecoveryReport:
    """What opening a log found and did. `set_aside` has a sentence for each damaged file: what it is kept as. `found`
    are the offsets that are missing and were not known to be, `accepted` those that somebody has accepted now.
    """

    clean: bool = False
    scanned_bytes: int = 0
    scanned_batches: int = 0
    truncated_bytes: int = 0
    set_aside: list[str] = field(default_factory=list)
    found: list[Damage] = field(default_factory=list)
    accepted: list[Damage] = field(default_factory=list)
    rebuilt_indexes: int = 0
