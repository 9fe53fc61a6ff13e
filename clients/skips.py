"""Whether records that cannot be read are passed over, and what is said of them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from kbroker.clients.seldom import Seldom
from kbroker.errors import CorruptRecord, DeserializationError
from kbroker.types import TopicPartition

log = logging.getLogger(__name__)

_TO_REPORT_MAX = 16


class Skips:
    """A consumer's `on_corrupt` and `on_deserialization_error`: True to pass over what it is about, with a warning.

    `clock` in ms, for the rate of warnings.
    """

    def __init__(self, clock: Callable[[], int], *, corrupt: bool = False, undecodable: bool = False) -> None:
        self._clock = clock
        self._corrupt = corrupt
        self._undecodable = undecodable
        self._seldom = Seldom(log)
        self.corrupt: deque[tuple[TopicPartition, int]] = deque(maxlen=_TO_REPORT_MAX)
        """Places whose owner is to be told; batches may be decoded on any thread."""

    def passes(self, error: CorruptRecord | DeserializationError) -> bool:
        """Whether to go on behind it; then it is told, at a bounded rate. False: it is to be raised."""
        if isinstance(error, CorruptRecord):
            self.corrupt.append((error.topic_partition, error.offset))
            if self._corrupt:
                behind = max(error.next_offset, error.offset + 1)
                offsets = f"offset {error.offset}" if behind == error.offset + 1 else f"offsets {error.offset}"
                to = "" if behind == error.offset + 1 else f" to {behind - 1}"
                self._tell(error, f"{offsets}{to}", f"corrupt: {error.cause}")
            return self._corrupt
        if self._undecodable:
            why = f"{error.origin}_deserializer raised {type(error.cause).__name__}: {error.cause}"
            self._tell(error, f"offset {error.offset}", why)
        return self._undecodable

    def _tell(self, error: CorruptRecord | DeserializationError, where: str, why: str) -> None:
        place = error.topic_partition
        self._seldom.warn(f"{place}", self._clock(), f"{place}: {where} skipped: {why}")

    def tell_rest(self) -> None:
        """At the end: how many more there were."""
        self._seldom.tell_rest()


RAISE_ALL = Skips(lambda: 0)
