"""Kafka's plain field types, as its records in `__consumer_offsets` and the "consumer" protocol use them.

    string  int16 length, UTF-8; length -1 is null
    bytes   int32 length, bytes; length -1 is null
    array   int32 count, items

All numbers are big-endian.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

INT16: Final = Struct(">h")
INT32: Final = Struct(">i")
INT64: Final = Struct(">q")
TEXT_BYTES_MAX: Final = 2**15 - 1


class MalformedFields(ValueError):
    """The bytes end too early, or hold a length or a text that cannot be."""


def text(value: str) -> bytes:
    """A string's field. It must not be longer than TEXT_BYTES_MAX."""
    data = value.encode()
    return INT16.pack(len(data)) + data


def nullable_text(value: str | None) -> bytes:
    """A string's field, or null."""
    return INT16.pack(-1) if value is None else text(value)


def blob(value: bytes) -> bytes:
    """A field of bytes."""
    return INT32.pack(len(value)) + value


def nullable_blob(value: bytes | None) -> bytes:
    """A field of bytes, or null."""
    return INT32.pack(-1) if value is None else blob(value)


class FieldReader:
    """Reads one field after the other; MalformedFields when they are not there."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def int16(self) -> int:
        return self._number(INT16)

    def int32(self) -> int:
        return self._number(INT32)

    def int64(self) -> int:
        return self._number(INT64)

    def text(self) -> str:
        value = self.nullable_text()
        if value is None:
            raise MalformedFields(f"null for a string that must be there, before byte {self._position}")
        return value

    def nullable_text(self) -> str | None:
        data = self._take(self.int16())
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError as error:
            raise MalformedFields(f"a string is not UTF-8, before byte {self._position}") from error

    def blob(self) -> bytes:
        """Bytes; null reads as empty."""
        return self.nullable_blob() or b""

    def nullable_blob(self) -> bytes | None:
        return self._take(self.int32())

    def count(self, item_bytes_least: int) -> int:
        """An array's count, checked against what is left: an item has at least so many bytes."""
        count = self.int32()
        if count < 0 or count * item_bytes_least > len(self._data) - self._position:
            raise MalformedFields(f"a count of {count} does not fit, before byte {self._position}")
        return count

    def _take(self, size_bytes: int) -> bytes | None:
        if size_bytes == -1:
            return None
        end = self._position + size_bytes
        if size_bytes < 0 or end > len(self._data):
            raise MalformedFields(f"a length of {size_bytes} does not fit, before byte {self._position}")
        start, self._position = self._position, end
        return self._data[start:end]

    def _number(self, kind: Struct) -> int:
        end = self._position + kind.size
        if end > len(self._data):
            raise MalformedFields(f"the bytes end at {len(self._data)}, a number should follow {self._position}")
        (value,) = kind.unpack_from(self._data, self._position)
        self._position = end
        return int(value)
