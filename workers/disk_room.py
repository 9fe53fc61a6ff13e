"""How large the data folder's file system is, and how much of it is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from kbroker.kafka import log_dirs
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.kafka_service import Call

Room = tuple[int, int]
"""Bytes in all and bytes that are free for us; -1 where the system does not say."""


def disk_room(folder: Path) -> Room:
    """In an I/O thread: a file system of the network may take its time."""
    try:
        facts = os.statvfs(folder)
    except OSError:
        return -1, -1
    return facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize


def ask_disk_room(io: IoThreads, folder: Path, answered: Callable[[Room], None]) -> None:
    """Call `answered` with the folder's room, later."""
    io.submit(partial(disk_room, folder), lambda room, _error: answered(room or (-1, -1)))


def answer_log_dirs(call: Call, folder: Path, sizes: Mapping[tuple[str, int], int], room: Room) -> None:
    """Answer a DescribeLogDirs request. `sizes`: bytes of the partitions that are led here."""
    call.answer(log_dirs.answer(call.request, str(folder), sizes, *room))
