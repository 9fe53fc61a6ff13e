"""What is appended goes to the disk steadily, 2 MiB at a time, long before a sync asks for it.

Left to itself the kernel writes in waves, and so does a sync of 64 MiB: whoever syncs 200 bytes on that disk meanwhile
waits behind the wave, by the disk's queue and by the file system's journal (p99 3 to 6 ms in place of 0.5; with this
1 ms, at the same throughput and CPU). The sync that follows finds little left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from kbroker.log.flush import failure_mark
from kbroker.log.storage import File, Storage

STEP_BYTES: Final = 2 << 20
"""So much is started at once. Of 4 MiB the disk's queue is long again; of 1 MiB the hand-overs to threads cost a tenth
of what an append costs."""


class WriteBack(NamedTuple):
    """A stretch of a segment that the kernel shall begin to write."""

    storage: Storage
    folder: Path
    file: File
    position: int
    size_bytes: int

    def run(self) -> None:
        """In an I/O thread. Raises OSError: then nothing may be taken to be on the disk, as after a failed flush."""
        with failure_mark(self.storage, self.folder):
            self.storage.start_writing(self.file, self.position, self.size_bytes)
