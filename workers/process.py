"""One child as the supervisor keeps it: its name and memory, and whatever runs under that name now."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kbroker.types import COORDINATOR_NODE, worker_node
from kbroker.workers.channel import Channel, Message, channel_pair
from kbroker.workers.entry import EXIT_MEMORY, EXIT_REFUSED
from kbroker.workers.loop import READ, Loop
from kbroker.workers.proc_facts import cpu_s_of, memory_of, oom_kills

BACKOFF_FIRST_MS = 50
BACKOFF_MAX_MS = 1_000
MEMORY_FORGIVEN_MS = 600_000
"""A process that has run for so long did not die of what its predecessors left it."""


@dataclass
class ChildProcess:
    """A child. `pid` is None while nothing runs under its name; never two processes at a time."""

    name: str
    kind: str
    worker_index: int | None
    remembered: dict[str, str] = field(default_factory=dict)
    pid: int | None = None
    incarnation: int = 0
    forked_ms: int = 0
    ready: bool = False
    restarts: int = 0
    early_deaths: int = 0
    """Deaths in a row before READY: what the back-off counts."""
    memory_deaths: int = 0
    """Deaths of memory in a row: one that served for a while, or ended otherwise, begins anew."""
    died_of_memory: bool = False
    """Whether its last end was one of those."""
    last_exit: str = ""
    refusal: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    killed_for: str = ""
    """Why the supervisor killed it: `hung`, `memory` …"""
    asked_ms: int | None = None
    """When the ping was sent that has not been answered."""
    answered: bool = False
    """Whether it answered, or was forked, since the last WATCHDOG."""
    stalled: bool = False
    _oom_kills: int = 0
    _ping: int = 0
    _pidfd: int = -1
    _channel: Channel | None = None

    @property
    def node(self) -> int | None:
        """Its node id, by which Kafka's clients know it; None for the front."""
        if self.worker_index is not None:
            return worker_node(self.worker_index)
        return COORDINATOR_NODE if self.kind == "coordinator" else None

    @property
    def title(self) -> str:
        """The name for people: `worker 0`."""
        return self.name.replace("-", " ")

    def fork(
        self,
        loop: Loop,
        incarnation: int,
        enter: Callable[[socket.socket], None],
        on_traffic: Callable[[ChildProcess], None],
        on_death: Callable[[ChildProcess], None],
    ) -> None:
        """Fork. `enter(its end of the channel)` runs in the child and never returns.

        Raises OSError when there are no processes, descriptors or memory left; then nothing runs.
        """
        ours, theirs = channel_pair()
        try:
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                pid = os.fork()
                if pid == 0:
                    enter(theirs)
                pidfd = _pidfd_of(pid)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid, self.incarnation, self.forked_ms = pid, incarnation, loop.now_ms()
        self.ready, self.stalled, self.answered = False, False, True
        self.killed_for, self.refusal, self.asked_ms, self.facts = "", "", None, {}
        self._oom_kills = oom_kills()
        self._pidfd = pidfd
        self._channel = Channel(ours)
        self._channel.watch(loop, lambda: on_traffic(self))
        loop.add(self._pidfd, READ, lambda _events: on_death(self))

    def send(self, subject: str, message: Message) -> None:
        """Send over its channel, if it lives. Never blocks."""
        if self._channel is not None:
            self._channel.send(subject, message)

    def receive(self) -> list[Message]:
        """What it has sent; its end of the channel is closed once it hung up."""
        if self._channel is None:
            return []
        messages = self._channel.receive()
        if self._channel.closed:
            # Death is told by the pidfd; a hang-up that stays readable would only spin the loop.
            self._channel.close()
            self._channel = None
        return messages

    def receive_rest(self) -> list[Message]:
        """All that a dead child had sent before its end."""
        messages: list[Message] = []
        while some := self.receive():
            messages += some
        return messages

    def ping(self, now_ms: int) -> None:
        """Ask whether it is alive, unless it still owes an answer."""
        if self.pid is not None and self.asked_ms is None:
            self._ping += 1
            self.asked_ms = now_ms
            self.send("ping", ["ping", self._ping])

    def pong(self, number: int, facts: dict[str, Any]) -> None:
        """Its answer to `ping`."""
        if number == self._ping:
            self.asked_ms = None
            self.answered = True
            self.facts = facts

    def kill(self, why: str) -> None:
        """SIGKILL, once, for a reason that the log has told."""
        if self.pid is not None and not self.killed_for:
            self.killed_for = why
            # Not reaped yet, so the pid cannot be another process's.
            os.kill(self.pid, signal.SIGKILL)

    def reap(self, loop: Loop) -> bool:
        """After its pidfd told the end: collect the exit code into `last_exit`, free all. False: it is not over yet."""
        assert self.pid is not None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return False
        code = os.waitstatus_to_exitcode(status)
        self.last_exit = _how_it_ended(code, self.refusal)
        loop.remove(self._pidfd)
        os.close(self._pidfd)
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self.early_deaths = 0 if self.ready else self.early_deaths + 1
        self._count_memory_deaths(code, loop.now_ms())
        self.pid, self.ready, self.asked_ms, self.facts = None, False, None, {}
        return True

    def _count_memory_deaths(self, code: int, now_ms: int) -> None:
        if code == 0 or now_ms - self.forked_ms > MEMORY_FORGIVEN_MS:
            self.memory_deaths = 0
        by_kernel = code == -signal.SIGKILL and not self.killed_for and oom_kills() > self._oom_kills
        self.died_of_memory = self.killed_for == "memory" or code == EXIT_MEMORY or by_kernel
        self.memory_deaths += self.died_of_memory

    @property
    def is_away(self) -> bool:
        """Whether it does not serve at the moment."""
        return not self.ready or self.stalled

    @property
    def exited_clean(self) -> bool:
        """Whether its last end was exit code 0."""
        return self.last_exit == _how_it_ended(0, "")

    @property
    def backoff_ms(self) -> int:
        """How long to wait before the next fork: nothing after READY or for the first death before it."""
        if self.early_deaths < 2:
            return 0
        return int(min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** min(self.early_deaths - 2, 16)))

    def status(self, now_ms: int) -> dict[str, Any]:
        """Its part of the status document."""
        rss_bytes, rss_anon_bytes = memory_of(self.pid) if self.pid else (0, 0)
        return {
            "name": self.name,
            "title": self.title,
            "node": self.node,
            "pid": self.pid,
            "incarnation": self.incarnation,
            "ready": self.ready,
            "stalled": self.stalled,
            "restarts": self.restarts,
            "uptime_s": (now_ms - self.forked_ms) / 1000 if self.pid else 0.0,
            "rss_bytes": rss_bytes,
            "rss_anon_bytes": rss_anon_bytes,
            "cpu_s": cpu_s_of(self.pid) if self.pid else 0.0,
            "last_exit": self.last_exit,
            "facts": self.facts,
        }


def new_incarnation(newest: int) -> int:
    """Rises with every fork, also when the clock goes back: milliseconds since 1970, or one more than the newest."""
    return max(newest + 1, time.time_ns() // 1_000_000)


def _pidfd_of(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        # A child whose end we would not hear of must not live.
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _how_it_ended(code: int, refusal: str) -> str:
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    if code == EXIT_REFUSED and refusal:
        return f"cannot serve ({refusal})"
    return f"exited with code {code}"
