"""Files cut at any byte, or with any byte changed: the log opens, says what it lost, and never shows wrong records."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kbroker.config import LogConfig
from kbroker.errors import CorruptMessage, StorageError
from kbroker.log import PartitionLog, names
from kbroker.log.checkpoint import RecoveryPoint
from kbroker.records.codec import decode_list, iter_batches

from ..log.batches import PARTITION, TOPIC_ID, batch, flush, records
from ..log.disks import UnsyncedDisk

pytestmark = pytest.mark.slow

CONFIG = LogConfig(segment_bytes=800, index_interval_bytes=200)
MODERATE = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def open_log(folder: Path) -> PartitionLog:
    return PartitionLog.open(folder, PARTITION, TOPIC_ID, CONFIG, 0, 9_000, UnsyncedDisk())


DEEPER = settings(deadline=None, suppress_health_check=MODERATE.suppress_health_check)
"""`pytest tests/properties --hypothesis-profile=deep` looks at many more."""

Original = tuple[Path, dict[int, bytes]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """A crashed log of three segments, its recovery point in the second, and what is in it."""
    folder = tmp_path_factory.mktemp("original") / "orders-3"
    log = open_log(folder)
    for number in range(15):
        values = [b"%d-%d" % (number, n) + b"x" * 8 for n in range(4)]
        log.append(batch(values, timestamp_ms=1_000 + 10 * number, codec=number % 5), 9_000, sync=False)
        if number == 8:
            flush(log, force=True)
    log._active.write_indexes()  # as a roll would have
    log.abandon()
    assert len(log.segments) == 3
    return folder, {r[0]: r[4] or b"" for r in records(log)}


@pytest.fixture(scope="module")
def closed(original: Original, tmp_path_factory: pytest.TempPathFactory) -> Original:
    """The same, closed in order."""
    folder = fresh(original[0], tmp_path_factory.mktemp("closed"))
    log = open_log(folder)
    log.close(9_000)
    return folder, original[1]


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder on a memory disk where there is one: thousands of logs are written there."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="kbroker-damage-", dir=shm) as folder:
        yield Path(folder)


def survivors(folder: Path) -> tuple[PartitionLog, dict[int, bytes]]:
    """What can be read, one offset after another, past whatever is refused by name."""
    log = open_log(folder)
    found: dict[int, bytes] = {}
    with contextlib.suppress(StorageError, CorruptMessage):
        offset = log.log_start_offset
        while (piece := log.read(offset, 1)).size_bytes:  # a batch at a time
            for one in iter_batches(piece.read()):
                found.update((record[0], record[4] or b"") for record in decode_list(one))
            offset = piece.next_offset
    return log, found


@MODERATE
@given(st.data())
def test_any_cut_of_the_tail(original: Original, tmp_path: Path, data: st.DataObject) -> None:
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


@pytest.mark.parametrize(("state", "mask"), [("original", 0x01), ("original", 0x80), ("original", 0xFF), ("closed", 1)])
def test_every_flipped_byte(request: pytest.FixtureRequest, in_memory: Path, state: str, mask: int) -> None:
    """All of them, in each run: a seed that finds the one byte that matters comes once in a while only."""
    folder, model = request.getfixturevalue(state)
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    copy = in_memory / "orders-3"
    for name, whole in content.items():
        if name == names.PARTITION_METADATA:
            continue
        for position in range(len(whole)):
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir()
            for other, data in content.items():
                (copy / other).write_bytes(data)
            flipped = bytearray(whole)
            flipped[position] ^= mask
            (copy / name).write_bytes(flipped)
            try:
                check_flipped(folder, model, copy, copy / name, position)
            except AssertionError as error:
                raise AssertionError(f"{name}, byte {position}, mask {mask}: {error}") from error


@DEEPER
@given(st.data())
def test_any_flipped_byte(original: Original, tmp_path: Path, data: st.DataObject) -> None:
    folder, model = original
    copy = fresh(folder, tmp_path)
    victims = [p for p in sorted(copy.iterdir()) if p.stat().st_size and p.name != names.PARTITION_METADATA]
    path = data.draw(st.sampled_from(victims))
    position = data.draw(st.integers(0, path.stat().st_size - 1))
    mask = data.draw(st.integers(1, 255))
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(content)
    check_flipped(folder, model, copy, path, position)


def check_flipped(folder: Path, model: dict[int, bytes], copy: Path, path: Path, position: int) -> None:
    """What must hold of a log in which one byte was changed."""
    log, found = survivors(copy)
    if path.suffix == names.LOG and before_recovery_point(folder, path, position):
        # Hardly looked at when opening. CRCs protect the records, but not a batch's base offset and epoch.
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
            told = [offset for entry in log.recovery.found for offset in range(entry.first_offset, entry.next_offset)]
            assert told[:lost] == [offset for offset in model if offset not in found]
    if path.suffix != names.LOG:
        assert found == model, "what can be rebuilt is"
        assert not log.recovery.found
    end = max(model) + 1
    if path.name != sorted(folder.glob("*.log"))[-1].name:
        assert log.next_offset == end, "an estimate went past the next segment, or below it"
    assert log.next_offset >= end, "offsets are never given twice"
    # At the log's end nobody else knows: a byte for a record is the largest guess.
    assert log.next_offset <= end + CONFIG.segment_bytes
    before = log.next_offset
    assert log.append(batch([b"next"]), 9_000, sync=False).base_offset == before
    log.close(9_000)


@pytest.mark.parametrize("codec", [0, 4])
def test_a_count_that_only_the_header_knows(tmp_path: Path, codec: int) -> None:
    """Compressed records take less than a byte each: how many there were, a damaged header at the end still tells."""
    original = tmp_path / "original" / "orders-3"
    original.parent.mkdir()
    log = open_log(original)
    log.append(batch([b"x"] * 4), 9_000, sync=False)
    position = log.size_bytes
    log.append(batch([b"x" * 10] * 1_000, codec=codec), 9_000, sync=False)
    log.abandon()
    size_bytes = original.joinpath(f"{0:020d}.log").stat().st_size
    for at in range(position, min(size_bytes, position + 300)):
        for mask in (0x01, 0x80):
            copy = fresh(original, tmp_path)
            path = copy / f"{0:020d}.log"
            content = bytearray(path.read_bytes())
            content[at] ^= mask
            path.write_bytes(content)
            log = open_log(copy)
            assert 1_004 <= log.next_offset <= 1_004 + size_bytes, (at, mask)
            log.abandon()


def before_recovery_point(folder: Path, path: Path, position: int) -> bool:
    point = RecoveryPoint.parse((folder / names.RECOVERY_POINT).read_bytes())
    assert point is not None
    return (int(path.stem), position) < (point.segment_base, point.position)


def fresh(folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "orders-3"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return copy
