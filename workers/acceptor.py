"""How connections are accepted, at every door of every process: many in a turn, none that would take the last
descriptors, and no spinning where there are none left."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from kbroker.workers.descriptors import KEPT_FOR_THE_LOG, descriptor_limit
from kbroker.workers.loop import READ, Loop, Timer

log = logging.getLogger(__name__)

TURN_ACCEPTS: Final = 64
PAUSE_MS: Final = 500
"""How long nobody is accepted once there was no descriptor, or no memory, for one more."""
TOLD_AGAIN_MS: Final = 10_000
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def remedy(error_number: int) -> str:
    """What to do where descriptors have run out: of the process (EMFILE) or of the host (ENFILE). Else empty."""
    if error_number == errno.EMFILE:
        return f"; this process may have {descriptor_limit()}: raise LimitNOFILE= of its unit, or `ulimit -n`"
    return "; raise the host's fs.file-max" if error_number == errno.ENFILE else ""


class Acceptor:
    """Accepts on listening sockets, which stay the caller's, and gives each connection, non-blocking, to
    `admit(connection, address)`.

    The kernel gives the lowest free number to a new descriptor. So the number tells how many are in use, by whatever it
    is, and a client whose number is among the last KEPT_FOR_THE_LOG is hung up on. `is_internal`: the broker's own
    processes come here, and may have the last ones too.

    `who` is named in the log: "Kafka clients".
    """

    def __init__(
        self,
        loop: Loop,
        listeners: Sequence[socket.socket],
        admit: Callable[[socket.socket, Any], None],
        who: str,
        *,
        is_internal: bool = False,
    ) -> None:
        self._loop = loop
        self._listeners = listeners
        self._admit = admit
        self._who = who
        self._numbers_end = descriptor_limit() - (0 if is_internal else KEPT_FOR_THE_LOG)
        self._pause: Timer | None = None
        self._is_accepting = False
        self._told_ms: int | None = None

    def start(self) -> None:
        """Begin to accept."""
        if not self._is_accepting:
            self._is_accepting = True
            for listener in self._listeners:
                self._loop.add(listener.fileno(), READ, partial(self._accept, listener))

    def stop(self) -> None:
        """Accept nobody any more; who comes waits for this process's successor."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._is_accepting:
            self._is_accepting = False
            for listener in self._listeners:
                self._loop.remove(listener.fileno())

    def _accept(self, listener: socket.socket, _events: int) -> None:
        for _ in range(TURN_ACCEPTS):
            try:
                connection, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._wait(error)
                    return
                continue  # gone before it was accepted
            if connection.fileno() >= self._numbers_end:
                connection.close()
                self._tell(f"no descriptor is left but the last {KEPT_FOR_THE_LOG}, kept for the log", errno.EMFILE)
                continue
            connection.setblocking(False)
            self._admit(connection, address)

    def _wait(self, error: OSError) -> None:
        """The connection stays in the backlog, which would be told of at every turn."""
        self.stop()
        self._pause = self._loop.call_later(PAUSE_MS, self._go_on)
        self._tell(str(error.strerror), error.errno or 0)

    def _go_on(self) -> None:
        self._pause = None
        self.start()

    def _tell(self, why: str, error_number: int) -> None:
        now_ms = self._loop.now_ms()
        if self._told_ms is None or now_ms - self._told_ms >= TOLD_AGAIN_MS:
            self._told_ms = now_ms
            log.error("no more %s can be taken: %s%s", self._who, why, remedy(error_number))
