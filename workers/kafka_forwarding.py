"""A worker's requests that only the coordinator can answer: handed over on the control channel, undecoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kbroker.wire.control import KafkaForward, KafkaForwarded
from kbroker.workers.kafka_service import Call

if TYPE_CHECKING:
    from kbroker.workers.worker import Worker


class Forwarding:
    """Which requests are at the coordinator. When it dies their clients are hung up on, and ask again."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._calls: dict[int, tuple[int, Call]] = {}
        self._count = 0

    def forward(self, call: Call) -> bool:
        """Let the coordinator answer. False: there is none just now."""
        control = self._worker.control
        if not control.is_linked:
            return False
        self._count += 1
        head = call.head
        message = KafkaForward(
            self._worker.child.incarnation,
            self._count,
            call.host,
            head.api_key,
            head.version,
            head.correlation_id,
            call.client_id,
            bytes(head.body),
        )
        self._calls[self._count] = (control.coordinator_incarnation, call)
        control.acknowledge(message)
        return True

    def answered(self, message: KafkaForwarded) -> None:
        """The coordinator's answer: a whole response, or nothing when the request's bytes were at fault."""
        found = self._calls.pop(message.number, None)
        if found is None:
            return
        if message.response:
            found[1].answer_pieces([message.response])
        else:
            found[1].give_up(message.why)

    def follow_peers(self) -> None:
        """Give up what a coordinator that has died was asked."""
        incarnation = self._worker.control.coordinator_incarnation
        for number, (asked, call) in list(self._calls.items()):
            if asked != incarnation:
                del self._calls[number]
                call.give_up("")
