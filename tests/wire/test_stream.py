"""Messages on a byte stream: any split gives the same frames, and a limit holds before anything is kept."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.errors import InvalidRequest, MessageTooLarge
from kbroker.wire.stream import MessageFramer, MessageLimits, head

LIMITS = MessageLimits(payload_bytes=1 << 20, other_bytes=1 << 10, frames=8)
messages = st.lists(st.lists(st.binary(max_size=200), max_size=LIMITS.frames), min_size=1, max_size=6)


def on_the_wire(message: list[bytes]) -> bytes:
    return head(message) + b"".join(message)


def taken(framer: MessageFramer) -> list[list[bytes]]:
    found = []
    while (frames := framer.next_message()) is not None:
        found.append([bytes(frame) for frame in frames])
    return found


def fed(pieces: list[bytes], direct: bool = False) -> list[list[bytes]]:
    """What a connection does: one buffer for all that comes, used again and again, or the framer's own."""
    framer = MessageFramer(LIMITS)
    buffer = bytearray(1 << 16)
    found = []
    for piece in pieces:
        while piece:
            room = framer.room() if direct else None
            if room is not None:
                count = min(len(room), len(piece))
                room[:count] = piece[:count]
                framer.filled(count)
            else:
                count = len(piece)
                buffer[:count] = piece
                framer.receive(memoryview(buffer)[:count])
            piece = piece[count:]
            found += taken(framer)
            buffer[:] = bytes(len(buffer))
    assert framer.buffered_bytes == 0
    return found


@given(sent=messages, cuts=st.lists(st.integers(0, 5000), max_size=30), direct=st.booleans())
def test_any_split_of_the_stream_gives_the_messages(sent: list[list[bytes]], cuts: list[int], direct: bool) -> None:
    stream = b"".join(map(on_the_wire, sent))
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert fed(pieces, direct) == sent


@given(sent=messages)
def test_byte_by_byte(sent: list[list[bytes]]) -> None:
    stream = b"".join(map(on_the_wire, sent))
    assert fed([stream[i : i + 1] for i in range(len(stream))]) == sent


@given(noise=st.binary(min_size=4, max_size=300), cut=st.integers(0, 300))
def test_noise_is_refused_or_waited_for(noise: bytes, cut: int) -> None:
    framer = MessageFramer(LIMITS)
    for piece in (noise[:cut], noise[cut:]):
        try:
            framer.receive(memoryview(piece))
            taken(framer)
        except (InvalidRequest, MessageTooLarge):
            return
    assert framer.buffered_bytes <= LIMITS.message_bytes


def test_what_is_held_back_is_given_later() -> None:
    framer = MessageFramer(LIMITS)
    buffer = bytearray(on_the_wire([b"one"]) + on_the_wire([b"two", b"x"]))
    framer.receive(memoryview(buffer))
    assert [bytes(frame) for frame in framer.next_message() or ()] == [b"one"]
    framer.hold()
    buffer[:] = bytes(len(buffer))
    assert taken(framer) == [[b"two", b"x"]]


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"GET / HTTP/1.1\r\n", MessageTooLarge, r"GET / HTTP.*|native\.frame\.bytes\.max"),
        (b"\xff\xff\xff\xff", MessageTooLarge, r"4294967295 bytes is too large"),
        (b"\0\0\0\3", InvalidRequest, "cannot be"),
        (b"\0\0\0\4\0\0\0\x09", MessageTooLarge, r"9 frames .*native\.frames\.max"),
        (b"\0\0\0\4\0\0\0\1", InvalidRequest, "cannot have 1 frames"),
        (b"\0\0\0\x09\0\0\0\1\0\0\0\7x", InvalidRequest, "15 bytes, and it says 9"),
        (b"\0\0\0\x09\0\0\0\1\0\0\0\0x", InvalidRequest, "8 bytes, and it says 9"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_what_cannot_be_is_named(data: bytes, error: type[Exception], words: str, step: int) -> None:
    with pytest.raises(error, match=words):
        fed([data[start : start + step] for start in range(0, len(data), step)])


def test_memory_grows_with_what_has_come() -> None:
    framer = MessageFramer(MessageLimits(payload_bytes=1 << 30, other_bytes=1 << 10, frames=8))
    framer.receive(memoryview((1 << 29).to_bytes(4, "big") + bytes(100_000)))
    assert taken(framer) == []
    assert framer.buffered_bytes <= 4 * 100_004
