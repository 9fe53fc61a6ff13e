"""Who is to read what: the assignors that run in the coordinator (KIP-848).

`uniform` spreads partitions evenly and leaves each where it is as far as that allows. `range` gives each member the
same range of partitions of every topic (co-partitioned topics stay together) and does not care where they were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from kbroker.groups.assignment import NOTHING, Assignment, TopicIdPartition, of_partitions, partitions_of

BALANCING_STEPS_MAX: Final = 200_000
"""Members looked at while an assignment over unlike subscriptions is balanced (about 0.1 s): what is reached by then is
valid, only less even."""


class Subscriber(NamedTuple):
    """A member as an assignor sees it."""

    topics: frozenset[bytes]
    """Ids of topics that exist."""
    owned: Assignment = NOTHING
    """What it was to have before."""
    instance_id: str | None = None


Assignor = Callable[[Mapping[str, Subscriber], Mapping[bytes, int]], dict[str, Assignment]]
"""From members by id and partition counts by topic id to everybody's assignment."""


def uniform(members: Mapping[str, Subscriber], partition_counts: Mapping[bytes, int]) -> dict[str, Assignment]:
    """Even and sticky. With like subscriptions loads differ by one at most, and no more partitions move than must; with
    unlike ones no chain of moves could make a load even out further."""
    kept = _kept(members, partition_counts)
    topics = {topic for member in members.values() for topic in member.topics}
    owned = {partition for partitions in kept.values() for partition in partitions}
    free = [
        (topic, number)
        for topic in sorted(topics)
        for number in range(partition_counts[topic])
        if (topic, number) not in owned
    ]
    alike = len({member.topics for member in members.values()}) <= 1
    spread = _spread_alike(kept, free) if alike else _Balance(members, kept, free).assigned()
    return {member_id: of_partitions(partitions) for member_id, partitions in spread.items()}


def range_(members: Mapping[str, Subscriber], partition_counts: Mapping[bytes, int]) -> dict[str, Assignment]:
    """Per topic, a run of partitions to each subscriber in their order: static ones by instance id, then the others by
    member id. Topics with the same count and subscribers are cut alike."""
    order = sorted(members, key=lambda member_id: _range_rank(member_id, members[member_id]))
    ranges: dict[str, dict[bytes, frozenset[int]]] = {member_id: {} for member_id in members}
    for topic, count in partition_counts.items():
        subscribers = [member_id for member_id in order if topic in members[member_id].topics]
        start = 0
        for i, member_id in enumerate(subscribers):
            end = start + count // len(subscribers) + (i < count % len(subscribers))
            if end > start:
                ranges[member_id][topic] = frozenset(range(start, end))
            start = end
    return dict(ranges)


ASSIGNORS: Final[Mapping[str, Assignor]] = {"uniform": uniform, "range": range_}


def _range_rank(member_id: str, member: Subscriber) -> tuple[bool, str, str]:
    return member.instance_id is None, member.instance_id or "", member_id


def _kept(
    members: Mapping[str, Subscriber], partition_counts: Mapping[bytes, int]
) -> dict[str, list[TopicIdPartition]]:
    """What each member has and may keep, in a fixed order. Nothing is kept twice."""
    seen: set[TopicIdPartition] = set()
    kept: dict[str, list[TopicIdPartition]] = {}
    for member_id in sorted(members):
        member = members[member_id]
        kept[member_id] = [
            (topic, number)
            for topic, number in sorted(partitions_of(member.owned))
            if topic in member.topics and number < partition_counts[topic] and (topic, number) not in seen
        ]
        seen.update(kept[member_id])
    return kept


def _spread_alike(
    kept: dict[str, list[TopicIdPartition]], free: list[TopicIdPartition]
) -> dict[str, list[TopicIdPartition]]:
    """Everybody may have everything: cut down to the quota, then fill up to it."""
    if not kept:
        return kept
    total = len(free) + sum(map(len, kept.values()))
    least, extras = divmod(total, len(kept))
    # Who has most gets the larger share, so that fewer partitions move.
    by_load = sorted(kept, key=lambda member_id: (-len(kept[member_id]), member_id))
    quotas = {member_id: least + (i < extras) for i, member_id in enumerate(by_load)}
    for member_id, partitions in kept.items():
        free += partitions[quotas[member_id] :]
        del partitions[quotas[member_id] :]
    left = iter(free)
    for member_id in by_load:
        partitions = kept[member_id]
        partitions += [next(left) for _ in range(quotas[member_id] - len(partitions))]
    return kept


