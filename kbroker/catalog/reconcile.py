"""Which of store, copy and partition folders is right, where they differ. Pure.

The store (SQLite) has each change first, then the copy, both before it is answered; each change raises the revision of
both. So of two sound ones the newer is right, and of two of the same revision that differ the copy is: its lines carry
checksums, the store's pages do not. Counters only rise, whoever is right.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from kbroker.catalog.catalog import Catalog
from kbroker.catalog.store import Change
from kbroker.catalog.topics import PartitionRecord, TopicRecord
from kbroker.wording import counted

NAMED_MAX = 20
"""Topics that a line for the log names."""
COUNTER_MAX = 1 << 62
"""A counter above this is damage: nobody gives so many numbers."""

Side = Literal["store", "copy"]


@dataclass(frozen=True, slots=True)
class State:
    """What one of the two holds. `revision` 0: it was written by a kbroker that did not count, or holds nothing."""

    entries: Mapping[str, bytes] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    revision: int = 0
    damage: str = ""
    """What is wrong with it; empty when it is sound."""

    @property
    def is_empty(self) -> bool:
        """It says nothing: it is new, or was lost."""
        return not self.entries and not self.revision


class Agreed(NamedTuple):
    """What is right. `loser` is to be set aside, and `why`; `is_confirmed`: both of them are there."""

    state: State
    loser: Side | None
    how: str
    """ "older" or "corrupt": for the loser's new name."""
    why: str
    is_confirmed: bool


def agree(store: State | None, copy: State) -> Agreed:
    """Decide between the two. `store` None: there was none, or it could not be read at all and was set aside."""
    counters = _highest(copy.counters, {} if store is None else store.counters)
    if store is not None and store.is_empty and not copy.is_empty:
        return Agreed(replace(copy, counters=counters), "store", "older", "the catalog's store is empty", False)
    if store is None or store.is_empty:
        why = f"the catalog's copy is damaged too ({copy.damage})" if copy.damage else ""
        return Agreed(replace(copy, counters=counters), "copy" if why else None, "corrupt", why, False)
    if copy.is_empty and not copy.damage:
        return Agreed(replace(store, counters=counters), None, "", "", False)
    newer = f"revision {max(store.revision, copy.revision)} against {min(store.revision, copy.revision)}"
    of_copy, of_store = replace(copy, counters=counters), replace(store, counters=counters)
    if copy.revision > store.revision:
        return Agreed(
            of_copy, "store", "older", f"the catalog's store is older than its copy ({newer}): the copy is right", True
        )
    if copy.damage:
        why = f"the catalog's copy is damaged ({copy.damage}): its store is right"
        return Agreed(of_store, "copy", "corrupt", why, False)
    if store.revision > copy.revision:
        loser: Side | None = None if copy.revision == 0 else "copy"
        why = f"the catalog's copy is older than its store ({newer}): the store is right"
        return Agreed(of_store, loser, "older", why, True)
    if store.revision and dict(store.entries) != dict(copy.entries):
        why = f"the catalog's store differs from its copy, both at revision {store.revision}: the copy is right"
        return Agreed(of_copy, "store", "corrupt", why, True)
    return Agreed(of_store, None, "", "", True)


def _highest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    sound = [counters for counters in (one, other) if all(0 <= value < COUNTER_MAX for value in counters.values())]
    names = {name for counters in sound for name in counters}
    return {name: max(counters.get(name, 0) for counters in sound) for name in names}


def with_folders(
    catalog: Catalog, strays: list[TopicRecord], folders: Collection[str], *, is_confirmed: bool
) -> tuple[list[Change], list[str]]:
    """What the store must commit for the sake of the folders, and what there is to tell.

    `strays`: topics whose folders the catalog does not know; `folders`: the names of all that there are. An
    acknowledged topic has its folders: who is known by them alone was lost from the catalog. Where only one of store
    and copy is left, which may be an old one, a topic that was served and has no folder any more was deleted since.
    """
    changes: list[Change] = []
    problems: list[str] = []
    adopted = []
    for topic in strays:
        known = catalog.topics.get(topic.name)
        other_name = catalog.name_of(topic.topic_id)
        if topic.topic_id in catalog.removed:
            continue  # it was deleted; its folders go next
        if known is not None and known.topic_id == topic.topic_id:
            more = topic.partitions[len(known.partitions) :]
            changes += catalog.put_back(replace(known, partitions=known.partitions + more))
            problems.append(f"topic {topic.name} has folders of {counted(len(more), 'partition')} more: taken in")
        elif known is not None or other_name is not None:
            reason = f"topic {other_name} has their id" if known is None else "that topic has another id now"
            problems.append(f"the folders of a topic {topic.name} are left alone: {reason}")
        else:
            changes += catalog.adopt(topic)
            adopted.append(topic.name)
    if adopted:
        problems.append(
            f"settings of their own, if they had any, are gone of {_some(adopted)}: only the folders were left of them"
        )
    if not is_confirmed:
        gone = [name for name, topic in catalog.topics.items() if _was_served(topic) and not _has(topic, folders)]
        for name in gone:
            changes += catalog.take_out(name)
        if gone:
            problems.append(
                f"no folder was found of {_some(gone)}: deleted since this catalog was written, or lost; left out"
            )
    return changes, problems


def _was_served(topic: TopicRecord) -> bool:
    return any(partition.leader_epoch > 0 for partition in topic.partitions)


def _has(topic: TopicRecord, folders: Collection[str]) -> bool:
    return any(f"{topic.name}-{index}" in folders for index in range(len(topic.partitions)))


def _some(names: Collection[str]) -> str:
    named = ", ".join(sorted(names)[:NAMED_MAX])
    return f"{counted(len(names), 'topic')} ({named}{', …' if len(names) > NAMED_MAX else ''})"


def led_by(node: int, count: int) -> list[PartitionRecord]:
    """Records of so many partitions that a node leads."""
    return [PartitionRecord(node, 0, [node], [node]) for _ in range(count)]
