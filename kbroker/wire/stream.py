"""The native protocol's messages on a byte stream (a unix socket): the same frames as over ZeroMQ, with their sizes.

    size uint32 · frame count uint32 · size of each frame uint32 · the frames, back to back

`size` counts what follows it. All integers are big-endian. A client's message is `[request id][header][payload …]`.
An answer whose request id is empty belongs to no request: it says why the broker hangs up.

    framer.receive(data)                              # what a recv() gave
    while (frames := framer.next_message()):          # None: more bytes are needed
        ...

No allocation precedes a check, and the buffer of a message that comes in pieces grows with what has come, not with what
was announced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final, NoReturn

from kbroker.errors import InvalidRequest, MessageTooLarge

_SIZE: Final = Struct(">I")
_COUNT: Final = Struct(">I")
_FIRST_BUFFER_BYTES: Final = 256 * 1024
_GROWTH: Final = 4
_NOTHING: Final = memoryview(b"")


@dataclass(frozen=True, slots=True)
class MessageLimits:
    """The largest message that is taken: bytes of all its payload frames together, bytes of all others, frames in all.

    The first two are not held apart here: their sum bounds the message.
    """

    payload_bytes: int
    other_bytes: int
    frames: int

    @property
    def message_bytes(self) -> int:
        """What a message may say as its size."""
        return self.payload_bytes + self.other_bytes + _COUNT.size + _SIZE.size * self.frames


ANSWER_LIMITS: Final = MessageLimits(payload_bytes=(1 << 31) - 1, other_bytes=64 << 20, frames=1 << 20)
"""What is taken from a process of the broker: one batch may be as large as that."""


@lru_cache(maxsize=64)
def _head(count: int) -> Struct:
    return Struct(f">II{count}I")


@lru_cache(maxsize=64)
def _sizes(count: int) -> Struct:
    return Struct(f">{count}I")


def head(frames: Sequence[bytes | bytearray | memoryview]) -> bytes:
    """What stands before the frames of one message."""
    sizes = [*map(len, frames)]
    count = len(sizes)
    return _head(count).pack(_COUNT.size + _SIZE.size * count + sum(sizes), count, *sizes)


class MessageFramer:
    """One connection's incoming bytes. Pure: it is given bytes and asked for messages.

    `allocate` makes the buffer of a message that comes in pieces: at least so many bytes, of any content.
    After an error the stream cannot be read on: the connection is to be closed.
    """

    __slots__ = (
        "_allocate", "_data", "_filled", "_frames_max", "_limits", "_own", "_position", "_size_max", "_wanted",
        "buffered_bytes",
    )  # fmt: skip

    def __init__(self, limits: MessageLimits, allocate: Callable[[int], bytearray] = bytearray) -> None:
        self.accept(limits)
        self._allocate = allocate
        self._data = _NOTHING
        self._position = 0
        self._own: bytearray | None = None  # a message that comes in pieces, its size included
        self._filled = 0
        self._wanted = 0  # the whole of it; _SIZE.size while its size is not known
        self.buffered_bytes = 0
        """What an unfinished message holds in memory."""

    def accept(self, limits: MessageLimits) -> None:
        """Takes messages up to these limits from now on."""
        self._limits = limits
        self._size_max = limits.message_bytes
        self._frames_max = limits.frames

    def receive(self, data: memoryview) -> None:
        """Takes what came from the peer. Call next_message() until it gives None before `data`'s buffer is reused: then
        what was not used has been copied, and only the messages still look into it."""
        assert self._position == len(self._data), "next_message() has more to give"
        self._data = data
        self._position = 0

    def hold(self) -> None:
        """Copies what next_message() has not yet used, for a caller that stops asking and reuses its buffer."""
        if self._position < len(self._data):
            self._data = memoryview(bytes(self._data[self._position :]))
            self._position = 0

    def room(self) -> memoryview | None:
        """Where the next bytes of an unfinished message belong, so that a recv_into() saves a copy: say how many came
        with `filled`. None: nothing is unfinished, or its size is not known yet; use `receive`."""
        if self._own is None or self._wanted == _SIZE.size:
            return None
        self._reserve(self._filled + 1)
        return memoryview(self._own)[self._filled : self._wanted]

    def filled(self, received_bytes: int) -> None:
        """So many bytes were put at the beginning of `room()`."""
        self._filled += received_bytes

    def next_message(self) -> list[memoryview] | None:
        """The frames of the next whole message, or None: more bytes are needed.

        They are views into what `receive` was given, or into a buffer of their own when the message came in pieces.
        Raises MessageTooLarge, InvalidRequest; both say what came.
        """
        if self._own is None:
            start, data = self._position, self._data
            have = len(data) - start
            if have < _SIZE.size:
                if have:
                    self._begin(_SIZE.size)
                else:
                    self._use_up()
                return None
            size = _SIZE.unpack_from(data, start)[0]
            if not _COUNT.size <= size <= self._size_max:
                self._refuse_size(size, data, start)
            if _SIZE.size + size > have:
                self._begin(_SIZE.size + size)
                return None
            start += _SIZE.size
            self._position = end = start + size
        else:
            whole = self._finish_pieces()
            if whole is None:
                return None
            data, start, end = whole, _SIZE.size, self._wanted
        # Here, not in a function of its own: on caches that are cold each one that a request passes through costs 1 µs.
        count = _COUNT.unpack_from(data, start)[0]
        position = start + _COUNT.size + _SIZE.size * count
        if count > self._frames_max or position > end:
            self._refuse_count(count, end - start)
        frames = []
        for size in _sizes(count).unpack_from(data, start + _COUNT.size):
            following = position + size
            frames.append(data[position:following])
            position = following
        if position != end:
            raise InvalidRequest(f"the frames of a message are {position - start} bytes, and it says {end - start}")
        return frames

    def _use_up(self) -> None:
        """All of `data` is used: an idle connection keeps no buffer alive."""
        self._data = _NOTHING
        self._position = 0

    # --- a message in pieces ---

    def _begin(self, wanted: int) -> None:
        rest = self._data[self._position :]
        self._own = self._allocate(min(wanted, max(_GROWTH * len(rest), _FIRST_BUFFER_BYTES)))
        self.buffered_bytes = len(self._own)
        self._own[: len(rest)] = rest
        self._filled = len(rest)
        self._wanted = wanted
        self._use_up()

    def _finish_pieces(self) -> memoryview | None:
        """The buffer of a message that is whole now."""
        assert self._own is not None
        self._take()
        if self._filled == self._wanted == _SIZE.size:
            size = _SIZE.unpack_from(self._own)[0]
            if not _COUNT.size <= size <= self._size_max:
                self._refuse_size(size, self._own, 0)
            self._wanted += size
            self._take()
        if self._filled < self._wanted:
            return None
        whole = memoryview(self._own)
        self._own = None
        self.buffered_bytes = 0
        return whole

    def _take(self) -> None:
        """Moves bytes from `data` until the message has what it wants, or `data` is used up."""
        more = min(self._wanted - self._filled, len(self._data) - self._position)
        if more > 0:
            self._reserve(self._filled + more)
            assert self._own is not None
            self._own[self._filled : self._filled + more] = self._data[self._position : self._position + more]
            self._filled += more
            self._position += more
        if self._position == len(self._data):
            self._use_up()

    def _reserve(self, used: int) -> None:
        """Makes the message's buffer hold `used` bytes. A new one each time: a view of the old one may still be out."""
        assert self._own is not None
        if used <= len(self._own):
            return
        grown = self._allocate(min(self._wanted, max(_GROWTH * used, _FIRST_BUFFER_BYTES)))
        grown[: self._filled] = memoryview(self._own)[: self._filled]
        self._own = grown
        self.buffered_bytes = len(grown)

    # --- checks ---

    def _refuse_size(self, size: int, data: memoryview | bytearray, start: int) -> NoReturn:
        if size < _COUNT.size:
            raise InvalidRequest(f"a message of {size} bytes cannot be: the smallest has {_COUNT.size}")
        begin = bytes(data[start : start + 16])
        raise MessageTooLarge(
            f"a message of {size} bytes is too large: at most {self._limits.payload_bytes} bytes of payload "
            f"(native.frame.bytes.max) are taken; it began with {begin!r}"
        )

    def _refuse_count(self, count: int, size: int) -> NoReturn:
        if count > self._frames_max:
            raise MessageTooLarge(
                f"{count} frames in a message are more than the {self._frames_max} that native.frames.max allows"
            )
        raise InvalidRequest(f"a message of {size} bytes cannot have {count} frames")
