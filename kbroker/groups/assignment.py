"""Which partitions somebody has: by topic id, so that a topic made anew under an old name is another one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

Assignment = Mapping[bytes, frozenset[int]]
"""Partitions by topic id (16 bytes). Never changed in place; a topic without partitions is left out."""

TopicIdPartition = tuple[bytes, int]

NOTHING: Assignment = MappingProxyType({})


def of_partitions(partitions: Iterable[TopicIdPartition]) -> Assignment:
    """The assignment that consists of these."""
    grouped: dict[bytes, set[int]] = {}
    for topic_id, partition in partitions:
        grouped.setdefault(topic_id, set()).add(partition)
    return {topic_id: frozenset(numbers) for topic_id, numbers in grouped.items()}


def of_topics(topics: Iterable[tuple[bytes, Iterable[int]]]) -> Assignment:
    """The assignment that a client has written down: a topic may come twice, or with no partitions."""
    return of_partitions((topic_id, number) for topic_id, numbers in topics for number in numbers)


def partitions_of(assignment: Assignment) -> Iterator[TopicIdPartition]:
    """Each partition, topic by topic."""
    for topic_id, numbers in assignment.items():
        for number in numbers:
            yield topic_id, number


def union(one: Assignment, other: Assignment) -> Assignment:
    """What is in either."""
    if not one or not other:
        return one or other
    return {topic: one.get(topic, frozenset()) | other.get(topic, frozenset()) for topic in {*one, *other}}


def intersection(one: Assignment, other: Assignment) -> Assignment:
    """What is in both."""
    shared = ((topic, numbers & other[topic]) for topic, numbers in one.items() if topic in other)
    return {topic: numbers for topic, numbers in shared if numbers}


def difference(one: Assignment, other: Assignment) -> Assignment:
    """What is in the first only."""
    left = ((topic, numbers - other.get(topic, frozenset())) for topic, numbers in one.items())
    return {topic: numbers for topic, numbers in left if numbers}


def is_subset(one: Assignment, other: Assignment) -> bool:
    """Whether all of the first is in the second."""
    return all(topic in other and numbers <= other[topic] for topic, numbers in one.items())


def overlap(one: Assignment, other: Assignment) -> bool:
    """Whether anything is in both."""
    return any(topic in other and not numbers.isdisjoint(other[topic]) for topic, numbers in one.items())


def size(assignment: Assignment) -> int:
    """How many partitions."""
    return sum(map(len, assignment.values()))
