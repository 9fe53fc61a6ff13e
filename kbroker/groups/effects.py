"""What a group's state machine asks of the process around it.

`effects = groups.handle(event, now_ms)` decides; the driver (`workers/group_coordinator.py`) performs: it stores the
records, sends the replies, and comes back with `groups.tick(group, now_ms)` when it is time. The rules that it keeps:

- the records of one `Effects` are stored all or not at all, and those of a group in the order in which they were given;
- the replies of one `Effects` go out after its records are durable, and the replies of a group go out in the order in
  which they were given: none overtakes a record that the group gave before it;
- when records cannot be stored, every request that has no answer yet, of whatever group, is answered
  COORDINATOR_NOT_AVAILABLE, and this `Groups` is given up: a new one replays what the log has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Record(NamedTuple):
    """A record of `__consumer_offsets`. `value` None: forget the key."""

    key: bytes
    value: bytes | None


class Reply(NamedTuple):
    """An answer. `token`: what the request that it answers carried; the state machine does not look at it."""

    token: Any
    message: object


@dataclass(slots=True)
class Effects:
    """What is to be done, in this order: store the records, then send the replies."""

    records: list[Record] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    wake_ms: int | None = None
    """Tick the group at that time (ms since 1970) or soon after; the last value given counts. None: no change."""
    notices: list[str] = field(default_factory=list)
    """Lines for the log, for an operator: who was put out of which group and why."""
    patterns: list[str] = field(default_factory=list)
    """Match these against all topics away from the loop, and come back with `groups.matched`: it takes long."""

    def extend(self, later: Effects) -> None:
        """What is to be done after this."""
        self.records += later.records
        self.replies += later.replies
        self.notices += later.notices
        self.patterns += later.patterns
        if later.wake_ms is not None:
            self.wake_ms = later.wake_ms


NAME_SHOWN_MAX = 100


def shown(name: str) -> str:
    """A name that came from outside, as it stands in a notice: quoted, and cut where it is very long."""
    return repr(name if len(name) <= NAME_SHOWN_MAX else f"{name[:NAME_SHOWN_MAX]}…")


def shown_member(group_id: str, member_id: str, client_id: str, client_host: str) -> str:
    """A member of a group, as it stands in a notice."""
    return f"group {shown(group_id)}: member {shown(member_id)} (client {shown(client_id)} at {shown(client_host)})"
