"""Whose turn it is at a partition's folder."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kbroker.types import TopicPartition


class FolderTurns:
    """One user at a time for each partition's folder: a log from its opening to its end, or a deletion.

    The others wait in the order in which they came. So a topic that is deleted and made anew never finds the old
    folder, and no folder is taken away under a log that is being opened or flushed.
    """

    def __init__(self) -> None:
        self._waiting: dict[TopicPartition, deque[Callable[[], None]]] = {}

    def take(self, name: TopicPartition, begin: Callable[[], None]) -> None:
        """Call `begin` when the folder is free: now, or when all who came before have given it back."""
        waiting = self._waiting.get(name)
        if waiting is None:
            self._waiting[name] = deque()
            begin()
        else:
            waiting.append(begin)

    def give_back(self, name: TopicPartition) -> None:
        """Whose turn it was needs the folder no more."""
        waiting = self._waiting[name]
        if waiting:
            waiting.popleft()()
        else:
            del self._waiting[name]
