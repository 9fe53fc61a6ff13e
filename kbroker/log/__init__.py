"""The log of a partition, in Kafka's on-disk format. `storage` is the only door to the disk; nothing reads a clock."""

from kbroker.log.flush import Flush
from kbroker.log.log import PartitionLog
from kbroker.log.positions import AppendResult, LogPosition, RecoveryReport, SegmentInfo
from kbroker.log.slices import LogSlice
from kbroker.log.storage import DISK, Storage

__all__ = [
    "DISK",
    "AppendResult",
    "Flush",
    "LogPosition",
    "LogSlice",
    "PartitionLog",
    "RecoveryReport",
    "SegmentInfo",
    "Storage",
]
