"""Record batches whose bytes tell which they are."""

from __future__ import annotations

from functools import cache

from kbroker.records.batch import HEADER, HEADER_BYTES, LENGTH_END, Header, read_header, write_crc


def make_batch(base_offset: int, count: int, size_bytes: int = 100) -> bytes:
    """A batch of `count` records, `size_bytes` in all after the header; its body is made of its base offset.

    The body is no record that could be decoded: the log does not look.
    """
    body = _body(base_offset, size_bytes)
    header = HEADER.pack(
        base_offset, HEADER_BYTES - LENGTH_END + len(body), -1, 2, 0, 0, count - 1, 0, 0, -1, -1, -1, count
    )
    data = bytearray(header + body)
    write_crc(data, 0, len(data))
    return bytes(data)


@cache
def _body(base_offset: int, size_bytes: int) -> bytes:
    mark = base_offset.to_bytes(8, "big")
    return (mark * (size_bytes // 8 + 1))[:size_bytes]


def check_batches(data: bytes | memoryview, offset: int) -> int:
    """Assert that `data` is whole batches as made above, in order from the one that has `offset`; the next offset."""
    position = 0
    while position < len(data):
        header: Header = read_header(data, position)
        end = position + header.size_bytes
        assert end <= len(data), "half a batch"
        assert header.base_offset <= offset < header.next_offset, f"offset {offset} was to come, not {header}"
        body = data[position + HEADER_BYTES : end]
        assert body == _body(header.base_offset, len(body)), f"the batch at offset {header.base_offset} is torn"
        offset = header.next_offset
        position = end
    return offset
