"""Leader epochs of a partition and the offsets at which they start: Kafka's leader-epoch-checkpoint, version 0."""

from __future__ import annotations

from itertools import pairwise


class LeaderEpochs:
    """Epochs and their start offsets, both rising."""

    __slots__ = ("entries",)

    def __init__(self, entries: list[tuple[int, int]] | None = None) -> None:
        self.entries = entries or []  # (epoch, start offset)

    @property
    def latest(self) -> int:
        """The newest epoch; -1: none."""
        return self.entries[-1][0] if self.entries else -1

    def assign(self, epoch: int, start_offset: int) -> None:
        """Epoch `epoch` begins at `start_offset`. Epochs that never got a record are forgotten."""
        while self.entries and (self.entries[-1][1] >= start_offset or self.entries[-1][0] >= epoch):
            self.entries.pop()
        self.entries.append((epoch, start_offset))

    def cut_start(self, log_start_offset: int) -> None:
        """Forget what retention has removed; the epoch of the log start offset now starts there."""
        while len(self.entries) > 1 and self.entries[1][1] <= log_start_offset:
            del self.entries[0]
        if self.entries and self.entries[0][1] < log_start_offset:
            self.entries[0] = (self.entries[0][0], log_start_offset)

    def end_offset(self, epoch: int, next_offset: int) -> tuple[int, int]:
        """The largest epoch at or below `epoch` and the offset after it, as OffsetForLeaderEpoch answers; (-1, -1)
        when `epoch` is newer than all, or there are none.
        """
        if epoch < 0 or not self.entries or epoch > self.latest:
            return -1, -1
        if epoch == self.latest:
            return epoch, next_offset
        found = epoch
        for known, start_offset in self.entries:
            if known > epoch:
                return found, start_offset
            found = known
        raise AssertionError("unreachable: the latest epoch is larger")

    def at(self, offset: int) -> int:
        """The epoch in which the record at `offset` was written; -1: not known."""
        found = -1
        for epoch, start_offset in self.entries:
            if start_offset > offset:
                break
            found = epoch
        return found

    def encode(self) -> bytes:
        lines = ["0", str(len(self.entries)), *(f"{epoch} {start}" for epoch, start in self.entries)]
        return ("\n".join(lines) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes) -> LeaderEpochs | None:
        """The epochs in a file's bytes; None when it is damaged."""
        try:
            version, count, *lines = data.decode("ascii").splitlines()
            entries = [(int(epoch), int(start)) for epoch, start in (line.split(" ") for line in lines)]
            good = int(version) == 0 and int(count) == len(entries)
        except ValueError:
            return None
        good = good and all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(entries))
        good = good and all(epoch >= 0 and start >= 0 for epoch, start in entries)
        return cls(entries) if good else None
