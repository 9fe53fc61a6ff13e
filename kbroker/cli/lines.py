"""Bytes to records: only `\\n` separates, a last line without one counts, everything else passes untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator

CHUNK_BYTES = 1 << 20


def split_lines(read: Callable[[int], bytes]) -> Iterator[list[bytes]]:
    """The lines that `read(size)` yields, in lists as they come in; `read` answers b"" at the end."""
    rest: list[bytes] = []
    while chunk := read(CHUNK_BYTES):
        pieces = chunk.split(b"\n")
        if len(pieces) == 1:
            rest.append(chunk)  # a line longer than a chunk: joined once, at its end
            continue
        pieces[0] = b"".join([*rest, pieces[0]])
        last = pieces.pop()
        rest = [last] if last else []
        yield pieces
    if rest:
        yield [b"".join(rest)]


def split_key(line: bytes, separator: bytes) -> tuple[bytes | None, bytes]:
    """Key and value of a line `KEY<separator>VALUE`; without a separator there is no key."""
    key, found, value = line.partition(separator)
    return (key, value) if found else (None, line)
