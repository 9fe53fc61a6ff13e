"""Bytes to records."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbroker.cli.lines import CHUNK_BYTES, split_key, split_lines


class Trickle:
    """Answers each read with the next piece, as a pipe does."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]

    def read(self, _size: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


def lines_of(*pieces: bytes) -> list[bytes]:
    return [line for lines in split_lines(Trickle(list(pieces)).read) for line in lines]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a\n\nb", [b"a", b"", b"b"]),
        (b"a\r\n\x00\xff\x85\x0b\n", [b"a\r", b"\x00\xff\x85\x0b"]),
        (b"no newline", [b"no newline"]),
    ],
)
def test_only_a_newline_separates(text: bytes, lines: list[bytes]) -> None:
    assert lines_of(text) == lines


@given(st.lists(st.binary(max_size=8).map(lambda piece: piece.replace(b"x", b"\n"))))
def test_how_the_bytes_come_in_does_not_matter(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert lines_of(*pieces) == (whole.removesuffix(b"\n").split(b"\n") if whole else [])


def test_a_line_may_be_longer_than_a_chunk() -> None:
    line = b"a" * (3 * CHUNK_BYTES + 1)
    assert [len(piece) for lines in split_lines(io.BytesIO(line + b"\nb\n").read) for piece in lines] == [len(line), 1]


def test_a_line_without_a_separator_has_no_key() -> None:
    assert split_key(b"k\tv\tw", b"\t") == (b"k", b"v\tw")
    assert split_key(b"\tv", b"\t") == (b"", b"v")
    assert split_key(b"v", b"\t") == (None, b"v")
