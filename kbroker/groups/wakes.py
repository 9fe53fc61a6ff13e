"""When one group is to be looked at again."""

from __future__ import annotations

from dataclasses import dataclass

from kbroker.groups.effects import Effects


@dataclass(slots=True)
class Wakes:
    """A group has two reasons to be woken, its driver knows of one time: the sooner. All in ms since 1970."""

    members_ms: int | None = None
    """For its members' deadlines: what the group itself asked for."""
    offsets_ms: int | None = None
    """For its offsets, of which some may have expired."""
    given_ms: int | None = None
    """What the driver was told last."""

    def ticked(self, now_ms: int) -> None:
        """The driver has come, so what it was told is used up."""
        self.given_ms = None
        if self.members_ms is not None and self.members_ms <= now_ms:
            self.members_ms = None

    def tell(self, effects: Effects) -> None:
        """Put the sooner time into the group's effects, where it differs from what the driver knows."""
        if effects.wake_ms is not None:
            self.members_ms = effects.wake_ms
        both = [at_ms for at_ms in (self.members_ms, self.offsets_ms) if at_ms is not None]
        soonest_ms = min(both, default=None)
        effects.wake_ms = soonest_ms if soonest_ms != self.given_ms else None
        self.given_ms = soonest_ms
