"""Kafka's field types in flexible versions, as the values of a consumer group's records use them.

count           unsigned varint, plus 1; 0 is null
string, bytes   count, UTF-8 or bytes
array           count, items
tagged fields   unsigned varint how many, then each: unsigned varint tag · unsigned varint size · bytes
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from kbroker.groups.fields import FieldReader, MalformedFields

Item = TypeVar("Item")

UUID_BYTES = 16
NO_TAGS = b"\x00"
_VARINT_BYTES_MAX = 5


def varint(value: int) -> bytes:
    """An unsigned varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def compact_text(value: str | None) -> bytes:
    """A string's field, or null."""
    return compact_blob(None if value is None else value.encode())


def compact_blob(value: bytes | None) -> bytes:
    """A field of bytes, or null."""
    return NO_TAGS if value is None else varint(len(value) + 1) + value


def compact_array(items: Iterable[bytes]) -> bytes:
    """An array of items that are encoded already."""
    encoded = list(items)
    return varint(len(encoded) + 1) + b"".join(encoded)


def tags(fields: Mapping[int, bytes]) -> bytes:
    """Tagged fields by tag."""
    pieces = [varint(len(fields))]
    for tag, value in sorted(fields.items()):
        pieces += [varint(tag), varint(len(value)), value]
    return b"".join(pieces)


class FlexibleReader(FieldReader):
    """Reads one field after the other; MalformedFields when they are not there."""

    def int8(self) -> int:
        return int.from_bytes(self._bytes(1), signed=True)

    def uuid(self) -> bytes:
        return self._bytes(UUID_BYTES)

    def varint(self) -> int:
        value = 0
        for i in range(_VARINT_BYTES_MAX):
            byte = self._bytes(1)[0]
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                return value
        raise MalformedFields("a varint has more than 5 bytes")

    def compact_text(self) -> str | None:
        data = self.compact_blob()
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError as error:
            raise MalformedFields("a string is not UTF-8") from error

    def compact_blob(self) -> bytes | None:
        size_bytes = self.varint() - 1
        return None if size_bytes < 0 else self._bytes(size_bytes)

    def compact_array(self, read_item: Callable[[], Item]) -> list[Item]:
        """Null reads as empty. A count that cannot be ends with the bytes: nothing is allocated for it before."""
        return [read_item() for _ in range(self.varint() - 1)]

    def tags(self) -> dict[int, bytes]:
        """Tagged fields by tag; the caller picks those that it knows."""
        return {self.varint(): self._bytes(self.varint()) for _ in range(self.varint())}

    def _bytes(self, size_bytes: int) -> bytes:
        data = self._take(size_bytes)
        if data is None:
            raise MalformedFields("null for bytes that must be there")
        return data
