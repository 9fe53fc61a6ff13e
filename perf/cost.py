"""CPU time: of all the broker's processes, and of this one."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from kbroker.testing import Broker


def broker_cpu_s(broker: Broker) -> float:
    """User and system time of every process of the broker, all threads."""
    return sum(time.clock_gettime(_cpu_clock(process["pid"])) for process in broker.processes().values())


def _cpu_clock(pid: int) -> int:
    """The clock of a process's CPU time, as clock_getcpuclockid(3) names it: in ns, where /proc counts in ticks."""
    return ~pid << 3 | 2


class Measured:
    """A context that tells afterwards how long it took, and the CPU time of the broker and of this process."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.wall_s = self.broker_cpu_s = self.client_cpu_s = 0.0

    def __enter__(self) -> Self:
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