class _Balance:
    """Evens out loads over unlike subscriptions.

    Free partitions go to the subscriber with the least. Then, as long as there is a chain of members in which each can
    give the next one a partition and the last has at least two fewer than the first, one partition moves along each
    link: when there is none left, no other assignment is more even.
    """

    def __init__(
        self,
        members: Mapping[str, Subscriber],
        kept: dict[str, list[TopicIdPartition]],
        free: list[TopicIdPartition],
    ) -> None:
        self._subscribers: dict[bytes, list[str]] = {}
        for member_id in sorted(members):
            for topic in members[member_id].topics:
                self._subscribers.setdefault(topic, []).append(member_id)
        self._before = {member_id: frozenset(partitions) for member_id, partitions in kept.items()}
        self._numbers: dict[str, dict[bytes, set[int]]] = {member_id: {} for member_id in kept}
        self._loads = dict.fromkeys(kept, 0)
        for member_id, partitions in kept.items():
            for partition in partitions:
                self._give(member_id, partition)
        # Those with the fewest takers first: the others can still go elsewhere.
        for partition in sorted(free, key=lambda partition: len(self._subscribers[partition[0]])):
            takers = self._subscribers[partition[0]]
            self._give(min(takers, key=self._loads.__getitem__), partition)
        self._steps_left = BALANCING_STEPS_MAX

    def assigned(self) -> dict[str, list[TopicIdPartition]]:
        """Balance, as far as that goes."""
        settled = False
        while not settled:
            settled = True
            for giver in sorted(self._loads, key=lambda member_id: -self._loads[member_id]):
                while chain := self._chain_from(giver):
                    settled = False
                    for source, topic, taker in chain:
                        self._move(source, topic, taker)
        return {
            member_id: [(topic, number) for topic, numbers in topics.items() for number in numbers]
            for member_id, topics in self._numbers.items()
        }

    def _chain_from(self, giver: str) -> list[tuple[str, bytes, str]]:
        """The shortest chain (giver, topic, taker) … that ends at somebody with two fewer; none: empty."""
        enough = self._loads[giver] - 2
        came_by: dict[str, tuple[str, bytes]] = {}
        topics_seen: set[bytes] = set()
        queue = deque([giver])
        while queue and self._steps_left > 0:
            source = queue.popleft()
            for topic in self._numbers[source]:
                if topic in topics_seen:
                    continue
                topics_seen.add(topic)
                for taker in self._subscribers[topic]:
                    self._steps_left -= 1
                    if taker == giver or taker in came_by:
                        continue
                    came_by[taker] = source, topic
                    if self._loads[taker] <= enough:
                        return list(_links(came_by, taker, giver))
                    queue.append(taker)
        return []

    def _move(self, source: str, topic: bytes, taker: str) -> None:
        numbers = self._numbers[source][topic]
        was_takers, was_sources = self._before[taker], self._before[source]
        # Back to where it was, else one that is new to its owner, else the last.
        number = max(numbers, key=lambda n: ((topic, n) in was_takers, (topic, n) not in was_sources, n))
        numbers.remove(number)
        if not numbers:
            del self._numbers[source][topic]
        self._loads[source] -= 1
        self._give(taker, (topic, number))

    def _give(self, member_id: str, partition: TopicIdPartition) -> None:
        self._numbers[member_id].setdefault(partition[0], set()).add(partition[1])
        self._loads[member_id] += 1


def _links(came_by: Mapping[str, tuple[str, bytes]], last: str, first: str) -> Iterator[tuple[str, bytes, str]]:
    """From the last link to the first. A topic appears once in a chain, so the order of moves does not matter."""
    while last != first:
        source, topic = came_by[last]
        yield source, topic, last
        last = source
