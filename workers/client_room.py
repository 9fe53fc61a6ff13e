"""How many clients a ROUTER has: those too many are hung up on.

libzmq accepts by itself, and tells of it afterwards. Where descriptors have run out it tries again and again without a
pause (tcp), or aborts the process (ipc), and to take its listener away would be to hang up on everybody. So there is
always a descriptor to accept with: newcomers beyond the limit are hung up on at once, and where the last descriptor has
gone to somebody else, a spare one is given up for the connection that waits, and taken back when that was hung up on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from typing import Final

from kbroker.workers.acceptor import TOLD_AGAIN_MS, remedy
from kbroker.workers.descriptors import KEPT_FOR_THE_LOG, descriptor_limit
from kbroker.workers.loop import Loop

log = logging.getLogger(__name__)

SPARES: Final = 4


class ClientRoom:
    """The descriptors of those who are connected. `clients_max`: with more, those who come are hung up on."""

    def __init__(self, clients_max: int) -> None:
        self.connected: set[int] = set()
        self._clients_max = clients_max
        self._spares: list[int] = []
        self._told_ms: dict[str, int] = {}
        self._fill()

    def came(self, fd: int) -> None:
        """A client was accepted. The kernel gives the lowest free number: it tells how many are in use."""
        self.connected.add(fd)
        if len(self.connected) > self._clients_max:
            self._hang_up(fd, f"{self._clients_max} are connected (native.clients.max)")
        elif fd >= descriptor_limit() - KEPT_FOR_THE_LOG:
            self._hang_up(fd, f"no descriptor is left but the last {KEPT_FOR_THE_LOG}, of {descriptor_limit()}")

    def went(self, fd: int) -> None:
        """A client has gone."""
        self.connected.discard(fd)
        self._fill()

    def failed(self, error_number: int) -> None:
        """One could not be accepted. It is accepted as soon as there is a descriptor, and hung up on."""
        if remedy(error_number):
            if self._spares:
                os.close(self._spares.pop())
            self._tell(os.strerror(error_number) + remedy(error_number))

    def close(self) -> None:
        """Give the spare descriptors back."""
        while self._spares:
            os.close(self._spares.pop())

    def _fill(self) -> None:
        while len(self._spares) < SPARES:
            try:
                self._spares.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return

    def _hang_up(self, fd: int, why: str) -> None:
        # libzmq closes it when it sees the end.
        with contextlib.suppress(OSError):
            connection = socket.socket(fileno=fd)
            try:
                connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()
        self._tell(why)

    def _tell(self, why: str) -> None:
        now_ms = Loop.now_ms()
        told_ms = self._told_ms.get(why)
        if told_ms is None or now_ms - told_ms >= TOLD_AGAIN_MS:
            self._told_ms[why] = now_ms
            log.error("no more native clients can be taken: %s", why)
