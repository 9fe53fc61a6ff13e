"""What the operators' log says when a partition's log was opened."""

from __future__ import annotations

import logging

from kbroker.log.damage import LOST
from kbroker.log.log import PartitionLog

log = logging.getLogger(__name__)


def tell_recovery(opened: PartitionLog) -> None:
    """What was found, and what still waits to be accepted: an ERROR for each place, at every start."""
    name, report = opened.partition, opened.recovery
    for sentence in report.set_aside:
        log.error("%s: %s", name, sentence)
    for damage in report.accepted:
        log.warning("%s: goes on without offsets %s (%s), as was accepted", name, damage.offsets, damage.what)
    for damage in opened.damage.pending:
        level = logging.ERROR if damage.kind == LOST or damage in report.found else logging.WARNING
        log.log(level, "%s: %s", name, damage.told(name))
    if report.scanned_batches or report.truncated_bytes or report.rebuilt_indexes:
        log.info(
            "%s recovered: %d batches (%d bytes) read, %d bytes of a torn tail cut, %d indexes rebuilt",
            name,
            report.scanned_batches,
            report.scanned_bytes,
            report.truncated_bytes,
            report.rebuilt_indexes,
        )
