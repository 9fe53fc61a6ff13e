"""The channel between the supervisor and one child: msgpack messages over a SOCK_SEQPACKET pair.

Neither side ever blocks on it. What does not fit into the socket's buffer waits in a table with one place for each
subject, where a newer message takes the place of an older one: the table of peers, a reload, the memory under one key.
So the memory that a slow peer costs is bounded.

    supervisor → child   ["ping", number]   ["peers", {name: [incarnation, pid, ready]}]
                         ["reload", {setting: text}]   ["drain"]
    child → supervisor   ["pong", number, facts]   ["ready", text, facts]   ["refused", text]
                         ["remember", key, text]   ["forget", key]
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import msgpack

from kbroker.workers.loop import READ, WRITE, Loop

MESSAGE_BYTES_MAX = 64 << 10
_MESSAGES_PER_TURN_MAX = 64

Message = list[Any]


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """The supervisor's end and the child's end; close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """One end. `closed` is set once the other end is gone."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._waiting: dict[str, bytes] = {}
        self._loop: Loop | None = None
        self.closed = False

    def send(self, subject: str, message: Message) -> None:
        """Send now, or keep it until there is room; it then replaces what waits under the same `subject`.

        Does nothing when the other end is gone. Raises ValueError for a message over MESSAGE_BYTES_MAX.
        """
        packed: bytes = msgpack.packb(message)
        if len(packed) > MESSAGE_BYTES_MAX:
            raise ValueError(f"a message of {len(packed)} bytes about {subject!r}; at most {MESSAGE_BYTES_MAX} go")
        self._waiting.pop(subject, None)
        self._waiting[subject] = packed
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        for subject in list(self._waiting):
            try:
                self._socket.send(self._waiting[subject])
            except BlockingIOError:
                break
            except OSError:
                self.closed = True
                self._waiting.clear()
                break
            del self._waiting[subject]
        if self._loop is not None:
            self._loop.modify(self._socket.fileno(), READ | WRITE if self._waiting else READ)

    def receive(self) -> list[Message]:
        """What has come, at most a turn's worth. Sets `closed` at the end. Skips what is not a message of ours."""
        messages: list[Message] = []
        for _ in range(_MESSAGES_PER_TURN_MAX):
            try:
                packed = self._socket.recv(MESSAGE_BYTES_MAX)
            except BlockingIOError:
                break
            except OSError:
                packed = b""
            if not packed:
                self.closed = True
                break
            message = _unpack(packed)
            if message is not None:
                messages.append(message)
        return messages

    def watch(self, loop: Loop, on_traffic: Callable[[], None]) -> None:
        """Call `on_traffic` when messages, or the end, have come; it calls `receive`."""

        def ready(events: int) -> None:
            if events & WRITE:
                self.flush()
            if events & ~WRITE:
                on_traffic()

        loop.add(self._socket.fileno(), READ, ready)
        self._loop = loop
        self.flush()

    def close(self) -> None:
        """Leave the loop and close this end."""
        if self._loop is not None:
            self._loop.remove(self._socket.fileno())
            self._loop = None
        self.closed = True
        self._waiting.clear()
        self._socket.close()

    @property
    def fd(self) -> int:
        """This end's descriptor."""
        return self._socket.fileno()


def _unpack(packed: bytes) -> Message | None:
    try:
        message = msgpack.unpackb(packed)
    except Exception:  # msgpack raises many kinds; all mean the same
        return None
    if not isinstance(message, list) or not message or not isinstance(message[0], str):
        return None
    return message
