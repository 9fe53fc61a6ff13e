"""How large the data folder's file system is, and how much of it is left."""

from __future__ import annotations

import os
from pathlib import Path


def disk_room(folder: Path) -> tuple[int, int]:
    """Bytes in all and bytes that are free for us; -1 where the system does not say."""
    try:
        facts = os.statvfs(folder)
    except OSError:
        return -1, -1
    return facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize
