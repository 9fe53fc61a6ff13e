"""Where Kafka clients come in: accepts connections on inherited listeners, holds their limits and deadlines.

The same door stands in every worker and in the coordinator; they differ in what they serve.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter

from kbroker.config import KafkaConfig
from kbroker.kafka.framing import FrameLimits
from kbroker.shm.buffers import Buffers
from kbroker.workers.acceptor import Acceptor
from kbroker.workers.complaints import Complaints
from kbroker.workers.dear_time import DearTime
from kbroker.workers.kafka_connection import Asked, Connection
from kbroker.workers.listeners import host_port
from kbroker.workers.loop import Loop
from kbroker.workers.request_memory import RequestMemory

log = logging.getLogger(__name__)

BUFFER_BYTES = 1 << 20
"""One for all connections: whole requests are served straight out of it. What it takes at once is appended together: of
64 KiB batches sixteen cost the broker two thirds, each, of what four do. A processor's second cache holds no more."""
KEPT_FRAME_BYTES = 17 << 16
"""Room for a frame of the usual greatest size, 1 MiB and its head."""
KEPT_FRAMES = 4
"""So many unfinished frames get such room, which is used again and again: new memory has to be zeroed, and mapped."""
SPILL_BYTES = 16 << 10
"""So much is received after the end of a large frame: the next one's begin, which is copied once more."""
STALL_CHECK_MS = 1_000


class KafkaDoor:
    """All Kafka connections of one process.

    `serve` is given each request; `served_all` is called once all that came with one receive were, before their bytes
    are overwritten.
    """

    def __init__(
        self,
        loop: Loop,
        listeners: Sequence[socket.socket],
        serve: Callable[[Asked], None],
        limits: KafkaConfig,
        *,
        served_all: Callable[[], None] = lambda: None,
    ) -> None:
        self.loop = loop
        self.serve = serve
        self.served_all = served_all
        self.limits = limits
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.spill = self.buffer[:SPILL_BYTES]
        self.memory = RequestMemory(loop, limits.buffered_bytes_max, limits.stall_max_ms)
        self.answer_bytes = 0
        """Of answers that are given and not sent, of all connections; not those in files."""
        self.dear_time = DearTime(loop)
        self.complaints = Complaints(loop)
        self.ready: list[Connection] = []
        """Who was given an answer in this turn of the loop, in that order."""
        self._frame_buffers = Buffers()
        self.connections: set[Connection] = set()
        self._frame_limits = FrameLimits(limits.request_bytes_max, limits.small_request_bytes_max)
        self._acceptor = Acceptor(loop, listeners, self._admit, "Kafka clients")
        self._by_address: Counter[str] = Counter()
        self._stalled: set[Connection] = set()
        self._told_full = False
        self._is_checking = False
        loop.at_turn_end(self._end_turn, self.ready)
        loop.call_every(min(60_000, max(1_000, limits.idle_max_ms // 2)), self._close_idle)

    def listen(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    def stop_listening(self) -> None:
        """Accept nobody any more; who comes waits for this process's successor."""
        self._acceptor.stop()

    def close(self) -> None:
        """Hang up on everybody."""
        self.stop_listening()
        for connection in list(self.connections):
            connection.close()

    def frame_buffer(self, least_bytes: int, best_bytes: int) -> bytearray:
        """Memory for a frame that comes in pieces: the best, unless memory is short."""
        memory = self.memory
        if (
            best_bytes <= KEPT_FRAME_BYTES
            and memory.held_bytes < KEPT_FRAMES * KEPT_FRAME_BYTES
            and memory.has_room(KEPT_FRAME_BYTES)
        ):
            return self._frame_buffers.take(KEPT_FRAME_BYTES)
        return bytearray(best_bytes if memory.has_room(best_bytes) else least_bytes)

    def _flush(self) -> None:
        """Send what was answered in this turn. Last answered first: readers who waited for what was written in this
        turn got their answer after its writers, and wait longer."""
        while self.ready:
            self.ready.pop().flush()

    def bound_answers(self) -> None:
        """Have no more answers wait in memory than may. When sending does not help, those who have most hang up first:
        to wait for them would be to let them stop all others."""
        if self.answer_bytes <= self.limits.answer_bytes_max:
            return
        self._flush()
        if self.answer_bytes <= self.limits.answer_bytes_max:
            return
        for connection in sorted(self.connections, key=attrgetter("answer_bytes"), reverse=True):
            if self.answer_bytes <= self.limits.answer_bytes_max:
                return
            connection.close(
                f"{connection.answer_bytes} bytes of its answers wait to be taken, and kafka.queued.answer.max.bytes "
                "in all are reached"
            )

    def _end_turn(self) -> None:
        self._flush()
        self.bound_answers()

    def _admit(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        limits = self.limits
        host, address = peer[0], host_port(peer[0], peer[1])
        per_address = self._by_address[host] >= limits.connections_per_address_max
        if per_address or len(self.connections) >= limits.connections_max:
            sock.close()
            if not self._told_full:
                self._told_full = True
                name, most = "max.connections", limits.connections_max
                if per_address:
                    name, most = "max.connections.per.ip", limits.connections_per_address_max
                log.warning("kafka client %s refused: %s is reached (%d)", address, name, most)
            return
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection = Connection(self, sock, address, self._frame_limits)
        except OSError:
            sock.close()  # gone before we could look at it
            return
        self._by_address[host] += 1
        self.connections.add(connection)

    def gone(self, connection: Connection) -> None:
        """A connection was closed."""
        self.connections.discard(connection)
        self._stalled.discard(connection)
        self._told_full = False
        host = connection.client_host
        self._by_address[host] -= 1
        if self._by_address[host] <= 0:
            del self._by_address[host]

    # --- deadlines ---

    def watch(self, connection: Connection) -> None:
        """Half a request is here, or an answer is not taken: look again and again until it is over."""
        self._stalled.add(connection)
        if not self._is_checking:
            self._is_checking = True
            self.loop.call_later(STALL_CHECK_MS, self._check_stalled)

    def _check_stalled(self) -> None:
        now_ms, limits = self.loop.now_ms(), self.limits
        # Who has asked for data may take its time with it, as long as that costs nobody else anything.
        costly_bytes = limits.answer_bytes_max // 2
        for connection in sorted(self._stalled, key=attrgetter("answer_bytes"), reverse=True):
            is_costly = self.answer_bytes > costly_bytes
            untaken_max_ms = min(limits.stall_max_ms, limits.idle_max_ms) if is_costly else limits.idle_max_ms
            if not connection.check_stall(now_ms, limits.stall_max_ms, untaken_max_ms):
                self._stalled.discard(connection)
        self.memory.check(now_ms, self.connections)
        self._is_checking = bool(self._stalled) or self.memory.anybody_waits
        if self._is_checking:
            self.loop.call_later(STALL_CHECK_MS, self._check_stalled)

    def _close_idle(self) -> None:
        oldest_ms = self.loop.now_ms() - self.limits.idle_max_ms
        for connection in [c for c in self.connections if c.active_ms < oldest_ms and not c.is_waiting]:
            connection.close()
