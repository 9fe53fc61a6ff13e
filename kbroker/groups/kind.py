"""What `Groups` asks of one group, whatever its kind, and what every kind may ask about topics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from kbroker.groups.effects import Effects, Record
from kbroker.groups.events import CommitOffsets, FetchOffsets
from kbroker.groups.patterns import Steps


class Topics(Protocol):
    """The topics that exist now."""

    def partition_count(self, name: str) -> int | None:
        """None: no such topic."""

    def id_of(self, name: str) -> bytes | None:
        """The topic's id, 16 bytes."""

    def name_of(self, topic_id: bytes) -> str | None:
        """The topic with that id."""

    def names(self) -> Iterable[str]:
        """All of them."""


class Group(Protocol):
    """One group of some kind: members and what they read. Its committed offsets are kept beside it, by `Groups`.

    What a caller did wrong is raised as a RequestError by `handle` and the checks; `Groups` makes it the answer.
    """

    group_id: str

    @property
    def type_name(self) -> str:
        """Kafka's name for the kind: "classic" or "consumer"."""

    @property
    def state(self) -> str:
        """As ListGroups v4 and up name it: "Stable", "Empty" …"""

    @property
    def protocol_type(self) -> str:
        """As the members say it, such as "consumer"; empty while nobody has said."""

    @property
    def is_empty(self) -> bool:
        """Nobody is a member, or about to become one: the group may be deleted."""

    def handle(self, event: object, now_ms: int) -> Effects:
        """Take an event of this kind."""

    def tick(self, now_ms: int) -> Effects:
        """It is time that the group looked at its deadlines; too early does no harm."""

    @property
    def room_bytes(self) -> int:
        """About the memory that it takes, without offsets."""

    def replay(self, record: Record, now_ms: int) -> None:
        """Take over a record of this group that an earlier process stored, in the order of the log."""

    def loaded(self, steps: Steps, now_ms: int) -> Effects:
        """All was replayed: sessions begin anew, and what cannot go on as it was is settled."""

    def records(self) -> list[Record]:
        """The stored records that are in force, without offsets: a log of only these replays to the same."""

    def tombstones(self) -> list[Record]:
        """Records that make the log forget the group; without the offsets."""

    def check_commit(self, event: CommitOffsets, now_ms: int) -> None:
        """Raise when this commit may not be made; a commit from a member counts as its heartbeat."""

    def check_fetch(self, event: FetchOffsets) -> None:
        """Raise when offsets may not be read by whom it names."""

    def kept_since_ms(self, commit_ms: int) -> int | None:
        """From when on the retention of an offset counts that was committed then; None: it does not count now."""

    def subscribes(self, topic: str) -> bool:
        """Whether a member reads that topic, or may without our knowing: its offsets are kept."""
