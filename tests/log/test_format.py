"""FORMAT.md's worked example, byte for byte."""

from __future__ import annotations

import re
from pathlib import Path

from kbroker.config import LogConfig
from kbroker.log import PartitionLog
from kbroker.records.codec import BatchBuilder

from .batches import PARTITION, TOPIC_ID

FORMAT = Path(__file__).parents[2] / "FORMAT.md"


def worked_example(folder: Path) -> dict[str, bytes]:
    """What FORMAT.md says it did, done."""
    config = LogConfig(index_interval_bytes=0)
    log = PartitionLog.open(folder, PARTITION, TOPIC_ID, config, 5, 1_700_000_000_000)
    for sequence, value in enumerate((b"one", b"two")):
        builder = BatchBuilder(producer_id=4_000, producer_epoch=0, base_sequence=sequence)
        builder.append(1_700_000_000_000 + sequence, b"key", value, [("h", b"x")])
        log.append(builder.build(), 1_700_000_000_000, sync=True)
    log.close(1_700_000_000_000)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def dump(data: bytes) -> str:
    """Sixteen bytes a line, in hex."""
    return "\n".join(f"{at:04x}  {data[at : at + 16].hex(' ')}" for at in range(0, len(data), 16))


def test_worked_example(tmp_path: Path) -> None:
    files = worked_example(tmp_path / "orders-3")
    text = FORMAT.read_text(encoding="utf-8")
    shown = re.findall(r"^`([^`\n]+)`, (\d+) bytes:\n\n```\n(.*?)\n?```", text, re.MULTILINE | re.DOTALL)
    assert {name: (int(size), body) for name, size, body in shown} == {
        name: (len(data), dump(data)) for name, data in files.items() if data
    }
