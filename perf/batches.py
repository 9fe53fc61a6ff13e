"""Ready-made record batches."""

from __future__ import annotations

import os
import time

from kbroker.records.codec import BatchBuilder


def batch_of(record_bytes: int, batch_bytes: int) -> tuple[bytes, int]:
    """A batch filled with records of that size, and how many there are."""
    builder = BatchBuilder(0, batch_bytes)
    now_ms = time.time_ns() // 1_000_000
    value = os.urandom(record_bytes)
    while builder.append(now_ms, None, value):
        pass
    return bytes(builder.build()), builder.record_count
