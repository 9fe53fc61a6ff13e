"""The supervisor's status for native clients on other hosts: the coordinator asks `supervisor.sock` on their behalf."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kbroker.errors import BrokerUnavailable, CoordinatorNotAvailable, ThrottlingQuotaExceeded
from kbroker.wire import codec
from kbroker.wire import messages as m
from kbroker.wire.status import read_status
from kbroker.workers.doors import Asked
from kbroker.workers.io_threads import IoThreads
from kbroker.workers.loop import Loop

WAITING_MAX = 256
"""So many requests wait for one reading of the status; more are refused, retriable."""


class StatusRequests:
    """Answers BrokerStatus. The supervisor is asked on a thread, once for all who wait, and never twice at a time."""

    def __init__(self, runtime_dir: Path, loop: Loop) -> None:
        self._runtime_dir = runtime_dir
        self._io = IoThreads(loop, 1, "status")
        self._waiting: list[Asked] = []

    def serve(self, asked: Asked, _request: m.BrokerStatus) -> None:
        """Answer when the supervisor has."""
        if len(self._waiting) >= WAITING_MAX:
            raise ThrottlingQuotaExceeded("too many ask for the status at once; try again")
        self._waiting.append(asked)
        if len(self._waiting) == 1:
            self._io.submit(lambda: read_status(self._runtime_dir), self._answered)

    def close(self) -> None:
        """End the thread."""
        self._io.close(0)

    def _answered(self, document: dict[str, Any] | None, error: BaseException | None) -> None:
        waiting, self._waiting = self._waiting, []
        if error is not None and not isinstance(error, BrokerUnavailable):
            raise error
        answer = codec.encode_answer(m.BrokerStatusAnswer(json.dumps(document)))
        for asked in waiting:
            if error is not None:
                asked.refuse(CoordinatorNotAvailable(f"the supervisor does not answer: {error}"))
            else:
                asked.answer(answer)
