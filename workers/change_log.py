"""One line (INFO) in the log for each change that somebody made, with who it was.

Names come from outside: the log's formatter escapes what a terminal would take for a command.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence

from kbroker.catalog.catalog import TOPICS, Catalog, altered_in, topics_in
from kbroker.catalog.store import Change
from kbroker.wording import counted
from kbroker.workers.caller import Caller
from kbroker.workers.complaints import Complaints
from kbroker.workers.loop import Loop

LINES_MAX = 1_000
"""In a second; of the rest there is one line that says how many they were. Changes are durable, so there are hardly
more."""
SHOWN_MAX = 8
"""Of the partitions or settings of one change so many are named."""
FORGOTTEN_AT = 4_096
"""Clients outside of a membership, by group, of which it is known how often they have committed."""
TOLD_AT_FIRST = 10
TOLD_EVERY_MS = 60_000
"""A client that goes on committing without being a member (with partitions of its own choice) is told of so many times
and then once in a minute."""


class ChangeLog:
    """The lines of one process."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._lines = Complaints(loop, "changes that clients made", logging.INFO, LINES_MAX)
        self._outside: dict[int, tuple[int, int]] = {}
        """By the hash of who and where, which may be long: how many commits, and when one was told last."""

    def catalog(self, caller: Caller, catalog: Catalog, changes: Sequence[Change]) -> None:
        """Changes that the store has committed and `catalog` is about to take over."""
        for what in described(catalog, changes):
            self._say(what, caller)

    def offsets_committed(
        self,
        caller: Caller,
        connection: Hashable,
        group: str,
        offsets: Iterable[tuple[str, int, int]],
        codes: Iterable[int],
    ) -> None:
        """Offsets (topic, partition, offset) set by one who is no member of the group: an administrator who resets
        them, or a client that uses the group for its offsets only."""
        done = [entry for entry, code in zip(offsets, codes, strict=True) if not code]
        if not done:
            return
        key = hash((group, caller, connection))
        count, told_ms = self._outside.pop(key, (0, 0))
        now_ms = self._loop.now_ms()
        is_told = count < TOLD_AT_FIRST or now_ms - told_ms >= TOLD_EVERY_MS
        self._outside[key] = (count + 1, now_ms if is_told else told_ms)
        if len(self._outside) > FORGOTTEN_AT:
            del self._outside[next(iter(self._outside))]
        if is_told:
            shown = _first(f"{topic}-{partition} to {offset}" for topic, partition, offset in done)
            self._say(f"offsets of group {group} set: {shown}", caller)

    def offsets_deleted(
        self, caller: Caller, group: str, places: Iterable[tuple[str, int]], codes: Iterable[int]
    ) -> None:
        """Committed offsets that are forgotten now."""
        done = [f"{topic}-{partition}" for (topic, partition), code in zip(places, codes, strict=True) if not code]
        if done:
            self._say(f"offsets of group {group} deleted: {_first(done)}", caller)

    def group_deleted(self, caller: Caller, group: str) -> None:
        """A group that is forgotten, with its offsets."""
        self._say(f"group {group} deleted", caller)

    def members_left(self, caller: Caller, group: str, members: Sequence[tuple[str, str]]) -> None:
        """Members (who, and the reason that was given) that were taken out of a group at somebody's request: mostly
        their own."""
        if members:
            shown = _first(f"{who} ({reason})" if reason else who for who, reason in members)
            self._say(f"{counted(len(members), 'member')} left group {group}: {shown}", caller)

    def records_deleted(self, caller: Caller, partition: str, start: int) -> None:
        """Records before an offset that nobody can read any more."""
        self._say(f"records of {partition} before offset {start} deleted", caller)

    def _say(self, what: str, caller: Caller) -> None:
        self._lines.say(f"{what}; by {caller}")


def described(catalog: Catalog, changes: Sequence[Change]) -> list[str]:
    """What these changes make of the catalog, in words: one for each topic, node or the whole broker."""
    removed = {
        change.key.removeprefix(TOPICS) for change in changes if change.key.startswith(TOPICS) and not change.value
    }
    lines = [f"topic {name} deleted" for name in removed]
    for topic in topics_in(changes):
        before = catalog.topics.get(topic.name)
        count = counted(len(topic.partitions), "partition")
        if before is None or before.topic_id != topic.topic_id:
            own = _first(f"{name}={value}" for name, value in topic.settings.items())
            lines.append(f"topic {topic.name} created with {count}" + (f", {own}" if own else ""))
            continue
        if len(before.partitions) != len(topic.partitions):
            lines.append(f"topic {topic.name} grown from {len(before.partitions)} to {count}")
        if before.settings != topic.settings:
            lines.append(f"settings of topic {topic.name} altered: {_difference(before.settings, topic.settings)}")
    for node, settings in altered_in(changes):
        whose = f"node {node}" if node else "the broker"
        before_settings = catalog.altered.get(node, {})
        if before_settings != settings:
            lines.append(f"settings of {whose} altered: {_difference(before_settings, settings)}")
    return lines


def _difference(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    found = [f"{name}={value}" for name, value in after.items() if before.get(name) != value]
    return _first(found + [f"{name} unset" for name in before if name not in after])


def _first(items: Iterable[str]) -> str:
    every = list(items)
    more = f" and {len(every) - SHOWN_MAX} more" if len(every) > SHOWN_MAX else ""
    return ", ".join(every[:SHOWN_MAX]) + more
