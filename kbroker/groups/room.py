"""How much memory groups may take in the coordinator, and how much each takes: what clients fill is bounded in sum.

Sizes are estimates from what Python's objects take. They need not be exact, but they must not be too small by much:
whoever is over the bound is refused before the supervisor would kill the coordinator for its memory.
"""

from __future__ import annotations

from typing import Final

GROUP_BYTES: Final = 2_500
"""A group without members and offsets."""
MEMBER_BYTES: Final = 2_000
"""A member, besides what it has told."""
OFFSET_BYTES: Final = 400
"""A committed offset, besides its metadata."""
NAME_BYTES: Final = 150
"""A topic's name in a subscription, or a member id that was given out, besides its text."""
MATCH_BYTES: Final = 150
"""A topic that a pattern matches."""
PARTITION_BYTES: Final = 300
"""A partition that a member of a consumer group has, with what is kept of its owner."""
TARGET_BYTES: Final = 100
"""A partition that a member is to have."""
UNBOUNDED: Final = 1 << 62


class Room:
    """What groups hold, by group, and in all."""

    def __init__(self, bytes_max: int = UNBOUNDED) -> None:
        self.bytes_max = bytes_max
        self.held_bytes = 0
        """What all groups hold."""
        self._held: dict[str, int] = {}

    def held_by(self, group_id: str) -> int:
        """What one group holds, in bytes; 0 when there is no such group."""
        return self._held.get(group_id, 0)

    def hold(self, group_id: str, size_bytes: int) -> None:
        """A group holds that much now; 0: it is gone."""
        self.held_bytes += size_bytes - self._held.get(group_id, 0)
        if size_bytes:
            self._held[group_id] = size_bytes
        else:
            self._held.pop(group_id, None)

    def has(self, more_bytes: int) -> bool:
        """Whether that much more may be held. What does not grow always may."""
        return more_bytes <= 0 or self.held_bytes + more_bytes <= self.bytes_max

    @property
    def is_over(self) -> bool:
        """Whether groups hold more than they may, as a log may bring that was filled under a larger bound."""
        return self.held_bytes > self.bytes_max

    def largest(self) -> list[str]:
        """The groups without which the rest takes three quarters of the room: the largest first."""
        found: list[str] = []
        left = self.held_bytes
        for group_id, size_bytes in sorted(self._held.items(), key=_size, reverse=True):
            if left <= self.bytes_max * 3 // 4:
                break
            found.append(group_id)
            left -= size_bytes
        return found


def _size(item: tuple[str, int]) -> int:
    return item[1]


def no_room(room: Room) -> str:
    """Why something is refused, and what to do."""
    return (
        f"all groups together hold {room.held_bytes >> 10} KiB in memory, and groups.memory.max.bytes is "
        f"{room.bytes_max >> 10} KiB: delete groups or offsets that nobody needs, or raise it"
    )
