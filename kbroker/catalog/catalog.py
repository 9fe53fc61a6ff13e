"""The catalog in memory, and the decisions about it: pure, no I/O, no clock.

`Catalog` is what the store holds, decoded. The functions that decide (create, delete, …) return the changes that the
store must commit; the catalog itself changes only when `apply` is given committed changes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgpack

from kbroker.catalog.store import ABSENT, Change, StoreDamaged, Versioned
from kbroker.catalog.topics import PartitionRecord, RemovedTopic, TopicRecord, check_name, collision_key
from kbroker.config import check_alterable, check_setting_name, check_topic_setting_name, check_topic_settings
from kbroker.errors import (
    ConfigError,
    InvalidConfig,
    InvalidPartitions,
    InvalidRequest,
    InvalidTopic,
    TopicAlreadyExists,
    UnknownTopicOrPartition,
)
from kbroker.types import INTERNAL_TOPICS
from kbroker.wording import counted

TOPICS = "topics/"
REMOVED = "removed/"
NODES = "nodes"
"""The nodes over which the partitions were last spread."""
PRODUCER_IDS = "producer-ids"
ALTERED = "altered/"
"""Before a node's id, or nothing for all nodes: broker settings that were altered while it ran."""
NOBODY = -1
"""The leader of a deleted partition whose folder is gone."""


def _pack(record: Any) -> bytes:
    packed: bytes = msgpack.packb(dataclasses.asdict(record))
    return packed


def _topic_from(value: bytes) -> TopicRecord:
    fields = msgpack.unpackb(value)
    partitions = [PartitionRecord(**partition) for partition in fields.pop("partitions")]
    return TopicRecord(partitions=partitions, **fields)


def topics_in(changes: Iterable[Change]) -> Iterator[TopicRecord]:
    """Each topic that these changes put."""
    for change in changes:
        if change.key.startswith(TOPICS) and change.value is not None:
            yield _topic_from(change.value)


