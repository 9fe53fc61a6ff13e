"""Record batches whose bytes tell which they are."""

from __future__ import annotations

from functools import cache

from kbroker.records.batch import HEADER, HEADER_BYTES, LENGTH_END, Header, read_header, write_crc


def make_batch(base_offset: int, count: int, size_bytes: int = 100) -> bytes:
    """A batch of `count` records, `size_bytes` in all after the header; its first record is made of its base offset."""
    body = _body(base_offset, count, size_bytes)
    header = HEADER.pack(
        base_offset, HEADER_BYTES - LENGTH_END + len(body), -1, 2, 0, 0, count - 1, 0, 0, -1, -1, -1, count
    )
    data = bytearray(header + body)
    write_crc(data, 0, len(data))
    return bytes(data)


@cache
def _body(base_offset: int, count: int, size_bytes: int) -> bytes:
    others = b"".join(_record(number, b"", b"") for number in range(1, count))
    room = size_bytes - len(others)
    mark = base_offset.to_bytes(8, "big") * (room // 8 + 1)
    for key_bytes in range(3):  # lengths are of one to three bytes themselves: not every size has one way only
        for value_bytes in range(max(0, room - 16), room):
            first = _record(0, mark[:key_bytes], mark[:value_bytes])
            if len(first) == room:
                return first + others
    raise AssertionError(f"no {count} records have {size_bytes} bytes")


def _record(number: int, key: bytes, value: bytes) -> bytes:
    body = b"\0\0" + _varint(number) + _varint(len(key)) + key + _varint(len(value)) + value + b"\0"
    return _varint(len(body)) + body


def _varint(number: int) -> bytes:
    number <<= 1  # zigzag of a number that is not negative
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*encoded, number))


def check_batches(data: bytes | memoryview, offset: int) -> int:
    """Assert that `data` is whole batches as made above, in order from the one that has `offset`; the next offset."""
    position = 0
    while position < len(data):
        header: Header = read_header(data, position)
        end = position + header.size_bytes
        assert end <= len(data), "half a batch"
        assert header.base_offset <= offset < header.next_offset, f"offset {offset} was to come, not {header}"
        body = data[position + HEADER_BYTES : end]
        made = _body(header.base_offset, header.record_count, len(body))
        assert body == made, f"the batch at offset {header.base_offset} is torn"
        offset = header.next_offset
        position = end
    return offset
