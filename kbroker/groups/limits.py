"""What one group may hold and one request may bring: it goes into records, stays in memory, and is told to others.

Together they keep what one group stores at once below the largest batch of `__consumer_offsets`
(`workers/offsets_log.py`), so that no client can bring the log, and all groups with it, out of service.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

NAME_BYTES_MAX: Final = 1024
"""The longest name of a group, member, client, instance, rack or protocol, as UTF-8."""
MEMBER_METADATA_BYTES_MAX: Final = 1 << 20
"""What one classic member says in all its protocols together."""
SUBSCRIPTION_BYTES_MAX: Final = 512 << 10
"""The names of the topics that one KIP-848 member subscribes to."""
PATTERN_BYTES_MAX: Final = 4096
PATTERNS_MAX: Final = 32
"""Different patterns in one group: each is stored with the names of all topics that it matches."""
GROUP_BYTES_MAX: Final = 64 << 20
"""What all members of a group say about themselves; and, of a classic group, what its leader assigns to them."""
COMMIT_OFFSETS_MAX: Final = 100_000
"""Offsets in one commit."""
COMMIT_BYTES_MAX: Final = 32 << 20
"""Their records."""


def names_bytes(names: Iterable[str | None]) -> int:
    """About what names take in a record."""
    return sum(len(name.encode()) + 3 for name in names if name)


def metadata_bytes(protocols: Iterable[tuple[str, bytes]]) -> int:
    """About what a classic member's protocols take in a record."""
    return sum(len(name.encode()) + len(metadata) + 6 for name, metadata in protocols)
