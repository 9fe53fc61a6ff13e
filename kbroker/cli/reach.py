"""Whether anybody listens where a command would send: known at once, where a client would wait for a broker to come."""

from __future__ import annotations

import contextlib
import socket
import time

from kbroker.errors import BrokerUnavailable
from kbroker.wire.endpoints import resolve_server

PATIENCE_S = 1.5
"""A front that was killed is back sooner; and nobody waits longer than two seconds for "no broker"."""
PAUSE_S = 0.05


def _connect(endpoint: str, timeout_s: float) -> None:
    """Connect and hang up. Raises OSError."""
    if endpoint.startswith("ipc://"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(timeout_s)
            door.connect(endpoint.removeprefix("ipc://"))
        return
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout_s):
        pass


def reach(server: str | None) -> str:
    """The endpoint that `server` means. Raises BrokerUnavailable within two seconds when nobody listens there."""
    endpoint = resolve_server(server)
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        left_s = deadline_s - time.monotonic()
        try:
            _connect(endpoint, max(left_s, PAUSE_S))
        except (OSError, ValueError) as error:
            if left_s <= PAUSE_S:
                reason = getattr(error, "strerror", None) or str(error)
                raise BrokerUnavailable(
                    f"no broker answers at {endpoint}: {reason}; start one with `kbroker serve`, or name another by "
                    "--server"
                ) from None
            with contextlib.suppress(BrokerUnavailable):
                endpoint = resolve_server(server)  # a folder's socket may appear
            time.sleep(PAUSE_S)
        else:
            return endpoint
