"""The control page: one 4096-byte memfd per partition that tells readers how far the partition is published.

The worker writes it; readers map it read-only. Every fact is one aligned 8-byte cell in the byte order of the machine.
The sequence counter is odd while the worker writes: a reader that sees it odd, or changed after it took the facts,
looks again, a bounded number of times, for a writer may die in the middle. Nobody takes a lock, and reading costs no
system call.

This needs stores that become visible in the order in which they were made, and loads that are made in theirs: x86-64
promises both. `supported()` says no elsewhere, and the client takes ZeroMQ.

The memfd is sealed against growing, shrinking and new writable mappings, and its mode is 0400: whoever is handed a
descriptor can read, and no more.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import platform
import sys
from struct import Struct
from typing import Final, NamedTuple

from kbroker.errors import InvalidRequest, UnsupportedVersion
from kbroker.shm.mapping import PAGE_BYTES, Mapping

CELLS: Final = Struct(
    "@"
    "q"  #  0 magic                    b"kbrkpage"
    "q"  #  1 layout_version           1
    "q"  #  2 sequence                 odd while the worker writes
    "q"  #  3 incarnation              of the worker; does not change
    "q"  #  4 leader_epoch             does not change
    "q"  #  5 state                    1 live, 2 closed, 3 deleted
    "q"  #  6 files_generation         rises when a segment file was replaced by another of the same name
    "q"  #  7 log_start_offset
    "q"  #  8 high_watermark           offset; everything before it may be read
    "q"  #  9 high_watermark_position  byte in the segment below at which the published part ends
    "q"  # 10 segment_base             base offset of the segment that the position is in
    "q"  # 11 last_stable_offset       offset; the end of what read_committed may read
    "q"  # 12 lso_position             byte in the segment below
    "q"  # 13 lso_segment_base         base offset of the segment that lso_position is in
)
assert CELLS.size == 14 * 8

MAGIC: Final = int.from_bytes(b"kbrkpage", sys.byteorder)
LAYOUT_VERSION: Final = 1
SIZE_BYTES: Final = PAGE_BYTES

LIVE: Final = 1
CLOSED: Final = 2
DELETED: Final = 3

_SEQUENCE: Final = 2
_FACTS: Final = 3
_STATE: Final = 5
_GENERATION: Final = 6
_HIGH_WATERMARK: Final = 8
_LAST_STABLE_OFFSET: Final = 11
_PUBLISHED: Final = Struct("@7q")  # cells 7 to 13
_PUBLISHED_POSITION: Final = 7 * 8
assert _PUBLISHED_POSITION + _PUBLISHED.size == CELLS.size

# linux/fcntl.h; Python knows those of its own time only.
_F_ADD_SEALS: Final = 1033
_SEALS: Final = 0x01 | 0x02 | 0x04 | 0x10  # SEAL, SHRINK, GROW, FUTURE_WRITE (Linux 5.1)

_SPINS_MAX: Final = 400
_SPINS_HOT: Final = 20

_cells = CELLS.unpack_from
_new = tuple.__new__
_pack_published = _PUBLISHED.pack_into


class PageFacts(NamedTuple):
    """What the page said at one moment: its cells from 3 on. Positions are bytes in the segment whose base offset
    follows them."""

    incarnation: int
    leader_epoch: int
    state: int
    files_generation: int
    log_start_offset: int
    high_watermark: int
    position: int
    segment_base: int
    last_stable_offset: int
    lso_position: int
    lso_segment_base: int


assert len(PageFacts._fields) == 14 - _FACTS


class ControlPage:
    """The writer's side, in the worker that owns the partition. Make one with `create`."""

    __slots__ = ("_cells", "_fd", "_mapping", "_view")

    def __init__(self, fd: int, mapping: Mapping) -> None:
        self._fd = fd
        self._mapping = mapping
        self._view = mapping.view
        self._cells = mapping.view.cast("q")

    @classmethod
    def create(cls, epoch: int, incarnation: int) -> ControlPage:
        """A live page that publishes nothing yet. Raises OSError: no descriptors or no memory left."""
        fd = os.memfd_create("kbroker-control-page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, SIZE_BYTES)
            # The mapping comes first: once sealed, nobody can make another writable one.
            mapping = Mapping(fd, SIZE_BYTES, writable=True)
            CELLS.pack_into(mapping.view, 0, MAGIC, LAYOUT_VERSION, 0, incarnation, epoch, LIVE, *[0] * 8)
            fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
            os.fchmod(fd, 0o400)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, mapping)

    def publish(
        self,
        log_start_offset: int,
        high_watermark: int,
        high_watermark_position: int,
        segment_base: int,
        last_stable_offset: int,
        lso_position: int,
        lso_segment_base: int,
    ) -> None:
        """Show readers how far they may read. The bytes before the positions must have been written before."""
        cells = self._cells
        sequence = cells[_SEQUENCE]
        cells[_SEQUENCE] = sequence + 1
        _pack_published(
            self._view,
            _PUBLISHED_POSITION,
            log_start_offset,
            high_watermark,
            high_watermark_position,
            segment_base,
            last_stable_offset,
            lso_position,
            lso_segment_base,
        )
        cells[_SEQUENCE] = sequence + 2

    def files_replaced(self) -> None:
        """A segment file was replaced by another of the same name: readers ask for the new one."""
        self._set(_GENERATION, self._cells[_GENERATION] + 1)

    def close_page(self, state: int) -> None:
        """Tell readers that this worker serves the partition no longer: CLOSED, or DELETED with its topic."""
        self._set(_STATE, state)

    def _set(self, cell: int, value: int) -> None:
        cells = self._cells
        sequence = cells[_SEQUENCE]
        cells[_SEQUENCE] = sequence + 1
        cells[cell] = value
        cells[_SEQUENCE] = sequence + 2

    @property
    def state(self) -> int:
        return self._cells[_STATE]

    @property
    def leader_epoch(self) -> int:
        return self._cells[4]

    @property
    def files_generation(self) -> int:
        return self._cells[_GENERATION]

    @property
    def high_watermark(self) -> int:
        """As published last."""
        return self._cells[_HIGH_WATERMARK]

    @property
    def last_stable_offset(self) -> int:
        """As published last."""
        return self._cells[_LAST_STABLE_OFFSET]

    @property
    def high_watermark_place(self) -> tuple[int, int]:
        """Segment base offset and position of the high watermark, as published last."""
        return self._cells[10], self._cells[9]

    def open_for_reader(self) -> int:
        """A descriptor to hand out, to be closed by the caller: its own file description, read-only. Raises OSError.

        Never the worker's own: whoever holds a description can change its flags for all who share it.
        """
        return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    def free(self) -> None:
        """Unmap and close; readers keep what they have. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._cells.release()
            self._mapping.close()
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            with contextlib.suppress(OSError):
                self.free()


class ControlPageView:
    """The reader's side. Does not take `fd` over: it may be closed once the view is made.

    Raises UnsupportedVersion or InvalidRequest for a page that this code cannot read, OSError when it cannot be mapped.
    """

    __slots__ = ("_cells", "_mapping", "_view")

    def __init__(self, fd: int) -> None:
        size_bytes = os.fstat(fd).st_size
        if size_bytes != SIZE_BYTES:
            raise InvalidRequest(f"the control page has {size_bytes} bytes, not {SIZE_BYTES}")
        self._mapping = Mapping(fd, SIZE_BYTES)
        self._view = self._mapping.view
        self._cells = self._view.cast("q")
        magic, version = self._cells[0], self._cells[1]
        if magic != MAGIC or version != LAYOUT_VERSION:
            self.close()
            if magic != MAGIC:
                raise InvalidRequest("what the broker handed out is not a control page")
            raise UnsupportedVersion(f"control page version {version}; this client reads {LAYOUT_VERSION}")

    def snapshot(self) -> PageFacts | None:
        """Facts of one moment; None when the writer stayed in the middle of a change (dead, or not running).

        Bounded: at most 400 looks, most of them after giving way to other processes, about 1 ms.
        """
        cells = self._cells
        for spin in range(_SPINS_MAX):
            facts = _cells(self._view)
            if not facts[_SEQUENCE] & 1 and cells[_SEQUENCE] == facts[_SEQUENCE]:
                return _new(PageFacts, facts[_FACTS:])
            if spin >= _SPINS_HOT:
                os.sched_yield()
        return None

    def close(self) -> None:
        """Unmap. A second call does nothing."""
        self._cells.release()
        self._mapping.close()


@functools.cache
def supported() -> tuple[bool, str]:
    """Whether this machine can share a partition's control page; if not, why, in words for a user."""
    machine = platform.machine()
    if machine not in ("x86_64", "AMD64"):
        return False, f"lock-free reads are promised on x86-64 only, this machine is {machine or 'unknown'}"
    if not hasattr(os, "memfd_create"):
        return False, "this system has no memfd_create(2)"
    try:
        ControlPage.create(0, 0).free()
    except OSError as error:
        return False, f"this kernel cannot seal a shared page against writing ({error}); Linux 5.1 or later can"
    return True, ""
