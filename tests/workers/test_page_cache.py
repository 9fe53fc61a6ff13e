"""What the kernel has of a file in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.log.storage import File
from kbroker.workers.page_cache import CachedFiles, PageCache

MIB = 1 << 20
SIZE_BYTES = 4 * MIB


@pytest.fixture(params=[True, False], ids=["counted", "sampled"])
def cache(request: pytest.FixtureRequest) -> PageCache:
    return PageCache(counts=request.param)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """A file that is on the disk and in the cache."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for _ in range(SIZE_BYTES // 4096):
        os.write(fd, bytes(4096))  # page by page: the kernel throws out as much at once as it has taken in
    os.fsync(fd)
    yield fd
    os.close(fd)


def throw_out(fd: int, position: int, size_bytes: int) -> None:
    os.posix_fadvise(fd, position, size_bytes, os.POSIX_FADV_DONTNEED)
    if PageCache().has(fd, position, size_bytes):
        pytest.skip("this file system lives in memory")


@pytest.mark.parametrize("stretch", [(0, SIZE_BYTES), (0, 1), (4095, 2), (SIZE_BYTES - 1, 1), (MIB + 7, 2 * MIB)])
def test_what_was_written_is_there(cache: PageCache, fd: int, stretch: tuple[int, int]) -> None:
    assert cache.has(fd, *stretch)


def test_a_hole_in_the_middle_is_seen(cache: PageCache, fd: int) -> None:
    throw_out(fd, MIB, MIB)
    assert not cache.has(fd, 7, SIZE_BYTES - 7)
    assert not cache.has(fd, MIB + 7, 100)
    assert cache.has(fd, 0, MIB)
    assert cache.has(fd, 2 * MIB, MIB)


def test_one_missing_page_is_seen_where_the_kernel_counts(fd: int) -> None:
    cache = PageCache()
    position = MIB + 64 * 4096
    throw_out(fd, position, 4096)
    if not cache._can_count:
        pytest.skip("this kernel does not count")
    assert not cache.has(fd, 0, SIZE_BYTES)


def test_a_file_that_cannot_be_asked_raises() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        PageCache().has(12345, 0, 10)


def test_what_was_seen_ahead_is_not_asked_for_again_for_a_second(fd: int) -> None:
    files, file = CachedFiles(), File(os.dup(fd), Path("file"))
    assert files.has(file, 0, MIB, SIZE_BYTES, 0)
    throw_out(fd, 3 * MIB, MIB)
    assert files.has(file, 3 * MIB, MIB, SIZE_BYTES, 999)
    assert not files.has(file, 3 * MIB, MIB, SIZE_BYTES, 1_000)
    assert files.has(file, 2 * MIB, MIB, SIZE_BYTES, 1_000)  # the rest ahead of it is not there
    assert not files.has(file, 2 * MIB, 2 * MIB, SIZE_BYTES, 1_000)
