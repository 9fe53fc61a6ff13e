"""What a read answers: a stretch of whole batches in one segment file, not yet read."""

from __future__ import annotations

from pathlib import Path

from kbroker.errors import StorageError
from kbroker.log.storage import File, Storage


class LogSlice:
    """Whole batches in a file: `size_bytes` from `position`; empty when there is nothing to read yet.

    The slice holds the file open, whatever retention does meanwhile. `base_offset` is the first batch's (it may be
    below the offset asked for), `next_offset` where to read on; `segment_bytes` is where the file's batches end.
    `cold`: the bytes are probably not in the page cache, so a read may block.
    """

    __slots__ = (
        "_storage",
        "base_offset",
        "cold",
        "file",
        "high_watermark",
        "log_start_offset",
        "next_offset",
        "position",
        "segment_base",
        "segment_bytes",
        "size_bytes",
    )

    def __init__(
        self,
        storage: Storage,
        file: File,
        segment_base: int,
        segment_bytes: int,
        position: int,
        size_bytes: int,
        base_offset: int,
        next_offset: int,
        high_watermark: int,
        log_start_offset: int,
        cold: bool,
    ) -> None:
        self._storage = storage
        self.file = file
        self.segment_base = segment_base
        self.segment_bytes = segment_bytes
        self.position = position
        self.size_bytes = size_bytes
        self.base_offset = base_offset
        self.next_offset = next_offset
        self.high_watermark = high_watermark
        self.log_start_offset = log_start_offset
        self.cold = cold

    @property
    def fd(self) -> int:
        """For os.sendfile and os.pread; valid while the slice is held. It is the log's own: never hand it out."""
        return self.file.fd

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
