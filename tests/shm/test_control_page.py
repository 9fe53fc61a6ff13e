"""The control page between two real processes: never torn, never waited for without end."""

from __future__ import annotations

import fcntl
import os
import platform
import signal
import time
from collections.abc import Iterator

import pytest

from kbroker.errors import InvalidRequest, UnsupportedVersion
from kbroker.shm import control_page
from kbroker.shm.control_page import CELLS, CLOSED, DELETED, LIVE, ControlPage, ControlPageView, supported
from kbroker.shm.mapping import Mapping


@pytest.fixture
def page() -> Iterator[ControlPage]:
    made = ControlPage.create(7, 42)
    yield made
    made.free()


def view_of(page: ControlPage) -> ControlPageView:
    fd = page.open_for_reader()
    try:
        return ControlPageView(fd)
    finally:
        os.close(fd)


def test_every_fact_has_its_cell(page: ControlPage) -> None:
    view = view_of(page)
    first = view.snapshot()
    assert first is not None
    assert (first.state, first.leader_epoch, first.incarnation, first.high_watermark) == (LIVE, 7, 42, 0)
    page.publish(1, 2, 3, 4, 5, 6, 8)
    assert view.snapshot() == (42, 7, LIVE, 0, 1, 2, 3, 4, 5, 6, 8)
    page.files_replaced()
    page.close_page(CLOSED)
    assert view.snapshot() == (42, 7, CLOSED, 1, 1, 2, 3, 4, 5, 6, 8)
    page.close_page(DELETED)
    assert (page.state, page.high_watermark, page.last_stable_offset) == (DELETED, 2, 5)
    assert page.high_watermark_place == (4, 3)
    page.free()
    page.free()
    after = view.snapshot()
    assert after is not None
    assert after.state == DELETED
    view.close()
    view.close()
    with pytest.raises(ValueError, match="released"):
        view.snapshot()


def test_the_layout_is_what_the_table_says(page: ControlPage) -> None:
    page.publish(1, 2, 3, 4, 5, 6, 8)
    fd = page.open_for_reader()
    data = os.pread(fd, CELLS.size, 0)
    os.close(fd)
    assert data[:8] == b"kbrkpage"
    assert CELLS.unpack(data)[1:] == (1, 2, 42, 7, LIVE, 0, 1, 2, 3, 4, 5, 6, 8)


def test_what_is_no_page_of_this_version_is_refused() -> None:
    def with_cells(magic: int, version: int, size_bytes: int) -> int:
        fd = os.memfd_create("page")
        os.ftruncate(fd, size_bytes)
        os.pwrite(fd, CELLS.pack(magic, version, *[0] * 12), 0)
        return fd

    for magic, version, size_bytes, error in (
        (1, 1, 4096, InvalidRequest),
        (control_page.MAGIC, 2, 4096, UnsupportedVersion),
        (control_page.MAGIC, 1, 100, InvalidRequest),
    ):
        fd = with_cells(magic, version, size_bytes)
        with pytest.raises(error):
            ControlPageView(fd)
        os.close(fd)


def test_a_writer_stopped_in_the_middle_is_not_waited_for(page: ControlPage) -> None:
    view = view_of(page)
    page._cells[2] += 1
    assert view.snapshot() is None
    page._cells[2] += 1
    assert view.snapshot() is not None


@pytest.mark.slow
def test_no_read_is_torn_while_another_process_writes(page: ControlPage) -> None:
    """And a writer killed at any moment leaves either facts of one moment or None."""
    view = view_of(page)
    pid = os.fork()
    if not pid:
        number = 0
        while True:
            number += 1
            page.publish(*[number] * 7)
    try:
        end_s = time.monotonic() + 1.2
        seen = set()
        looked = unfinished = 0
        while time.monotonic() < end_s:
            for _ in range(100):
                facts = view.snapshot()
                looked += 1
                if facts is None:
                    unfinished += 1
                else:
                    assert len(set(facts[4:])) == 1, facts
                    seen.add(facts.high_watermark)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert len(seen) > 1000
    assert unfinished < looked / 10
    last = view.snapshot()
    assert last is None or len(set(last[4:])) == 1


def test_support_is_told_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    good, why = supported.__wrapped__()
    assert not good
    assert "aarch64" in why
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    good, why = supported.__wrapped__()
    assert not good
    assert "seal" in why


def test_a_mapping_may_reach_past_the_end_and_says_what_is_not_there() -> None:
    fd = os.memfd_create("grows")
    os.pwrite(fd, b"x" * 10_000, 0)
    mapping = Mapping(fd, 1 << 31)
    assert mapping.populate(0, 10_000)
    assert not mapping.populate(0, 20_000)
    os.pwrite(fd, b"y" * 10_000, 10_000)
    assert mapping.populate(9_999, 10_001)
    assert mapping.view[9_999:10_002].tobytes() == b"xyy"
    os.ftruncate(fd, 5_000)
    assert not mapping.populate(9_999, 10_001)
    mapping.close()
    os.close(fd)
