"""What the supervisor tells systemd: sd_notify, a datagram to $NOTIFY_SOCKET. Without it every call does nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

from kbroker.wording import printable


class Notifier:
    """Tells the service's state. Never blocks and never raises: the broker does not depend on who listens."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # "@name" stands for an abstract socket, whose name starts with a zero byte.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None
        self._status = ""
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.watchdog_ms = _watchdog_ms(environment) if self._socket else 0

    def ready(self) -> None:
        """Every process serves, or a reload has ended."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent only when it differs from the last."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={printable(text)}")  # a name in it cannot begin another variable

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, within_ms: int) -> None:
        """The shutdown begins and may take `within_ms`, for which the service's own time-out is extended."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={within_ms * 1000}")

    def watchdog(self) -> None:
        """Everything is alive."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(text.encode(), self._address)


def _watchdog_ms(environment: Mapping[str, str]) -> int:
    """How often systemd expects WATCHDOG=1, in ms; 0: not at all."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    usec = environment.get("WATCHDOG_USEC", "")
    return int(usec) // 1000 if usec.isdigit() else 0
