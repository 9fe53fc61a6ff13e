"""What is missing or damaged in a partition's log: the file `damage` remembers it until somebody has accepted it.

`lost`: was on the disk, by the recovery point or a clean shutdown, and is not there. Nothing is appended until that is
accepted. `damaged`: recovery has set it aside and gone on without it. `corrupt`: lies in a segment as it was found;
readers stop there until `kbroker log repair` goes past it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple

from crc32c import crc32c

from kbroker.types import TopicPartition

LOST: Final = "lost"
DAMAGED: Final = "damaged"
CORRUPT: Final = "corrupt"
_KINDS: Final = (LOST, DAMAGED, CORRUPT)

UNKNOWN: Final = -1
"""As `next_offset`: nobody knows how far it goes."""
KEPT_MAX: Final = 500
"""So many places are told apart; the last one is widened by what comes on top."""


class Repair(IntEnum):
    """What opening a log may do about damage that it knows of."""

    NONE = 0
    SET_ASIDE = 1
    """Check every byte, set corrupt parts aside, go on without them. It is still told, until somebody accepts it."""
    PAST_CORRUPTION = 2
    """The same, and it is accepted. Lost records stay to be accepted."""
    ACCEPT_LOSS = 3
    """Also go on without what is lost."""


class Damage(NamedTuple):
    """The offsets first_offset … next_offset - 1. `what` is one line that says what was found, and where it is kept."""

    kind: str
    first_offset: int
    next_offset: int
    what: str
    is_accepted: bool = False

    @property
    def offsets(self) -> str:
        """The offsets for people: `120 to 199`."""
        if self.next_offset == UNKNOWN:
            return f"{self.first_offset} and on"
        if self.next_offset == self.first_offset + 1:
            return str(self.first_offset)
        return f"{self.first_offset} to {self.next_offset - 1}"

    def outage(self, partition: TopicPartition) -> tuple[str, str]:
        """In few words what clients cannot use, and why: for `kbroker status`."""
        if self.kind == LOST:
            return (
                f"writes to {partition}",
                f"offsets {self.offsets} were on the disk and are not there; "
                f"`kbroker log repair {partition} --accept-loss` goes on without them",
            )
        state = "corrupt, readers stop there" if self.kind == CORRUPT else "missing"
        way = "goes past them" if self.kind == CORRUPT else "confirms it"
        return f"offsets {self.offsets} of {partition}", f"{state}; `kbroker log repair {partition}` {way}"

    def told(self, partition: TopicPartition) -> str:
        """One sentence for people, with the way on."""
        if self.kind == LOST:
            return (
                f"offsets {self.offsets} were on the disk and are not there ({self.what}); writes are refused until "
                f"`kbroker log repair {partition} --accept-loss`"
            )
        if self.kind == CORRUPT:
            return (
                f"offsets {self.offsets} are corrupt ({self.what}): readers stop there until "
                f"`kbroker log repair {partition}` goes past them"
            )
        return f"offsets {self.offsets} are missing ({self.what}); `kbroker log repair {partition}` confirms it"


class KnownDamage:
    """All that is known of one partition, in the order in which it was found."""

    __slots__ = ("entries",)

    def __init__(self, entries: Iterable[Damage] = ()) -> None:
        self.entries = list(entries)

    @property
    def pending(self) -> list[Damage]:
        """What nobody has accepted yet."""
        return [entry for entry in self.entries if not entry.is_accepted]

    @property
    def loss(self) -> list[Damage]:
        """The losses that nobody has accepted yet: while there are any, nothing is appended."""
        return [entry for entry in self.pending if entry.kind == LOST]

    def refusal(self, partition: TopicPartition) -> str | None:
        """Why nothing is appended; None: it is."""
        loss = self.loss
        if not loss:
            return None
        more = f" (and {len(loss) - 1} more ranges)" if len(loss) > 1 else ""
        return f"{partition}: {loss[0].told(partition)}{more}"

    def covers(self, first_offset: int, next_offset: int, *, or_corrupt: bool = False) -> bool:
        """Whether those offsets are known to be missing, from one entry or several that follow one another."""
        at = first_offset
        for entry in sorted(self.entries, key=lambda entry: entry.first_offset):
            if entry.kind == CORRUPT and not or_corrupt:
                continue
            if entry.first_offset <= at and (entry.next_offset > at or entry.next_offset == UNKNOWN):
                if entry.next_offset == UNKNOWN:
                    return True
                at = entry.next_offset
        return at >= next_offset

    def add(self, damage: Damage) -> bool:
        """Take note of it. False: it was known."""
        is_corrupt = damage.kind == CORRUPT
        if damage.next_offset != UNKNOWN and self.covers(
            damage.first_offset, damage.next_offset, or_corrupt=is_corrupt
        ):
            return False
        if not is_corrupt:  # what was corrupt there is set aside now
            self.entries = [entry for entry in self.entries if not _lies_in(entry, damage)]
        if damage in self.entries:
            return False
        if len(self.entries) < KEPT_MAX:
            self.entries.append(damage)
            return True
        last = self.entries[-1]
        # A loss among them makes all of it one: what refuses writes is not forgotten.
        self.entries[-1] = Damage(
            LOST if LOST in (last.kind, damage.kind) else last.kind,
            min(last.first_offset, damage.first_offset),
            UNKNOWN if UNKNOWN in (last.next_offset, damage.next_offset) else max(last.next_offset, damage.next_offset),
            f"{last.what.partition('; and more')[0]}; and more places",
        )
        return True

    def forget_corrupt(self) -> None:
        """Before every byte is looked at again: what is still corrupt is found again."""
        self.entries = [entry for entry in self.entries if entry.kind != CORRUPT]

    def accept(self, repair: Repair) -> list[Damage]:
        """Nobody need be told of it any longer; it stays known that these offsets are missing. Returns what that is."""
        accepted = []
        for number, entry in enumerate(self.entries):
            needed = {DAMAGED: Repair.PAST_CORRUPTION, LOST: Repair.ACCEPT_LOSS}.get(entry.kind)
            if needed is not None and repair >= needed and not entry.is_accepted:
                accepted.append(entry)
                self.entries[number] = entry._replace(is_accepted=True)
        return accepted

    def cut_start(self, log_start_offset: int) -> None:
        """Forget what lies before the log's start, unless it still is to be accepted."""
        self.entries = [
            entry
            for entry in self.entries
            if not entry.is_accepted or entry.next_offset == UNKNOWN or entry.next_offset > log_start_offset
        ]

    def encode(self) -> bytes:
        """A line for each: kind, offsets, whether it is accepted, what was found; then a checksum."""
        lines = ["version=1"]
        for kind, first_offset, next_offset, what, is_accepted in self.entries:
            state = "accepted" if is_accepted else "pending"
            lines.append(f"{kind} {first_offset} {next_offset} {state} {' '.join(what.split())}")
        text = ("\n".join(lines) + "\n").encode()
        return text + f"crc={crc32c(text):08x}\n".encode()

    @classmethod
    def parse(cls, data: bytes) -> KnownDamage | None:
        """From a file's bytes; None when it is itself damaged, or of a newer version."""
        text, mark, crc = data.rpartition(b"crc=")
        try:
            if not mark or int(crc, 16) != crc32c(text):
                return None
            version, *lines = text.decode().splitlines()
            if version != "version=1":
                return None
            entries = []
            for line in lines:
                kind, first_offset, next_offset, state, what = line.split(" ", 4)
                if kind not in _KINDS:
                    return None
                entries.append(Damage(kind, int(first_offset), int(next_offset), what, state == "accepted"))
        except ValueError:
            return None
        return cls(entries)


def _lies_in(entry: Damage, damage: Damage) -> bool:
    """Whether a corrupt place is part of what is missing now."""
    if entry.kind != CORRUPT or entry.first_offset < damage.first_offset:
        return False
    return damage.next_offset == UNKNOWN or entry.first_offset < damage.next_offset
