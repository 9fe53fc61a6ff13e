"""The thread that keeps a consumer in its group, however long its caller takes between two polls.

It has a Cluster of its own, which nobody else touches; the Membership is shared, under `lock`.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

from kbroker.clients.backoff import backoff_ms
from kbroker.clients.cluster import Cluster, now_ms
from kbroker.clients.group_membership import UNRELEASED_MAX_MS, Membership
from kbroker.clients.link import Reply
from kbroker.clients.wakeup import Wakeup
from kbroker.errors import RetriableError
from kbroker.wire.group_messages import GroupHeartbeatAnswer

log = logging.getLogger(__name__)

ANSWER_MS = 10_000
"""A heartbeat that was not answered for so long is sent again on another connection."""
RETRY_MS = 100
"""Doubles up to RETRY_MAX_MS while the broker is away."""
RETRY_MAX_MS = 1_000
IDLE_MS = 60_000
LEAVE_MS = 2_000
"""How long who ends waits for the coordinator's word; without it the group waits for the session's end."""


class Heartbeats:
    """`attention` is set, and `changed` has woken who sleeps, when the consumer has something to do for the group.

    `progress` (a bound method, held weakly) is called from the thread: None while the caller waits inside the consumer,
    else anything that is another whenever the caller has gone on. When it stays the same for `max_poll_interval_ms`,
    the member leaves, once, until the caller comes back. When its object is gone, or by `abandon`, it leaves for good.
    """

    def __init__(
        self,
        cluster: Cluster,
        membership: Membership,
        progress: Callable[[], object],
        *,
        max_poll_interval_ms: int,
        auto_commit_interval_ms: int | None,
    ) -> None:
        self.lock = threading.Lock()
        self.attention = False
        self.changed = Wakeup()
        self.expelled = False
        """The caller took too long between two polls, so the member has left; `poll` joins again."""
        self._wakeup = Wakeup()
        self._cluster = cluster
        self._membership = membership
        self._progress = weakref.WeakMethod(progress)
        self._max_poll_interval_ms = max_poll_interval_ms
        self._auto_commit_interval_ms = auto_commit_interval_ms
        self._commit_due_ms = now_ms() + (auto_commit_interval_ms or 0)
        self._seen: object = None
        self._seen_ms = now_ms()
        self._end_ms: int | None = None
        self._is_over = False
        self._is_abandoned = False
        self._attempts = 0  # since the last answer
        cluster.watch(self._wakeup.fd, self._wakeup.drain)
        self._thread = threading.Thread(target=self._run, name=f"kbroker-heartbeats-{membership.group}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """The membership was changed by the caller: look at it."""
        self._wakeup.wake()

    def noticed(self) -> None:
        """The caller deals with what `attention` is about."""
        self.attention = False
        self.changed.drain()

    def leave(self, timeout_ms: int) -> None:
        """Leave the group; the thread waits at most so long for the coordinator's word, and then calls attention."""
        with self.lock:
            self._membership.leave()
            self._end_ms = now_ms() + timeout_ms
        self.wake()

    def abandon(self) -> None:
        """Nobody closes any more: the thread leaves the group, frees everything and ends. Never waits, takes no lock:
        for a finalizer, which may come in the middle of anything."""
        if self._is_abandoned:
            return
        self._is_abandoned = True
        if self._is_over:
            self._cluster.drop()
        else:
            self.wake()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended, at most so long."""
        self._thread.join(timeout_s)

    @property
    def is_over(self) -> bool:
        """Whether the thread has done its last work: `close` does not wait then."""
        return self._is_over

    def close(self) -> None:
        """After `leave`: end the thread and free everything."""
        self._thread.join()
        self._cluster.drop()
        self._wakeup.close()
        self.changed.close()

    # --- in the thread ---

    def _run(self) -> None:
        try:
            self._beat()
        finally:
            self._is_over = True
            if self._is_abandoned:
                self._cluster.drop()
            else:
                self._call_attention()

    def _beat(self) -> None:
        while True:
            now = now_ms()
            with self.lock:
                member = self._membership
                if self._is_abandoned and self._end_ms is None:
                    member.leave()
                    self._end_ms = now + LEAVE_MS
                if self._end_ms is not None and (now >= self._end_ms or not (member.beats or member.in_flight)):
                    return
                self._watch_caller(now)
                request = None
                if member.beats and not member.in_flight and now >= member.due_ms:
                    request = member.heartbeat()
            if request is not None:
                self._cluster.ask_front(request, GroupHeartbeatAnswer, self._answered, timeout_ms=ANSWER_MS)
            self._cluster.run(self._cluster.turn(self._pause_ms(now_ms())))

    def _answered(self, reply: Reply) -> None:
        now = now_ms()
        with self.lock:
            member = self._membership
            if reply.error is None:
                self._attempts = 0
                member.answered(reply.answer, now)
            else:
                self._attempts += 1
                had_lost = member.lost
                retriable = isinstance(reply.error, RetriableError)
                retry_ms = backoff_ms(self._attempts, RETRY_MS, RETRY_MAX_MS) if retriable else RETRY_MAX_MS
                member.refused(reply.error, now, retry_ms)
                if member.unreleased_since_ms == now:
                    log.warning(
                        "group %s: %s It is tried again for %d s: if that member has died, its session ends; else two "
                        "consumers have the same group_instance_id",
                        member.group,
                        reply.error,
                        UNRELEASED_MAX_MS // 1000,
                    )
                if member.lost and not had_lost:
                    log.warning("group %s: this member was put out (%s); joining again", member.group, reply.error)
            if member.has_changed:
                self._call_attention()

    def _call_attention(self) -> None:
        self.attention = True
        self.changed.wake()

    def _watch_caller(self, now: int) -> None:
        if self._auto_commit_interval_ms is not None and now >= self._commit_due_ms:
            self._commit_due_ms = now + self._auto_commit_interval_ms
            self.attention = True  # no reason to wake a caller who waits: nothing was read since
        ask = self._progress()
        if ask is None:
            self._is_abandoned = True
            return
        progress = ask()
        if progress is None or progress != self._seen or not self._is_watching:
            self._seen, self._seen_ms = progress, now
        elif now - self._seen_ms >= self._max_poll_interval_ms:
            self.expelled = True
            self._membership.leave()
            self._membership.lost = bool(self._membership.owned)
            self._call_attention()
            log.warning(
                "group %s: nothing was polled for %d ms (max_poll_interval_ms), so this member leaves the group and "
                "its partitions go to others: poll more often, take fewer records at a time (max_poll_records), or "
                "raise max_poll_interval_ms",
                self._membership.group,
                self._max_poll_interval_ms,
            )

    @property
    def _is_watching(self) -> bool:
        """Whether the caller is to poll in time: not once the member has left for its being late."""
        return self._membership.takes_part and not self.expelled

    def _pause_ms(self, now: int) -> int:
        member = self._membership
        with self.lock:
            due = now + IDLE_MS
            if member.beats and not member.in_flight:
                due = min(due, member.due_ms)
            if self._is_watching:
                due = min(due, self._seen_ms + self._max_poll_interval_ms)
            if self._auto_commit_interval_ms is not None:
                due = min(due, self._commit_due_ms)
            if self._end_ms is not None:
                due = min(due, self._end_ms)
            elif self._is_abandoned:
                due = now
        return max(0, due - now)
