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
FOLLOWER_ASSIGNMENT_BYTES_MAX: Final = 1024
"""Assignments in the SyncGroup of a member that does not lead: they are of no use, and would stay while it waits."""
PROTOCOLS_MAX: Final = 64
"""Protocols that one classic member can speak."""
SUBSCRIBED_TOPICS_MAX: Final = 20_000
"""Topics that one KIP-848 member subscribes to by name."""
COMMIT_OFFSETS_MAX: Final = 20_000
"""Offsets in one commit: 0.2 s of the loop, which others wait for."""
FORGOTTEN_AT_ONCE_MAX: Final = 2_000
"""Offsets in deleted topics that are forgotten in one turn of the loop."""
COMMIT_BYTES_MAX: Final = 32 << 20
"""Their records."""


def names_bytes(names: Iterable[str | None]) -> int:
    """About what names take in a record."""
    return sum(len(name.encode()) + 3 for name in names if name)


def metadata_bytes(protocols: Iterable[tuple[str, bytes]]) -> int:
    """About what a classic member's protocols take in a record."""
    return sum(len(name.encode()) + len(metadata) + 6 for name, metadata in protocols)
