"""Buffers that are used again."""

from __future__ import annotations

from kbroker.shm.buffers import KEPT_MAX, Buffers


def test_a_buffer_comes_back_when_nobody_refers_to_it() -> None:
    buffers = Buffers()
    first = id(buffers.take(1000))
    assert id(buffers.take(1000)) == first
    assert len(buffers.take(1000)) >= 1000


def test_a_view_keeps_its_buffer() -> None:
    buffers = Buffers()
    view = memoryview(buffers.take(1000))[10:20].toreadonly()
    other = buffers.take(1000)
    assert other is not view.obj
    held = view.obj
    del view, other
    assert buffers.take(1000) is not held, "any reference counts"


def test_a_larger_one_takes_the_place_of_a_smaller() -> None:
    buffers = Buffers()
    buffers.take(1000)
    assert len(buffers.take(1 << 20)) == 1 << 20


def test_few_are_kept_whatever_is_held() -> None:
    buffers = Buffers()
    held = [memoryview(buffers.take(1000)) for _ in range(3 * KEPT_MAX)]
    assert len({id(view.obj) for view in held}) == 3 * KEPT_MAX
    assert len(buffers._kept) == KEPT_MAX
