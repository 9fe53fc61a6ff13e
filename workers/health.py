"""Kills children that hang or grow without bound. What it decides, it says in one line."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from kbroker.config import Config
from kbroker.workers.proc_facts import memory_of, state_of, waits_for_disk
from kbroker.workers.process import ChildProcess

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_MS = 1_000
"""Also how often memory is looked at. Each is a wake-up of every process, and most of what an idle broker does."""
FRONT_MEMORY_INTERVAL_MS = 100


def check_heartbeats(processes: Iterable[ChildProcess], config: Config, now_ms: int) -> None:
    """Kill those that have owed an answer for longer than the time-out, unless they wait for a disk; ask the others."""
    for process in processes:
        if process.pid is None or process.killed_for:
            continue
        owed_ms = now_ms - process.asked_ms if process.asked_ms is not None else 0
        if owed_ms > config.server.heartbeat_timeout_ms:
            _judge_silence(process, process.pid, owed_ms)
        process.ping(now_ms)


def heard_from(process: ChildProcess) -> None:
    """It has sent something: a stall is over."""
    if process.stalled:
        process.stalled = False
        log.warning("%s (pid %s) answers again", process.title, process.pid)


def _judge_silence(process: ChildProcess, pid: int, owed_ms: int) -> None:
    if waits_for_disk(pid):
        if not process.stalled:
            process.stalled = True
            log.error(
                "%s (pid %d): disk stalled, no answer for %.1f s; it is not killed, for it could not end",
                process.title, pid, owed_ms / 1000,
            )  # fmt: skip
        return
    log.error(
        "%s (pid %d) is hung: no answer for %.1f s (state %s); killing it",
        process.title, pid, owed_ms / 1000, state_of(pid) or "?",
    )  # fmt: skip
    process.kill("hung")


def check_memory(processes: Iterable[ChildProcess], config: Config) -> None:
    """Kill those whose own memory is above their limit."""
    for process in processes:
        if process.pid is None or process.killed_for:
            continue
        front = process.kind == "front"
        limit = config.server.front_memory_max_bytes if front else config.server.worker_memory_max_bytes
        _, own_bytes = memory_of(process.pid)
        if own_bytes > limit:
            log.error(
                "%s (pid %d) holds %d MiB of memory of its own, above %s=%d MiB; killing it",
                process.title, process.pid, own_bytes >> 20,
                "front.memory.max.bytes" if front else "worker.memory.max.bytes", limit >> 20,
            )  # fmt: skip
            process.kill("memory")
