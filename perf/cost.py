"""CPU time: of all the broker's processes, of this one, and of the kernel's workers."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from kbroker.testing import Broker


def broker_cpu_s(broker: Broker) -> float:
    """User and system time of every process of the broker, all threads."""
    return sum(time.clock_gettime(_cpu_clock(process["pid"])) for process in broker.processes().values())


def _cpu_clock(pid: int) -> int:
    """The clock of a process's CPU time, as clock_getcpuclockid(3) names it: in ns, where /proc counts in ticks."""
    return ~pid << 3 | 2


def _kernel_cpu_s() -> dict[str, float]:
    """CPU time of each kernel thread that syncs and writes back files, by its id; of the whole host, for whoever."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().startswith(("kworker", "jbd2")):
                found[process.name] = int((process / "schedstat").read_text().split()[0]) / 1e9
        except OSError:  # it has ended, or this kernel does not count
            continue
    return found


class Measured:
    """A context that tells afterwards how long it took, and the CPU time of the broker and of this process.

    `kernel_cpu_s` is what the kernel's own threads have used meanwhile: it syncs in them, not in the broker's process,
    so an honest figure of acks=all has it beside. It is that of the host, so of a quiet one only it says something.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.wall_s = self.broker_cpu_s = self.client_cpu_s = self.kernel_cpu_s = 0.0

    def __enter__(self) -> Self:
        self._kernel_before = _kernel_cpu_s()
        self._broker_before = broker_cpu_s(self._broker)
        self._client_before = time.process_time()
        self._before = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall_s = time.perf_counter() - self._before
        self.client_cpu_s = time.process_time() - self._client_before
        self.broker_cpu_s = broker_cpu_s(self._broker) - self._broker_before
        before = self._kernel_before
        self.kernel_cpu_s = sum(now_s - before.get(thread, 0.0) for thread, now_s in _kernel_cpu_s().items())
