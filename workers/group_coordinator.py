"""Everything around the state machines of groups: their log, their timers, the order of answers, the topics they see.

A request comes in as an event whose token is a function: it gets the result when all that the group decided before is
on the disk. After a failure of the disk all are refused with COORDINATOR_NOT_AVAILABLE until the log was opened anew,
and what groups know is then what the log has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kbroker.catalog.catalog import TOPICS
from kbroker.catalog.store import Change
from kbroker.errors import CoordinatorNotAvailable, KbrokerError, StorageError
from kbroker.groups.consumer_events import ConsumerEvent
from kbroker.groups.effects import Effects, Reply, shown
from kbroker.groups.events import Event, ListedGroup, TopicsChanged
from kbroker.groups.groups import Groups
from kbroker.groups.settings import GroupSettings
from kbroker.log.compaction import Cleanings, Rules, read_cleanings
from kbroker.log.damage import CORRUPT, Repair
from kbroker.log.log import PartitionLog
from kbroker.log.storage import DISK, Storage
from kbroker.wording import counted
from kbroker.workers.complaints import Complaints
from kbroker.workers.freed_space import FreedSpace
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.loop import Loop, Timer
from kbroker.workers.offsets_log import PARTITION as OFFSETS_PARTITION
from kbroker.workers.offsets_log import OffsetsLog, open_offsets, stored_records
from kbroker.workers.outages import Outage
from kbroker.workers.pattern_matching import PatternMatching

if TYPE_CHECKING:
    from kbroker.catalog.catalog import Catalog
    from kbroker.config import Config, GroupConfig

log = logging.getLogger(__name__)

RETRY_MS = 1_000
RETRY_MAX_MS = 10_000


MEMORY_PART = 4
"""Unless it is set, groups may take this part of what the coordinator may: answers and records are made of the same."""
REDUCED_BY = 4
"""After a death of memory groups may take this much less; after a second one in a row none are served."""
NAMED_MAX = 5
"""Groups that are left out are named, so many of them."""


def settings_of(config: Config, memory_deaths: int = 0) -> GroupSettings:
    """The broker's settings as the state machines take them. `memory_deaths`: of the coordinators before this one."""
    whole_bytes = config.server.worker_memory_max_bytes
    memory_max_bytes = min(config.groups.memory_max_bytes or whole_bytes // MEMORY_PART, whole_bytes // 2)
    if memory_deaths:
        memory_max_bytes //= REDUCED_BY
    return _settings_of(config.groups, memory_max_bytes)


def _settings_of(config: GroupConfig, memory_max_bytes: int) -> GroupSettings:
    return GroupSettings(
        groups_max=config.groups_max,
        memory_max_bytes=memory_max_bytes,
        offsets_retention_ms=config.offsets_retention_minutes * 60_000,
        offsets_retention_check_interval_ms=config.offsets_retention_check_interval_ms,
        offset_metadata_max_bytes=config.offset_metadata_max_bytes,
        max_size=config.max_size,
        min_session_timeout_ms=config.min_session_timeout_ms,
        max_session_timeout_ms=config.max_session_timeout_ms,
        initial_rebalance_delay_ms=config.initial_rebalance_delay_ms,
        consumer_max_size=config.consumer_max_size,
        consumer_session_timeout_ms=config.consumer_session_timeout_ms,
        consumer_heartbeat_interval_ms=config.consumer_heartbeat_interval_ms,
        consumer_assignors=config.consumer_assignors,
        consumer_assignment_interval_ms=config.consumer_assignment_interval_ms,
        consumer_migration_policy=config.consumer_migration_policy,
        consumer_regex_refresh_interval_ms=config.consumer_regex_refresh_interval_ms,
    )


class CatalogTopics:
    """The catalog as groups see it."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._names = {topic.topic_id: name for name, topic in catalog.topics.items()}

    def partition_count(self, name: str) -> int | None:
        """How many partitions a topic has; None: there is no such topic."""
        topic = self._catalog.topics.get(name)
        return None if topic is None else len(topic.partitions)

    def id_of(self, name: str) -> bytes | None:
        """A topic's id, 16 bytes."""
        topic = self._catalog.topics.get(name)
        return None if topic is None else topic.topic_id

    def name_of(self, topic_id: bytes) -> str | None:
        """The topic with that id."""
        return self._names.get(topic_id)

    def names(self) -> Iterable[str]:
        """All topics."""
        return self._catalog.topics

    def follow(self, changes: Iterable[Change]) -> TopicsChanged | None:
        """The catalog has taken these changes. What groups must know of them; None: nothing."""
        deleted, changed = set(), set()
        for change in changes:
            if not change.key.startswith(TOPICS):
                continue
            name = change.key.removeprefix(TOPICS)
            topic_id = self.id_of(name)
            if topic_id is None:
                deleted.add(name)
            else:
                changed.add(name)
                self._names[topic_id] = name
        if deleted:
            self._names = {topic_id: name for topic_id, name in self._names.items() if self.id_of(name) == topic_id}
        return TopicsChanged(frozenset(deleted), frozenset(changed)) if deleted or changed else None


@dataclass(slots=True, eq=False)
class _Unsaved:
    """Records of one group on their way to the disk, and the answers that wait for them."""

    replies: list[Reply]


@dataclass(slots=True)
class _Wake:
    """When a group wants to be ticked, and the timer that runs for it (it may run out earlier)."""

    due_ms: int
    timer_ms: int
    timer: Timer


class GroupCoordinator:
    """All groups of this broker. Everything here runs on the loop's thread; the disk is on I/O threads."""

    def __init__(
        self, config: Config, catalog: Catalog, loop: Loop, storage: Storage = DISK, memory_deaths: int = 0
    ) -> None:
        """`memory_deaths`: so many coordinators before this one, in a row, took too much memory and died of it."""
        self._storage = storage
        self.topics = CatalogTopics(catalog)
        self._config = config
        self._memory_deaths = memory_deaths
        self._settings = settings_of(config, memory_deaths)
        self._loop = loop
        # One piece of work of each kind at most: so no flush waits for a compaction.
        self._io = IoThreads(loop, 2, "offsets")
        self._matching = PatternMatching(IoThreads(loop, 1, "patterns"), self.topics.names, self._uses, self._matched)
        self._freed_space = FreedSpace(loop, self._io, storage)
        self._groups: Groups | None = None
        self._offsets: OffsetsLog | None = None
        self._log_followers: list[Callable[[OffsetsLog], None]] = []
        self._asked: dict[object, Event | ConsumerEvent] = {}
        self._unsaved: dict[str, _Unsaved] = {}
        self._wakes: dict[str, _Wake] = {}
        self._notices = Complaints(loop, "groups", logging.INFO)
        self._is_closed = False
        self._is_forgetting = False
        self._outage = ""
        """Why no group is served; empty when they are."""
        self.on_outage: Callable[[], None] = lambda: None
        self._retry_ms = RETRY_MS
        # Sessions must not end because somebody has set the clock.
        self._clock_ms = time.time_ns() // 1_000_000 - loop.now_ms()
        loop.at_turn_end(self._end_turn)
        if memory_deaths > 1:
            # Its log would fill the memory again. Who raises a limit restarts the broker, and it is tried once more.
            self._set_outage(
                f"the coordinator took more memory than it may {memory_deaths} times in a row, so no group is served: "
                f"raise worker.memory.max.bytes ({config.server.worker_memory_max_bytes >> 20} MiB) or lower "
                "groups.memory.max.bytes, and restart the broker"
            )
            log.error("%s", self._outage)
            return
        try:
            # Nobody is served yet: this may block.
            self._take_over(*self._load(False))
        except (KbrokerError, OSError) as error:
            self._refuse(f"groups cannot be served: {error}", False)

    def configure(self, config: Config) -> None:
        """Other settings, from now on: those of compaction."""
        self._config = config

    def outages(self) -> list[Outage]:
        """What of groups is out of service, and why."""
        if self._outage:
            return [Outage("groups", self._outage)]
        found = []
        if self._memory_deaths:
            found.append(
                Outage(
                    "new groups",
                    "the coordinator before this one took more memory than it may: until the next restart groups may "
                    f"take {self._settings.memory_max_bytes >> 20} MiB",
                )
            )
        left_out = sorted(self._groups.left_out) if self._groups is not None else []
        if left_out:
            named = ", ".join(map(shown, left_out[:NAMED_MAX])) + (", …" if len(left_out) > NAMED_MAX else "")
            found.append(Outage(counted(len(left_out), "group"), f"{self._why_left_out()}: {named}"))
        return found

    def _why_left_out(self) -> str:
        return (
            f"the log has more than groups.memory.max.bytes ({self._settings.memory_max_bytes >> 10} KiB) allow; raise "
            "it and restart the broker"
        )

    def _rules(self) -> Rules:
        cleaner = self._config.cleaner
        return Rules(
            cleaner.min_cleanable_ratio,
            cleaner.tombstone_retention_ms,
            cleaner.min_compaction_lag_ms,
            cleaner.max_compaction_lag_ms,
        )

    def now_ms(self) -> int:
        """Milliseconds since 1970 that never jump."""
        return self._clock_ms + self._loop.now_ms()

    # --- requests ---

    def ask(self, event: Event | ConsumerEvent) -> None:
        """Put an event to its group; `event.token(result)` follows, now or later, exactly once."""
        if self._groups is not None:
            self._asked[event.token] = event
            self._perform(event.group_id, self._groups.handle(event, self.now_ms()))
        else:
            event.token(event.refused(CoordinatorNotAvailable.code))

    def listed(self, states: Iterable[str], types: Iterable[str]) -> list[ListedGroup] | int:
        """The groups in these states and of these types (none named: of all), or an error code."""
        if self._groups is None:
            return CoordinatorNotAvailable.code
        return self._groups.listed(states, types)

    def catalog_changed(self, changes: Iterable[Change]) -> None:
        """The catalog has taken these changes."""
        changed = self.topics.follow(changes)
        self._matching.names_changed()
        if changed is not None and self._groups is not None:
            self._perform_all(self._groups.topics_changed(changed, self.now_ms()))
            self._go_on_forgetting()

    def _go_on_forgetting(self) -> None:
        """Offsets in deleted topics, some in each turn of the loop."""
        if self._groups is not None and self._groups.is_forgetting and not self._is_forgetting:
            self._is_forgetting = True
            self._loop.call_soon(self._forget)

    def _forget(self) -> None:
        self._is_forgetting = False
        if self._groups is not None:
            self._perform_all(self._groups.forget_gone(self.now_ms()))
            self._go_on_forgetting()

    def room_bytes(self, group_id: str) -> int:
        """About what a group holds in memory, which an answer about it holds once more."""
        return 0 if self._groups is None else self._groups.room.held_by(group_id)

    # --- patterns ---

    def _uses(self, group_id: str, pattern: str) -> bool:
        return self._groups is not None and self._groups.uses(group_id, pattern)

    def _matched(self, group_id: str, pattern: str, topics: frozenset[str]) -> None:
        if self._groups is not None:
            self._perform(group_id, self._groups.matched(group_id, pattern, topics, self.now_ms()))

    # --- what groups decide ---

    def _perform_all(self, decided: Iterable[tuple[str, Effects]]) -> None:
        for group_id, effects in decided:
            self._perform(group_id, effects)

    def _perform(self, group_id: str, effects: Effects) -> None:
        for notice in effects.notices:
            self._notices.say(notice)
        if effects.wake_ms is not None:
            self._wake_at(group_id, effects.wake_ms)
        if effects.records and self._offsets is not None:
            unsaved = self._unsaved[group_id] = _Unsaved(effects.replies)
            self._offsets.store(effects.records, partial(self._stored, group_id, unsaved))
        elif group_id in self._unsaved:
            self._unsaved[group_id].replies += effects.replies
        else:
            self._send(effects.replies)
        # Last, for what is known at once comes back from here.
        for pattern in effects.patterns:
            self._matching.want(group_id, pattern)

    def _stored(self, group_id: str, unsaved: _Unsaved) -> None:
        if self._unsaved.get(group_id) is unsaved:
            del self._unsaved[group_id]
        self._retry_ms = RETRY_MS
        self._send(unsaved.replies)

    def _send(self, replies: Iterable[Reply]) -> None:
        for reply in replies:
            if self._asked.pop(reply.token, None) is not None:
                reply.token(reply.message)

    def _end_turn(self) -> None:
        if self._offsets is not None:
            self._offsets.end_turn()

    # --- timers ---

    def _wake_at(self, group_id: str, due_ms: int) -> None:
        wake = self._wakes.get(group_id)
        if wake is not None:
            wake.due_ms = due_ms
            if wake.timer_ms <= due_ms:
                return  # each heartbeat moves it on: the timer that runs looks again
            wake.timer.cancel()
        timer = self._loop.call_at(due_ms - self._clock_ms, partial(self._wake, group_id))
        self._wakes[group_id] = _Wake(due_ms, due_ms, timer)

    def _wake(self, group_id: str) -> None:
        wake = self._wakes.pop(group_id, None)
        if wake is None or self._groups is None:
            return
        now_ms = self.now_ms()
        if wake.due_ms > now_ms:
            self._wake_at(group_id, wake.due_ms)
        else:
            self._perform(group_id, self._groups.tick(group_id, now_ms))

    # --- the log ---

    def follow_log(self, opened: Callable[[OffsetsLog], None]) -> None:
        """Call `opened` with the log, now when it is open, and whenever it was opened anew."""
        self._log_followers.append(opened)
        if self._offsets is not None:
            opened(self._offsets)

    def _load(self, distrust_cache: bool) -> tuple[PartitionLog, Cleanings, Groups]:
        """Open the log and replay it. May block. Raises StorageError, StartError."""
        loaded = self._replayed(distrust_cache, Repair.NONE)
        opened = loaded[0]
        if not any(damage.kind == CORRUPT for damage in opened.damage.pending):
            return loaded
        # Nobody reads it yet: what is good behind a corrupt place is of more use than the file as it is.
        opened.abandon()
        del loaded  # its groups are not twice in memory
        try:
            return self._replayed(distrust_cache, Repair.SET_ASIDE)
        except StorageError as error:
            log.error("what is corrupt cannot be set aside: %s", error)
            return self._replayed(distrust_cache, Repair.NONE)

    def _replayed(self, distrust_cache: bool, repair: Repair) -> tuple[PartitionLog, Cleanings, Groups]:
        now_ms = self.now_ms()
        opened = open_offsets(self._config, now_ms, self._storage, distrust_cache=distrust_cache, repair=repair)
        try:
            groups = Groups(self._settings, self.topics)
            for record in stored_records(opened):
                groups.replay(record, now_ms)
            cleanings = read_cleanings(opened)
        except BaseException:
            opened.abandon()
            raise
        return opened, cleanings, groups

    def _take_over(self, opened: PartitionLog, cleanings: Cleanings, groups: Groups) -> None:
        self._groups = groups
        if groups.left_out:
            log.error("%s left out: %s", counted(len(groups.left_out), "group"), self._why_left_out())
        self._offsets = OffsetsLog(
            opened,
            self._io,
            self.now_ms,
            partial(self._storing_failed, opened),
            cleanings,
            self._freed_space,
            self._rules,
        )
        self._set_outage("")
        for follower in self._log_followers:
            follower(self._offsets)
        now_ms = self.now_ms()
        self._perform_all(groups.loaded(now_ms))
        # A crash may have come between a topic's end and the end of its offsets: they are not for its successor.
        named = {topic for group in groups.listed() for topic, _ in groups.offsets_of(group.group_id)}
        gone = frozenset(name for name in named if self.topics.partition_count(name) is None)
        if gone:
            self._perform_all(groups.topics_changed(TopicsChanged(deleted=gone), now_ms))
            self._go_on_forgetting()

    def _storing_failed(self, opened: PartitionLog, error: KbrokerError) -> None:
        self._groups = self._offsets = None
        self._unsaved.clear()
        wakes, self._wakes = self._wakes, {}
        for wake in wakes.values():
            wake.timer.cancel()
        asked, self._asked = self._asked, {}
        self._refuse(f"groups are out of service: {error}", bool(opened.failed))
        for event in asked.values():
            event.token(event.refused(CoordinatorNotAvailable.code))

    def _refuse(self, why: str, distrust_cache: bool) -> None:
        """Out of service; try again after a while."""
        if why != self._outage:
            log.error("%s; tried again by itself, every %d s at least", why, RETRY_MAX_MS // 1000)
        self._set_outage(why)
        self._loop.call_later(self._retry_ms, partial(self._retry, distrust_cache))
        self._retry_ms = min(2 * self._retry_ms, RETRY_MAX_MS)

    @property
    def damage(self) -> list[tuple[str, str]]:
        """What of the log is damaged: what cannot be used, and why."""
        if self._offsets is None:
            return []
        return [damage.outage(OFFSETS_PARTITION) for damage in self._offsets.log.damage.pending]

    def _set_outage(self, why: str) -> None:
        self._outage = why
        self.on_outage()

    def _retry(self, distrust_cache: bool) -> None:
        if self._is_closed:
            return
        if self._io.waiting:
            # A thread still has the folder's files.
            self._loop.call_later(RETRY_MS, partial(self._retry, distrust_cache))
            return

        def loaded(found: tuple[PartitionLog, Cleanings, Groups] | None, error: BaseException | None) -> None:
            if found is not None and not self._is_closed:
                log.warning("groups are served again")
                self._take_over(*found)
            elif isinstance(error, (KbrokerError, OSError)):
                self._refuse(f"groups cannot be served: {error}", distrust_cache)
            elif error is not None:
                raise error

        self._io.submit(partial(self._load, distrust_cache), loaded)

    def close(self) -> None:
        """At the end of the process, when the loop has ended."""
        self._is_closed = True
        if self._offsets is not None:
            self._offsets.cancel_compaction()
        self._io.close(5)
        self._matching.close()
        if self._offsets is not None:
            self._offsets.close()