def settings_in(changes: Iterable[Change]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each topic that these changes put, with its own settings."""
    for topic in topics_in(changes):
        yield topic.name, topic.settings


def altered_in(changes: Iterable[Change]) -> Iterator[tuple[str, dict[str, str]]]:
    """Broker settings that these changes put, with the node whose they are as text, "" for all nodes."""
    for change in changes:
        if change.key.startswith(ALTERED):
            yield change.key.removeprefix(ALTERED), {} if change.value is None else msgpack.unpackb(change.value)


def check_entries(entries: dict[str, Versioned]) -> None:
    """Raises StoreDamaged, naming the key, when a stored value is none of ours."""
    for key, entry in entries.items():
        try:
            Catalog([], 0, 0).load({key: entry})
        except Exception as error:  # damaged bytes make msgpack and the records raise many kinds
            raise StoreDamaged(f"the catalog's entry {key!r} cannot be understood: {error!r:.200}") from None


class Catalog:
    """Topics by name with their versions in the store, and deleted topics whose folders are not gone yet."""

    def __init__(self, node_ids: list[int], topics_max: int, partitions_max: int) -> None:
        self.node_ids = node_ids
        self.topics_max = topics_max
        self.partitions_max = partitions_max
        self.topics: dict[str, TopicRecord] = {}
        self.removed: dict[bytes, RemovedTopic] = {}
        self.altered: dict[str, dict[str, str]] = {}
        """Broker settings altered while it ran, by the node's id as text; "" for all nodes."""
        self._spread_over: list[int] = []
        self._versions: dict[str, int] = {}
        self._names: dict[bytes, str] = {}
        self._collisions: dict[str, str] = {}
        self._load: Counter[int] = Counter()

    def load(self, entries: dict[str, Versioned]) -> None:
        """Take over what the store holds."""
        for key, entry in entries.items():
            self._put(key, entry.value)
            self._versions[key] = entry.version

    def apply(self, changes: Iterable[Change]) -> None:
        """Take over changes that the store has committed."""
        for change in changes:
            self._put(change.key, change.value)
            if change.value is None:
                self._versions.pop(change.key, None)
            else:
                self._versions[change.key] = change.expected + 1

    def _put(self, key: str, value: bytes | None) -> None:
        if key.startswith(TOPICS):
            name = key.removeprefix(TOPICS)
            old = self.topics.pop(name, None)
            if old is not None:
                self._collisions.pop(collision_key(name), None)
                self._names.pop(old.topic_id, None)
                self._load.subtract(p.leader for p in old.partitions)
            if value is not None:
                topic = self.topics[name] = _topic_from(value)
                self._collisions[collision_key(name)] = name
                self._names[topic.topic_id] = name
                self._load.update(p.leader for p in topic.partitions)
        elif key.startswith(REMOVED):
            topic_id = bytes.fromhex(key.removeprefix(REMOVED))
            if value is None:
                self.removed.pop(topic_id, None)
            else:
                self.removed[topic_id] = RemovedTopic(**msgpack.unpackb(value))
        elif key.startswith(ALTERED):
            node = key.removeprefix(ALTERED)
            if value is None:
                self.altered.pop(node, None)
            else:
                self.altered[node] = msgpack.unpackb(value)
        elif key == NODES and value is not None:
            self._spread_over = msgpack.unpackb(value)

    @property
    def partition_count(self) -> int:
        """Partitions of all topics."""
        return self._load.total()

    def topic(self, name: str) -> TopicRecord:
        """The topic of that name. Raises UnknownTopicOrPartition, InvalidTopic (one that clients may not change)."""
        if name in INTERNAL_TOPICS:
            raise InvalidTopic(f"topic {name} is the broker's own: clients may read it only")
        found = self.topics.get(name)
        if found is None:
            raise UnknownTopicOrPartition(f"there is no topic {name!r:.80}")
        return found

    def name_of(self, topic_id: bytes) -> str | None:
        """The topic with that id."""
        return self._names.get(topic_id)

    # --- decisions: each returns what the store must commit ---

    def create(self, name: str, partitions: int, settings: dict[str, str], topic_id: bytes) -> list[Change]:
        """A new topic. Raises InvalidTopic, TopicAlreadyExists, InvalidPartitions, InvalidConfig."""
        check_name(name)
        if name in INTERNAL_TOPICS:
            raise TopicAlreadyExists(f"topic {name} is the broker's own")
        if name in self.topics:
            raise TopicAlreadyExists(f"topic {name} exists already")
        other = self._collisions.get(collision_key(name))
        if other is not None:
            raise InvalidTopic(f"topic {name} would collide with {other}: they differ in '.' and '_' only")
        if len(self.topics) >= self.topics_max:
            raise InvalidTopic(
                f"topic {name} would be more than topics.max={self.topics_max}: delete some, or raise it"
            )
        self._check_count(name, partitions, partitions)
        _check_settings(settings)
        topic = TopicRecord(name, topic_id, self._place(partitions), dict(settings))
        return [Change(TOPICS + name, ABSENT, _pack(topic))]

    def adopt(self, topic: TopicRecord) -> list[Change]:
        """A topic found on the disk while a lost store is rebuilt."""
        return [Change(TOPICS + topic.name, ABSENT, _pack(topic))]

    def apart_from_topics(self) -> list[Change]:
        """All the rest of this catalog, for an empty store: deletions that go on, and altered broker settings."""
        removed = [Change(REMOVED + topic_id.hex(), ABSENT, _pack(topic)) for topic_id, topic in self.removed.items()]
        altered = [Change(ALTERED + node, ABSENT, msgpack.packb(values)) for node, values in self.altered.items()]
        return removed + altered

    def delete(self, name: str) -> list[Change]:
        """Take a topic out; its owners are remembered until its folders are gone. Raises UnknownTopicOrPartition."""
        topic = self.topic(name)
        leaders = [partition.leader for partition in topic.partitions]
        removed = RemovedTopic(name, topic.topic_id, leaders)
        return [
            Change(TOPICS + name, self._versions[TOPICS + name], None),
            Change(REMOVED + topic.topic_id.hex(), ABSENT, _pack(removed)),
        ]

    def folders_gone(self, topic_id: bytes, partitions: list[int]) -> list[Change]:
        """These folders of a deleted topic are gone; with its last one it is forgotten."""
        removed = self.removed.get(topic_id)
        if removed is None:
            return []
        leaders = [NOBODY if index in partitions else leader for index, leader in enumerate(removed.leaders)]
        if leaders == removed.leaders:
            return []
        key = REMOVED + topic_id.hex()
        left = any(leader != NOBODY for leader in leaders)
        value = _pack(dataclasses.replace(removed, leaders=leaders)) if left else None
        return [Change(key, self._versions[key], value)]

    def grow(self, name: str, total: int) -> list[Change]:
        """More partitions: `total` in all. Raises UnknownTopicOrPartition, InvalidPartitions."""
        topic = self.topic(name)
        have = len(topic.partitions)
        if total <= have:
            raise InvalidPartitions(
                f"topic {name} has {counted(have, 'partition')}; {total} is not more (they can only grow)"
            )
        self._check_count(name, total, total - have)
        grown = dataclasses.replace(topic, partitions=topic.partitions + self._place(total - have))
        return [self._replace(grown)]

    def alter(self, name: str, changed: dict[str, str], removed: list[str]) -> list[Change]:
        """Other settings of its own for a topic. Raises UnknownTopicOrPartition, InvalidConfig."""
        topic = self.topic(name)
        settings = _changed(topic.settings, changed, removed, check_topic_settings, check_topic_setting_name)
        return [self._replace(dataclasses.replace(topic, settings=settings))]

    def alter_broker(self, node: str, changed: dict[str, str], removed: list[str]) -> list[Change]:
        """Other settings for a node of the running broker, or for all (""). Raises InvalidRequest, as Kafka does."""
        key = ALTERED + node
        try:
            settings = _changed(self.altered.get(node, {}), changed, removed, check_alterable, check_setting_name)
        except InvalidConfig as error:
            raise InvalidRequest(str(error)) from None
        return [Change(key, self._versions.get(key, ABSENT), msgpack.packb(settings))]

    def altered_for(self, node: int) -> dict[str, str]:
        """The broker settings that were altered while it ran, as they are for that node."""
        return self.altered.get("", {}) | self.altered.get(str(node), {})

    def raise_epochs(self, epochs: dict[tuple[str, int], int]) -> list[Change]:
        """Record the leader epochs that owners report for their partitions."""
        by_topic: dict[str, dict[int, int]] = {}
        for (name, index), epoch in epochs.items():
            topic = self.topics.get(name)
            if topic and index < len(topic.partitions) and topic.partitions[index].leader_epoch < epoch:
                by_topic.setdefault(name, {})[index] = epoch
        changes = []
        for name, raised in by_topic.items():
            topic = self.topics[name]
            partitions = [
                dataclasses.replace(partition, leader_epoch=raised.get(index, partition.leader_epoch))
                for index, partition in enumerate(topic.partitions)
            ]
            changes.append(self._replace(dataclasses.replace(topic, partitions=partitions)))
        return changes

    def reassign(self) -> list[Change]:
        """Spread the partitions over the nodes, if those are others than before; no folder ever moves.

        It moves as few as it takes. The same nodes keep what they have, for they may be serving it just now.
        """
        if self._spread_over == self.node_ids:
            return []
        wanted = len(self.node_ids)
        total = self.partition_count
        most = -(-total // wanted)
        load: Counter[int] = Counter()
        homeless: list[tuple[str, int]] = []
        leaders: dict[tuple[str, int], int] = {}
        for name in sorted(self.topics):
            for index, partition in enumerate(self.topics[name].partitions):
                if partition.leader in self.node_ids and load[partition.leader] < most:
                    load[partition.leader] += 1
                else:
                    homeless.append((name, index))
        for place in homeless:
            leaders[place] = node = min(self.node_ids, key=lambda n: (load[n], n))
            load[node] += 1
        changes = [Change(NODES, self._versions.get(NODES, ABSENT), msgpack.packb(self.node_ids))]
        for name in sorted({name for name, _ in leaders}):
            topic = self.topics[name]
            partitions = [
                _led_by(leaders.get((name, index), partition.leader), partition.leader_epoch)
                for index, partition in enumerate(topic.partitions)
            ]
            changes.append(self._replace(dataclasses.replace(topic, partitions=partitions)))
        return changes + self._adopt_deletions()

    def _adopt_deletions(self) -> list[Change]:
        """Folders that a node which is no more had to delete are deleted by another one."""
        changes = []
        for topic_id, removed in self.removed.items():
            known = (*self.node_ids, NOBODY)
            leaders = [leader if leader in known else self.node_ids[0] for leader in removed.leaders]
            if leaders != removed.leaders:
                key = REMOVED + topic_id.hex()
                value = _pack(dataclasses.replace(removed, leaders=leaders))
                changes.append(Change(key, self._versions[key], value))
        return changes

    def _replace(self, topic: TopicRecord) -> Change:
        key = TOPICS + topic.name
        return Change(key, self._versions[key], _pack(topic))

    def _check_count(self, name: str, total: int, added: int) -> None:
        if total < 1:
            raise InvalidPartitions(f"topic {name} needs at least 1 partition, not {total}")
        if self.partition_count + added > self.partitions_max:
            raise InvalidPartitions(
                f"topic {name} with {counted(total, 'partition')} would make more in all than "
                f"partitions.max={self.partitions_max}"
            )

    def _place(self, count: int) -> list[PartitionRecord]:
        load = Counter({node: self._load[node] for node in self.node_ids})
        placed = []
        for _ in range(count):
            node = min(self.node_ids, key=lambda n: (load[n], n))
            load[node] += 1
            placed.append(_led_by(node, 0))
        return placed


def _led_by(node: int, leader_epoch: int) -> PartitionRecord:
    return PartitionRecord(node, leader_epoch, [node], [node])


def _changed(
    settings: dict[str, str],
    changed: dict[str, str],
    removed: list[str],
    check: Callable[[dict[str, str]], None],
    check_name: Callable[[str], None],
) -> dict[str, str]:
    after = {name: value for name, value in settings.items() if name not in removed} | changed
    try:
        for name in removed:
            if name not in settings:
                # A slip of the pen in a name is told; to remove what is not set is no fault.
                check_name(name)
        check(after)
    except ConfigError as error:
        raise InvalidConfig(str(error)) from None
    return after


def _check_settings(settings: dict[str, str]) -> None:
    try:
        check_topic_settings(settings)
    except ConfigError as error:
        raise InvalidConfig(str(error)) from None
