"""CPU time: of all the broker's processes, and of this one."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from kbroker.testing import Broker

IDLE_WAIT_S = 10.0
IDLE_LOOK_S = 0.5
IDLE_SHARE = 0.02
"""Of one core, in all processes: below this a broker has nothing to do."""


def broker_cpu_s(broker: Broker) -> float:
    """User and system time of every process of the broker, all threads."""
    return sum(time.clock_gettime(_cpu_clock(process["pid"])) for process in broker.processes().values())


def _cpu_clock(pid: int) -> int:
    """The clock of a process's CPU time, as clock_getcpuclockid(3) names it: in ns, where /proc counts in ticks."""
    return ~pid << 3 | 2


def wait_until_idle(broker: Broker) -> None:
    """After a start the supervisor makes Kafka's usual readers in idle moments: CPU that no request has used."""
    deadline = time.monotonic() + IDLE_WAIT_S
    used_s = broker_cpu_s(broker)
    while time.monotonic() < deadline:
        time.sleep(IDLE_LOOK_S)  # what is looked at: how much is used meanwhile
        before_s, used_s = used_s, broker_cpu_s(broker)
        if used_s - before_s < IDLE_SHARE * IDLE_LOOK_S:
            return


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
