"""The thread that keeps a consumer in its group, however long its caller takes between two polls.

It has a Cluster of its own, which nobody else touches; the Membership is shared, under `lock`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable

from kbroker.clients.cluster import Cluster, now_ms
from kbroker.clients.group_membership import UNRELEASED_MAX_MS, Membership
from kbroker.clients.link import Reply
from kbroker.errors import RetriableError
from kbroker.wire.group_messages import GroupHeartbeatAnswer

log = logging.getLogger(__name__)

ANSWER_MS = 10_000
"""A heartbeat that was not answered for so long is sent again on another connection."""
RETRY_MS = 100
RETRY_REFUSED_MS = 1_000
IDLE_MS = 60_000


class Heartbeats:
    """`attention` is set, and `changed_fd` (an eventfd) readable, when the consumer has something to do for the group.

    `progress` is called from the thread: None while the caller waits inside the consumer, else anything that is
    another whenever the caller has gone on. When it stays the same for `max_poll_interval_ms`, the member leaves.
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
        self.changed_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.expelled = False
        """The caller took too long between two polls, so the member has left; `poll` joins again."""
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._cluster = cluster
        self._membership = membership
        self._progress = progress
        self._max_poll_interval_ms = max_poll_interval_ms
        self._auto_commit_interval_ms = auto_commit_interval_ms
        self._commit_due_ms = now_ms() + (auto_commit_interval_ms or 0)
        self._seen: object = None
        self._seen_ms = now_ms()
        self._end_ms: int | None = None
        self._is_over = False
        cluster.watch(self._wake_fd, lambda: _drain(self._wake_fd))
        self._thread = threading.Thread(target=self._run, name=f"kbroker-heartbeats-{membership.group}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """The membership was changed by the caller: look at it."""
        os.eventfd_write(self._wake_fd, 1)

    def noticed(self) -> None:
        """The caller deals with what `attention` is about."""
        self.attention = False
        _drain(self.changed_fd)

    def leave(self, timeout_ms: int) -> None:
        """Leave the group; the thread waits at most so long for the coordinator's word, and then calls attention."""
        with self.lock:
            self._membership.leave()
            self._end_ms = now_ms() + timeout_ms
        self.wake()

    @property
    def is_over(self) -> bool:
        """Whether the thread has done its last work: `close` does not wait then."""
        return self._is_over

    def close(self) -> None:
        """After `leave`: end the thread and free everything."""
        self._thread.join()
        self._cluster.close()
        os.close(self._wake_fd)
        os.close(self.changed_fd)

    # --- in the thread ---

    def _run(self) -> None:
        try:
            self._beat()
        finally:
            self._is_over = True
            self._call_attention()

    def _beat(self) -> None:
        while True:
            now = now_ms()
            with self.lock:
                member = self._membership
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
                member.answered(reply.answer, now)
            else:
                retriable = isinstance(reply.error, RetriableError)
                member.refused(reply.error, now, RETRY_MS if retriable else RETRY_REFUSED_MS)
                if member.unreleased_since_ms == now:
                    log.warning(
                        "group %s: %s It is tried again for %d s: if that member has died, its session ends; else two "
                        "consumers have the same group_instance_id",
                        member.group,
                        reply.error,
                        UNRELEASED_MAX_MS // 1000,
                    )
                if member.lost:
                    log.warning("group %s: this member was put out (%s); joining again", member.group, reply.error)
            if member.has_changed:
                self._call_attention()

    def _call_attention(self) -> None:
        self.attention = True
        os.eventfd_write(self.changed_fd, 1)

    def _watch_caller(self, now: int) -> None:
        if self._auto_commit_interval_ms is not None and now >= self._commit_due_ms:
            self._commit_due_ms = now + self._auto_commit_interval_ms
            self.attention = True  # no reason to wake a caller who waits: nothing was read since
        progress = self._progress()
        if progress is None or progress != self._seen or not self._membership.beats:
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

    def _pause_ms(self, now: int) -> int:
        member = self._membership
        with self.lock:
            due = now + IDLE_MS
            if member.beats and not member.in_flight:
                due = min(due, member.due_ms)
            if member.beats:
                due = min(due, self._seen_ms + self._max_poll_interval_ms)
            if self._auto_commit_interval_ms is not None:
                due = min(due, self._commit_due_ms)
            if self._end_ms is not None:
                due = min(due, self._end_ms)
        return max(0, due - now)


def _drain(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(fd)
