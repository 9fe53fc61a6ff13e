"""What is known of a log from elsewhere than its batches: marks, snapshots, epochs. Facts bound every estimate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from kbroker.log import names
from kbroker.log.checkpoint import RecoveryPoint
from kbroker.log.epochs import LeaderEpochs
from kbroker.log.storage import Storage


@dataclass(slots=True)
class Known:
    """Read before anything in the folder is changed.

    `mark` and `point` carry a checksum, a snapshot's name is the log's end when it was written; all were written after
    a sync. The epochs have no checksum: they count where nothing better is there. `epochs_read`: their file could be
    read.
    """

    mark: RecoveryPoint | None
    point: RecoveryPoint | None
    epochs: LeaderEpochs
    epochs_read: bool
    durable_end: int
    """Every record before this offset was on the disk."""
    end: int
    """Every offset before this one was given to a record, at least."""

    @classmethod
    def read(cls, storage: Storage, folder: Path, listing: Collection[str]) -> Known:
        """What the files of a partition's folder say. Raises OSError."""

        def content(name: str) -> bytes | None:
            return storage.read_file(folder / name) if name in listing else None

        def point_in(name: str) -> RecoveryPoint | None:
            data = content(name)
            return None if data is None else RecoveryPoint.parse(data)

        mark, point = point_in(names.CLEAN_SHUTDOWN), point_in(names.RECOVERY_POINT)
        data = content(names.LEADER_EPOCHS)
        epochs = None if data is None else LeaderEpochs.parse(data)
        snapshots = [p[0] for p in map(names.parse, listing) if p is not None and p[1] == names.SNAPSHOT]
        durable_end = max((*(p.offset for p in (mark, point) if p is not None), *snapshots), default=0)
        end = durable_end
        if mark is None and point is None and epochs is not None and epochs.entries:
            end = max(end, epochs.entries[-1][1])
        return cls(mark, point, epochs or LeaderEpochs(), epochs is not None, durable_end, end)

    @property
    def has_nothing(self) -> bool:
        """Whether no file says how far the log went."""
        return self.mark is None and self.point is None and not self.durable_end

    @property
    def start_offset(self) -> int:
        """Where the log began when that was last written down."""
        return max((p.log_start_offset for p in (self.mark, self.point) if p is not None), default=0)

    @property
    def first_needed_offset(self) -> int | None:
        """The offset that the first segment must have, or one before it; None: not known.

        Retention writes the epochs when it has renamed segments, the recovery point follows.
        """
        if self.mark is not None:
            return self.mark.log_start_offset
        if self.point is None or not self.epochs_read or not self.epochs.entries:
            return None
        return max(self.point.log_start_offset, self.epochs.entries[0][1])

    def exact_end(self) -> int | None:
        """The log's end where it was closed in order: nothing followed."""
        return None if self.mark is None else self.mark.offset
