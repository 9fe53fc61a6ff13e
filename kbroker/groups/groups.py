"""All groups of all kinds: the one door to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kbroker.groups.committed import Committed
from kbroker.groups.effects import Effects, Record
from kbroker.groups.events import ListedGroup, TopicsChanged
from kbroker.groups.kind import Topics
from kbroker.groups.settings import GroupSettings


class Groups:
    """Every group and its committed offsets."""

    def __init__(self, settings: GroupSettings, topics: Topics) -> None:
        self.settings = settings
        self._topics = topics

    def handle(self, event: object, now_ms: int) -> Effects:
        """Decide on an event of any kind. `now_ms`: ms since 1970."""
        raise NotImplementedError

    def tick(self, group_id: str, now_ms: int) -> Effects:
        """The time has come that the group asked for; too early, or for a group that is gone, does no harm."""
        raise NotImplementedError

    def topics_changed(self, event: TopicsChanged, now_ms: int) -> list[tuple[str, Effects]]:
        """What follows for which group."""
        raise NotImplementedError

    def replay(self, record: Record, now_ms: int) -> None:
        """At start, every record in the order of the log; one of an unknown kind is passed over."""
        raise NotImplementedError

    def loaded(self, now_ms: int) -> list[tuple[str, Effects]]:
        """After the last record: sessions begin, what cannot go on as it was is settled."""
        raise NotImplementedError

    def restore(self, group_id: str, records: Iterable[Record], now_ms: int) -> Effects:
        """Storing failed: put this group back to its durable records (all of them, offsets too)."""
        raise NotImplementedError

    def listed(self, states: Iterable[str] = (), types: Iterable[str] = ()) -> list[ListedGroup]:
        """The groups in these states and of these types, by name; neither given: all. Case does not matter."""
        raise NotImplementedError

    def offsets_of(self, group_id: str) -> Mapping[tuple[str, int], Committed]:
        """What a group has committed, by topic and partition."""
        raise NotImplementedError

    def records(self, group_id: str) -> list[Record]:
        """Records that make this group again, its offsets too; for compaction and tests."""
        raise NotImplementedError
