"""What a read answers: a stretch of whole batches in one segment file, not yet read."""

from __future__ import annotations

from pathlib import Path

from kbroker.errors import StorageError
from kbroker.log.storage import File, Storage


class LogSlice:
    """Whole batches in a file: `size_bytes` from `position`; empty when there is nothing to read yet.

    The slice holds the file open, whatever retention does meanwhile. `file` is the log's own: never hand its descriptor
    out. `base_offset` is the first batch's (it may be below the offset asked for), `next_offset` where to read on;
    `segment_bytes` is where the file's batches end. `cold`: the bytes are probably not in the page cache, so a read may
    block.
    """

    __slots__ = (
        "_storage",
        "base_offset",
        "cold",
        "file",
        "next_offset",
        "position",
        "segment_bytes",
        "size_bytes",
    )

    def __init__(
        self,
        storage: Storage,
        file: File,
        segment_bytes: int,
        position: int,
        size_bytes: int,
        base_offset: int,
        next_offset: int,
        cold: bool,
    ) -> None:
        self._storage = storage
        self.file = file
        self.segment_bytes = segment_bytes
        self.position = position
        self.size_bytes = size_bytes
        self.base_offset = base_offset
        self.next_offset = next_offset
        self.cold = cold

    @property
    def path(self) -> Path:
        return self.file.path

    def read(self) -> bytes:
        """The batches' bytes. Raises StorageError."""
        if not self.size_bytes:
            return b""
        try:
            data = self._storage.pread_all(self.file, self.size_bytes, self.position)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot read at {self.position}: {error}") from error
        if len(data) != self.size_bytes:
            raise StorageError(f"{self.path}: ends {self.size_bytes - len(data)} bytes too early")
        return data
