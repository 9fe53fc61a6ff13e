"""What machine this is, and its memory made ready for measuring."""

from __future__ import annotations

import mmap
import os
import platform
from pathlib import Path
from typing import Any

import aiokafka
import zmq

PAGE_BYTES = mmap.PAGESIZE


def facts() -> dict[str, Any]:
    """Cores, memory, kernel, Python and libraries; nothing that names the host."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        "aiokafka": aiokafka.__version__,
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def touch_memory(size_bytes: int) -> None:
    """Touch so much memory and give it back.

    In a virtual machine the first touch of a page takes the host about 4 µs, 1 ms per MB: it would be charged to
    whoever writes into the page cache first.
    """
    available = os.sysconf("SC_AVPHYS_PAGES") * PAGE_BYTES
    size_bytes = min(size_bytes, available // 2) // PAGE_BYTES * PAGE_BYTES
    with mmap.mmap(-1, size_bytes) as memory:
        for position in range(0, size_bytes, PAGE_BYTES):
            memory[position] = 1
