"""A consumer process of the demo: reads its partitions, checks order, digests every key, says what it saw.

Arguments: server, topic, partitions (comma-separated). It prints JSON lines: progress as it goes, at the end the
result. The parent writes one JSON line, the end offset of each partition, when it has written everything; the reader
ends at those, or when its input is closed.
"""

from __future__ import annotations

import hashlib
import json
import select
import sys
import time
from typing import Any

from kbroker import Consumer, TopicPartition

POLL_MS = 200
POLL_RECORDS = 20_000
REPORT_EVERY_S = 0.2


class Digests:
    """Count and running digest of each key."""

    def __init__(self) -> None:
        self.keys: dict[bytes, tuple[Any, list[int]]] = {}

    def add(self, records: list[Any]) -> int:
        """Take records of one partition in order; their bytes."""
        size = 0
        parts: dict[bytes, list[bytes]] = {}
        for record in records:
            parts.setdefault(record.key, []).append(record.value)
            size += len(record.key) + len(record.value)
        for key, values in parts.items():
            digest, count = self.keys.setdefault(bytes(key), (hashlib.sha256(), [0]))
            digest.update(b"\n".join(values) + b"\n")
            count[0] += len(values)
        return size

    def result(self) -> dict[str, list[Any]]:
        """Count and digest by key."""
        return {
            key.decode("utf-8", "surrogateescape"): [count[0], digest.hexdigest()]
            for key, (digest, count) in self.keys.items()
        }


def say(**facts: Any) -> None:
    """One JSON line to the parent."""
    print(json.dumps(facts), flush=True)


def read(server: str, topic: str, numbers: list[int]) -> int:
    """Read until the parent says where the end is, and that is reached."""
    partitions = [TopicPartition(topic, number) for number in numbers]
    digests = Digests()
    next_offsets = dict.fromkeys(partitions, 0)
    ends: dict[TopicPartition, int] | None = None
    by_transport: dict[str, int] = {}
    records_read = bytes_read = 0
    first_s = last_s = reported_s = time.monotonic()
    with Consumer(server=server) as consumer:
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        say(ready=True)
        while ends is None or any(next_offsets[partition] < end for partition, end in ends.items()):
            if ends is None and select.select([sys.stdin], [], [], 0)[0]:
                line = sys.stdin.readline()
                if not line:
                    return 1  # the parent has gone
                given = json.loads(line)
                ends = {partition: given[str(partition.partition)] for partition in partitions}
            batches = consumer.poll(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
            now_s = time.monotonic()
            for partition, records in batches.items():
                at = next_offsets[partition]
                offsets = [record.offset for record in records]
                if offsets != list(range(at, at + len(records))):
                    say(error=f"{partition}: expected offsets from {at}, got {offsets[0]} … {offsets[-1]}")
                    return 1
                next_offsets[partition] = at + len(records)
                bytes_read += digests.add(records)
                if not records_read:
                    first_s = now_s
                records_read += len(records)
                last_s = now_s
                by_transport[consumer.transport] = by_transport.get(consumer.transport, 0) + len(records)
            if now_s - reported_s > REPORT_EVERY_S:
                reported_s = now_s
                say(records=records_read)
        transport = consumer.transport
    say(
        done=True,
        records=records_read,
        size_bytes=bytes_read,
        seconds=last_s - first_s,
        transport=transport,
        by_transport=by_transport,
        keys=digests.result(),
    )
    return 0


def main() -> None:
    """Entry point of a reader process."""
    server, topic, numbers = sys.argv[1:]
    try:
        sys.exit(read(server, topic, [int(number) for number in numbers.split(",")]))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        say(error=f"{type(error).__name__}: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
