"""Whole batches out of one segment file, in the reader's process.

The hot end of a growing segment is read through a mapping; everything else, and everything on kernels that cannot
report a page that is not to be had, through pread(2). Both copy into memory of our own, which is used again when
nobody refers to it any more: nothing points into the mapping after a call.
"""

from __future__ import annotations

import contextlib
import functools
import os
from struct import Struct
from typing import Final

from kbroker.errors import StorageError
from kbroker.records.batch import HEADER_BYTES, LENGTH_END, LENGTH_POSITION, Header, read_header
from kbroker.shm.buffers import Buffers
from kbroker.shm.mapping import Mapping, can_populate

MAPPING_BYTES: Final = 1 << 31
"""Address space for one growing segment: a position never passes 2³¹ - 1."""
HOT_BYTES: Final = 64 << 20
"""What is published less than this ago is taken to be in the page cache."""
MAPPED_BYTES_MIN: Final = 32 << 10
"""Fewer bytes cost less by pread: at the end of a growing file nearly every page is a new one, and must be mapped."""

_length = Struct(">i").unpack_from
_populates = functools.cache(can_populate)


class SegmentFile:
    """A segment's descriptor, taken over from the caller, and its mapping once one is of use.

    `name` is for errors: partition and base offset. `mapped` False: never map.
    """

    __slots__ = ("_buffers", "_mapping", "fd", "mapped", "name")

    def __init__(self, fd: int, name: str, *, mapped: bool = True, buffers: Buffers | None = None) -> None:
        self.fd = fd
        self.name = name
        self.mapped = mapped and _populates()
        self._mapping: Mapping | None = None
        self._buffers = buffers or Buffers()

    def read(self, position: int, end: int, max_bytes: int, *, hot: bool) -> tuple[memoryview, Header | None]:
        """Whole batches from `position`, where one starts, before `end`: at most `max_bytes`, but one at least.

        `end` is published, and a batch ends there. `hot`: probably in the page cache. Returns the bytes and the last
        batch's header, or None for it when the bytes reach `end`. Raises StorageError.
        """
        size_bytes = min(end - position, max(max_bytes, HEADER_BYTES))
        whole = size_bytes == end - position
        if hot and self.mapped and size_bytes >= MAPPED_BYTES_MIN:
            mapping = self._mapping or self._map()
            if mapping is not None and mapping.populate(position, size_bytes):
                if whole:
                    return self._copy(mapping, position, size_bytes), None
                stop, last = self._cut(mapping.view, position, position, position + size_bytes, end)
                if stop <= position + size_bytes:
                    return self._copy(mapping, position, stop - position), read_header(mapping.view, last)
                return self.read(position, end, stop - position, hot=hot)
        if size_bytes < MAPPED_BYTES_MIN:
            data = memoryview(self.pread(position, size_bytes))  # so little is not worth keeping memory for
        else:
            data = memoryview(self._buffers.take(size_bytes))[:size_bytes]
            self._pread_into(data, position)
            data = data.toreadonly()
        if whole:
            return data, None
        stop, last = self._cut(data, 0, position, size_bytes, end - position)
        if stop > size_bytes:
            return self.read(position, end, stop, hot=hot)
        return data[:stop], read_header(data, last)

    def size_bytes(self) -> int:
        """The file's size. Raises StorageError."""
        try:
            return os.fstat(self.fd).st_size
        except OSError as error:
            raise StorageError(f"{self.name}: {error}") from error

    def _cut(self, view: memoryview, start: int, position: int, limit: int, end: int) -> tuple[int, int]:
        """Where the last batch that ends by `limit` ends and starts; when the first is longer, where that one ends."""
        at = last = start
        while at + LENGTH_END <= limit:
            (length,) = _length(view, at + LENGTH_POSITION)
            stop = at + LENGTH_END + length
            if length < HEADER_BYTES - LENGTH_END or stop > end:
                raise self.damaged(position + at - start)
            if stop > limit:
                if at == start:
                    return stop, start
                break
            last, at = at, stop
        return at, last

    def damaged(self, position: int) -> StorageError:
        """The error for what is no batch."""
        return StorageError(f"{self.name}: no valid batch at position {position}")

    def _copy(self, mapping: Mapping, position: int, size_bytes: int) -> memoryview:
        """A stretch that was populated just before."""
        data = memoryview(self._buffers.take(size_bytes))[:size_bytes]
        data[:] = mapping.view[position : position + size_bytes]
        return data.toreadonly()

    def _map(self) -> Mapping | None:
        try:
            self._mapping = Mapping(self.fd, MAPPING_BYTES)
        except OSError:  # no address space: a limit on it, or thousands of partitions
            self.mapped = False
        return self._mapping

    def pread(self, position: int, size_bytes: int) -> bytes:
        """Exactly so many bytes. Raises StorageError: the disk failed, or the file is shorter."""
        try:
            data = os.pread(self.fd, size_bytes, position)
        except OSError as error:
            raise self._unreadable(position, size_bytes, error) from error
        if len(data) < size_bytes:
            rest = bytearray(size_bytes - len(data))
            self._pread_into(memoryview(rest), position + len(data))
            data += rest
        return data

    def _pread_into(self, data: memoryview, position: int) -> None:
        got = 0
        try:
            while got < len(data):
                more = os.preadv(self.fd, [data[got:]], position + got)
                if not more:
                    raise StorageError(
                        f"{self.name}: the file ends at {position + got}; it was published up to "
                        f"{position + len(data)} at least"
                    )
                got += more
        except OSError as error:
            raise self._unreadable(position, len(data), error) from error

    def _unreadable(self, position: int, size_bytes: int, error: OSError) -> StorageError:
        return StorageError(f"{self.name}: cannot read positions {position} to {position + size_bytes}: {error}")

    def close(self) -> None:
        """Unmap and close. A second call does nothing."""
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self.close()


def last_header(batches: memoryview) -> Header:
    """The header of the last of whole batches."""
    position = 0
    while True:
        following = position + LENGTH_END + _length(batches, position + LENGTH_POSITION)[0]
        if following >= len(batches):
            return read_header(batches, position)
        position = following
