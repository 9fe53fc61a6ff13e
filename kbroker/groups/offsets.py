"""What groups do with committed offsets, whatever kind they are of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kbroker.errors import (
    GroupSubscribedToTopic,
    InvalidCommitOffsetSize,
    OffsetMetadataTooLarge,
    UnknownTopicOrPartition,
)
from kbroker.groups.committed import Committed, CommittedOffsets, Place, encode_key, encode_value, memory_of
from kbroker.groups.effects import Record
from kbroker.groups.events import CommitOffsets, DeleteOffsets, FetchedOffset, FetchOffsets, OffsetToCommit
from kbroker.groups.kind import Group, Topics
from kbroker.groups.room import Room, no_room
from kbroker.groups.settings import GroupSettings


class Offsets:
    """The committed offsets of all groups, and the rules for them."""

    def __init__(self, settings: GroupSettings, topics: Topics) -> None:
        self._settings = settings
        self._topics = topics
        self._committed = CommittedOffsets()
        self._gone: dict[str, int] = {}
        """Topics that were deleted, and when, while not all offsets in them are forgotten."""

    def groups(self) -> list[str]:
        """The groups that have committed something."""
        return self._committed.groups()

    def of_group(self, group_id: str) -> Mapping[tuple[str, int], Committed]:
        """All of a group, by topic and partition."""
        return self._committed.of_group(group_id)

    def room_bytes(self, group_id: str) -> int:
        """About the memory that a group's offsets take."""
        return self._committed.size_bytes(group_id)

    def drop(self, group_id: str) -> None:
        """Let go of a group's offsets in memory alone."""
        self._committed.drop(group_id)

    def put(self, place: Place, committed: Committed | None) -> None:
        """Take over what is stored; None forgets it."""
        self._committed.put(place, committed)

    def records(self, group_id: str) -> list[Record]:
        """The records of a group's offsets."""
        return [
            Record(encode_key(Place(group_id, *where)), encode_value(committed))
            for where, committed in self._committed.of_group(group_id).items()
        ]

    # --- committing and fetching ---

    def refusal(self, item: OffsetToCommit) -> int:
        """Why this offset cannot be committed by anybody; 0 when it can."""
        if not self._exists(item.topic, item.partition):
            return UnknownTopicOrPartition.code
        if len(item.metadata.encode()) > self._settings.offset_metadata_max_bytes:
            return OffsetMetadataTooLarge.code
        return 0

    def commit(
        self, event: CommitOffsets, codes: Sequence[int], room: Room, more_bytes: int, now_ms: int
    ) -> list[Record]:
        """Take over those whose code is 0, and none when they are too much for one commit, or for the room that all
        groups have (`more_bytes`: what the group itself adds): then this raises InvalidCommitOffsetSize. An offset
        lower than before is as good as any."""
        found = []
        after: dict[Place, Committed] = {}
        size_bytes = 0
        for item, code in zip(event.offsets, codes, strict=True):
            if code == 0:
                place = Place(event.group_id, item.topic, item.partition)
                committed = Committed(item.offset, item.leader_epoch, item.metadata, now_ms)
                if event.retention_ms >= 0:
                    committed = committed._replace(leader_epoch=-1, expire_ms=now_ms + event.retention_ms)
                record = Record(encode_key(place), encode_value(committed))
                size_bytes += len(record.key) + len(record.value or b"")
                most = self._settings.commit_bytes_max
                if size_bytes > most:
                    raise InvalidCommitOffsetSize(f"the records of one commit have at most {most} bytes: make several")
                found.append((place, committed, record))
                after[place] = committed
        more_bytes += sum(memory_of(made) - memory_of(self._committed.get(place)) for place, made in after.items())
        if not room.has(more_bytes):
            raise InvalidCommitOffsetSize(no_room(room))
        for place, committed, _ in found:
            self._committed.put(place, committed)
        return [record for _, _, record in found]

    def fetch(self, event: FetchOffsets) -> tuple[FetchedOffset, ...]:
        """What was asked for; an offset that was never committed is -1."""
        known = self._committed.of_group(event.group_id)
        if self._gone:
            known = {where: item for where, item in known.items() if item.commit_ms > self._gone.get(where[0], -1)}
        wanted = sorted(known) if event.partitions is None else event.partitions
        return tuple(_fetched(where, known.get(where)) for where in wanted)

    # --- forgetting ---

    def delete(self, event: DeleteOffsets, group: Group) -> tuple[list[Record], tuple[int, ...]]:
        """Forget those that no member reads: their tombstones, and a code for each that was named."""
        codes = tuple(
            UnknownTopicOrPartition.code
            if not self._exists(topic, partition)
            else GroupSubscribedToTopic.code
            if group.subscribes(topic)
            else 0
            for topic, partition in event.partitions
        )
        named = [where for where, code in zip(event.partitions, codes, strict=True) if code == 0]
        return self._forget(event.group_id, named), codes

    def delete_all(self, group_id: str) -> list[Record]:
        """Forget all of a group."""
        return self._forget(group_id, list(self._committed.of_group(group_id)))

    @property
    def is_forgetting(self) -> bool:
        """Whether `forget_gone` is to be called again."""
        return bool(self._gone)

    def topics_gone(self, topics: Iterable[str], now_ms: int) -> None:
        """What was committed in these topics up to now counts no more: `forget_gone` forgets it."""
        for topic in topics:
            if self._committed.groups_in(topic):
                self._gone[topic] = now_ms

    def forget_gone(self, most: int) -> dict[str, list[Record]]:
        """Forget so many offsets in topics that are no more, by group. A topic of that name that came since keeps its
        own."""
        found: dict[str, list[Record]] = {}
        for topic, gone_ms in list(self._gone.items()):
            for group_id in self._committed.groups_in(topic):
                wanted = [
                    where
                    for where, committed in self._committed.of_group(group_id).items()
                    if where[0] == topic and committed.commit_ms <= gone_ms
                ][:most]
                if wanted:
                    found.setdefault(group_id, []).extend(self._forget(group_id, wanted))
                    most -= len(wanted)
                if most <= 0:
                    return found
            del self._gone[topic]
        return found

    def expire(self, group: Group, now_ms: int) -> list[Record]:
        """Forget a group's offsets that are older than they are kept; those that a member reads stay."""
        late = [
            where
            for where, committed in self._committed.of_group(group.group_id).items()
            if not group.subscribes(where[0]) and self._has_expired(group, committed, now_ms)
        ]
        return self._forget(group.group_id, late)

    def _has_expired(self, group: Group, committed: Committed, now_ms: int) -> bool:
        since_ms = group.kept_since_ms(committed.commit_ms)
        if since_ms is None:
            return False
        if committed.expire_ms >= 0:
            return now_ms >= committed.expire_ms
        return now_ms - since_ms >= self._settings.offsets_retention_ms

    def _forget(self, group_id: str, wanted: Iterable[tuple[str, int]]) -> list[Record]:
        places = [Place(group_id, *where) for where in wanted]
        known = [place for place in dict.fromkeys(places) if self._committed.get(place) is not None]
        for place in known:
            self._committed.put(place, None)
        return [Record(encode_key(place), None) for place in known]

    def _exists(self, topic: str, partition: int) -> bool:
        count = self._topics.partition_count(topic)
        return count is not None and 0 <= partition < count


def _fetched(where: tuple[str, int], committed: Committed | None) -> FetchedOffset:
    if committed is None:
        return FetchedOffset(*where)
    return FetchedOffset(
        *where, committed.offset, committed.leader_epoch, committed.metadata, commit_ms=committed.commit_ms
    )
