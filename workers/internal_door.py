"""The doors between the broker's own processes: `backend.sock` and `control.sock`.

They lie in a folder that only the broker's user may enter. Who gets there all the same has to be of that user
(SO_PEERCRED) and to know the secret of this start: 32 bytes that the supervisor has made and its children have
inherited by fork, never written down anywhere. Until then it may say 512 bytes, within 5 s.
"""

from __future__ import annotations

import errno
import hmac
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from kbroker.shm.access import peer_of
from kbroker.wire.control import process_named
from kbroker.wire.stream import ANSWER_LIMITS, MessageLimits
from kbroker.workers.acceptor import Acceptor
from kbroker.workers.complaints import Complaints
from kbroker.workers.loop import Timer
from kbroker.workers.stream_connection import StreamConnection, Streams, dial

log = logging.getLogger(__name__)

SECRET_BYTES: Final = 32
INTRODUCTION_LIMITS: Final = MessageLimits(payload_bytes=0, other_bytes=512, frames=2)
INTRODUCTION_MS: Final = 5_000
"""Who has not said by then who it is, is hung up on."""
STRANGERS_MAX: Final = 64
"""Connections that have not said who they are; with one more the oldest is hung up on."""

Welcome = Callable[[StreamConnection, bytes], None]
"""Gets a process's connection and its identity; sets `on_message` and `on_end`, or closes it."""


class InternalDoor:
    """Accepts the broker's own processes on an inherited listener, and nobody else."""

    def __init__(self, streams: Streams, listener: socket.socket, secret: bytes, welcome: Welcome) -> None:
        self._streams = streams
        self._loop = streams.loop
        self._listener = listener
        self._secret = secret
        self._welcome = welcome
        self._strangers: dict[StreamConnection, Timer] = {}
        self._complaints = Complaints(self._loop, "strangers at the broker's internal doors")
        self._acceptor = Acceptor(self._loop, (listener,), self._let_in, "processes of the broker", is_internal=True)

    def listen(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    def close(self) -> None:
        """Accept nobody any more; hang up on those who have not said who they are."""
        self._acceptor.stop()
        for connection in list(self._strangers):
            connection.close()

    def refuse(self, connection: StreamConnection, why: str) -> None:
        """Hang up on one who is not what it says. A warning in the log, at a bounded rate."""
        self._complaints.say(f"refused at {self._place}: {why}")
        connection.close()

    @property
    def _place(self) -> str:
        return str(self._listener.getsockname())

    def _let_in(self, sock: socket.socket, _address: object) -> None:
        try:
            peer = peer_of(sock)
        except OSError:  # gone again
            sock.close()
            return
        if peer.uid != os.geteuid():
            self._complaints.say(f"refused at {self._place}: process {peer.pid} of user {peer.uid} is not the broker's")
            sock.close()
            return
        if len(self._strangers) >= STRANGERS_MAX:
            next(iter(self._strangers)).close()
        connection = StreamConnection(
            self._streams, sock, INTRODUCTION_LIMITS, lambda _frames: None, self._left, is_peer=True
        )
        connection.on_message = partial(self._introduced, connection, peer.pid)
        late = partial(self.refuse, connection, f"process {peer.pid} did not say who it is")
        self._strangers[connection] = self._loop.call_later(INTRODUCTION_MS, late)

    def _left(self, connection: StreamConnection, why: str) -> None:
        timer = self._strangers.pop(connection, None)
        if timer is not None:
            timer.cancel()
        if why:
            self._complaints.say(f"refused at {self._place}: {why}")

    def _introduced(self, connection: StreamConnection, pid: int, frames: list[memoryview]) -> None:
        name = bytes(frames[0]) if frames else b""
        if len(frames) != 2 or not hmac.compare_digest(bytes(frames[1]), self._secret) or not process_named(name):
            self.refuse(
                connection, f"process {pid} does not know the secret of this start (it says it is {name!r:.80})"
            )
            return
        self._strangers.pop(connection).cancel()
        connection.accept(ANSWER_LIMITS)
        self._welcome(connection, name)


def dial_internal(path: Path) -> socket.socket:
    """Dial such a door. Raises OSError: nobody listens there, or somebody who is not the broker's user."""
    sock = dial(str(path))
    try:
        uid = peer_of(sock).uid
        if uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"{path} belongs to user {uid}")
    except OSError:
        sock.close()
        raise
    return sock


def introduce(connection: StreamConnection, name: bytes, secret: bytes) -> None:
    """Say who this is; the first message of whoever has dialled."""
    connection.send([name, secret])
    connection.flush()
