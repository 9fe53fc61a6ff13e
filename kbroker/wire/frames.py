"""ZeroMQ messages, frame by frame, for both ends.

pyzmq's own send_multipart and recv_multipart, and its flags (enums that are joined and masked anew in each call), take
13 µs for a message of four frames there and back; these take 4. The layer that pyzmq's Socket puts around the compiled
`send` serves socket types that we do not use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import zmq

_send_frame: Final[Any] = zmq.backend.Socket.send  # which says of zmq.Frame that it is another class
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)

Frames = Sequence[bytes | bytearray | memoryview | zmq.Frame]


def receivable(socket: zmq.Socket[Any]) -> bool:
    """Whether a message waits. False for a closed socket."""
    return not socket.closed and bool(socket.getsockopt(_EVENTS) & _POLLIN)  # type: ignore[operator]  # an int


def receive(socket: zmq.Socket[Any]) -> list[zmq.Frame]:
    """The next message, not copied. Raises zmq.Again when there is none."""
    recv = socket.recv
    frame = recv(_NOBLOCK, False)
    frames = [frame]
    while frame.more:
        frame = recv(_NOBLOCK, False)
        frames.append(frame)
    return frames


def send(socket: zmq.Socket[Any], frames: Frames, share_from_bytes: int) -> None:
    """Send a message without waiting; frames of that size and above are shared with ZeroMQ, the others copied.

    Raises zmq.Again when the queue is full, ZMQError: the whole message is sent, or nothing of it.
    """
    last = len(frames) - 1
    for number, frame in enumerate(frames):
        _send_frame(socket, frame, _MORE if number < last else _NOBLOCK, len(frame) < share_from_bytes)
