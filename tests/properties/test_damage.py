"""Files cut at any byte, or with any byte changed: the log opens, says what it lost, and never shows wrong records."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kbroker.config import LogConfig
from kbroker.errors import CorruptMessage, StorageError
from kbroker.log import PartitionLog, names
from kbroker.log.checkpoint import RecoveryPoint

from ..log.batches import PARTITION, TOPIC_ID, batch, flush, records

pytestmark = pytest.mark.slow

CONFIG = LogConfig(segment_bytes=1_700, index_interval_bytes=300)
MODERATE = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def open_log(folder: Path) -> PartitionLog:
    return PartitionLog.open(folder, PARTITION, TOPIC_ID, CONFIG, 0, 9_000)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, bytes]]:
    """A crashed log of three segments, its recovery point in the second, and what is in it."""
    folder = tmp_path_factory.mktemp("original") / "orders-3"
    log = open_log(folder)
    for number in range(24):
        values = [b"%d-%d" % (number, n) + b"x" * 30 for n in range(4)]
        log.append(batch(values, timestamp_ms=1_000 + 10 * number, codec=number % 5), 9_000, sync=False)
        if number == 13:
            flush(log, force=True)
    log._active.write_indexes()  # as a roll would have
    log.abandon()
    assert len(log.segments) == 3
    return folder, {r[0]: r[4] or b"" for r in records(log)}


def survivors(folder: Path) -> tuple[PartitionLog, dict[int, bytes]]:
    """What can be read, one offset after another, past whatever is refused by name."""
    log = open_log(folder)
    found: dict[int, bytes] = {}
    with contextlib.suppress(StorageError, CorruptMessage):
        found = {r[0]: r[4] or b"" for r in records(log)}
    return log, found


@MODERATE
@given(st.data())
def test_any_cut_of_the_tail(original: tuple[Path, dict[int, bytes]], tmp_path: Path, data: st.DataObject) -> None:
    folder, model = original
    copy = fresh(folder, tmp_path)
    last = sorted(copy.glob("*.log"))[-1]
    size = last.stat().st_size
    cut = data.draw(st.integers(0, size))
    with last.open("r+b") as file:
        file.truncate(cut)
    log, found = survivors(copy)
    end = max(found) + 1
    assert found == {offset: value for offset, value in model.items() if offset < end}
    assert log.next_offset == end, "a torn write was never shown: its offsets are free"
    assert not log.recovery.set_aside
    assert log.recovery.truncated_bytes <= cut
    log.append(batch([b"next"]), 9_000, sync=False)
    assert records(log)[-1][4] == b"next"
    log.close(9_000)


@MODERATE
@given(st.data())
def test_any_flipped_byte(original: tuple[Path, dict[int, bytes]], tmp_path: Path, data: st.DataObject) -> None:
    folder, model = original
    copy = fresh(folder, tmp_path)
    victims = [p for p in sorted(copy.iterdir()) if p.stat().st_size and p.name != names.PARTITION_METADATA]
    path = data.draw(st.sampled_from(victims))
    position = data.draw(st.integers(0, path.stat().st_size - 1))
    mask = data.draw(st.integers(1, 255))
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(content)
    log, found = survivors(copy)
    if path.suffix == names.LOG and before_recovery_point(folder, path, position):
        # Not looked at when opening. CRCs protect the records, but not a batch's base offset and epoch.
        right = sum(found.get(offset) == value for offset, value in model.items())
        assert right >= len(found) - 4
    else:
        assert all(model[offset] == value for offset, value in found.items())
        lost = len(model) - len(found)
        assert lost <= 4, "more than the damaged batch is gone"
        if lost:
            assert log.recovery.truncated_bytes == 0
            assert log.recovery.set_aside
            assert list(copy.glob("*.corrupt"))
    if path.suffix != names.LOG:
        assert found == model, "what can be rebuilt is"
    before = log.next_offset
    assert before >= max(model) + 1, "offsets are never given twice"
    assert log.append(batch([b"next"]), 9_000, sync=False).base_offset == before
    log.close(9_000)


def before_recovery_point(folder: Path, path: Path, position: int) -> bool:
    point = RecoveryPoint.parse((folder / names.RECOVERY_POINT).read_bytes())
    assert point is not None
    return (int(path.stem), position) < (point.segment_base, point.position)


def fresh(folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "orders-3"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return copy
