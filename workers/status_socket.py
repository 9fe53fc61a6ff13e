"""`supervisor.sock`: whoever connects gets one JSON document and the end of the stream."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kbroker.wire.endpoints import SUPERVISOR
from kbroker.workers.acceptor import Acceptor
from kbroker.workers.listeners import bind_unix
from kbroker.workers.loop import WRITE, Loop

READERS_MAX = 32
READ_TIMEOUT_MS = 2_000
"""A reader that has not taken the document by then is dropped."""


class StatusSocket:
    """Serves the status. Never blocks; more than READERS_MAX slow readers are hung up on."""

    def __init__(self, runtime_dir: Path, loop: Loop, document: Callable[[], dict[str, Any]]) -> None:
        """Listen. Raises StartError."""
        self._path = runtime_dir / SUPERVISOR
        self._loop = loop
        self._document = document
        self._readers: dict[int, _Reader] = {}
        self._listener = bind_unix(self._path, socket.SOCK_STREAM)
        self._acceptor = Acceptor(loop, (self._listener,), self._admit, "readers of the status", is_internal=True)
        self._acceptor.start()

    def close(self) -> None:
        """Hang up on all readers and remove the socket."""
        for reader in list(self._readers.values()):
            reader.close()
        self._acceptor.stop()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _admit(self, connection: socket.socket, _address: object) -> None:
        if len(self._readers) >= READERS_MAX:
            connection.close()
            return
        reader = _Reader(connection, json.dumps(self._document()).encode(), self._loop, self._readers)
        reader.write()


class _Reader:
    def __init__(self, connection: socket.socket, text: bytes, loop: Loop, readers: dict[int, _Reader]) -> None:
        self._connection = connection
        self._left = memoryview(text)
        self._loop = loop
        self._readers = readers
        self._fd = connection.fileno()
        readers[self._fd] = self
        loop.add(self._fd, WRITE, self._ready)
        self._deadline = loop.call_later(READ_TIMEOUT_MS, self.close)

    def write(self) -> None:
        try:
            self._left = self._left[self._connection.send(self._left) :]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self._left:
            self.close()

    def close(self) -> None:
        self._deadline.cancel()
        self._readers.pop(self._fd, None)
        self._loop.remove(self._fd)
        self._connection.close()

    def _ready(self, _events: int) -> None:
        # Served in an earlier callback of the same turn, and the number may be another connection's by now.
        if self._readers.get(self._fd) is self:
            self.write()
