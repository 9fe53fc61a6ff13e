"""What a topic may ask of its records besides sound batches: another compression, keys, timestamps not too old.

Only such topics' batches are opened by the broker. Bytes in, bytes out; decompression is bounded.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kbroker.config import LogConfig
from kbroker.errors import InvalidRecord, InvalidTimestamp
from kbroker.records import compression
from kbroker.records.batch import HEADER_BYTES, BatchFacts, check_batches
from kbroker.records.codec import decode_list, recompress, uncompressed

_NO_TIMESTAMP: Final = -1
_EXPANSION_MAX: Final = 16
_EXPANDED_BYTES_MIN: Final = 16 << 20
_LIGHT_BYTES: Final = 16 << 10
_ANY_AGE: Final = 2**63 - 1
_LEVELS: Final = {
    compression.GZIP: "compression_gzip_level",
    compression.LZ4: "compression_lz4_level",
    compression.ZSTD: "compression_zstd_level",
}


class RecordPolicy(NamedTuple):
    """`codec` None: each batch stays as it was compressed. `before_max_ms` None: no timestamp is too old.

    `batch_bytes_max` bounds a batch, `expanded_bytes_max` its records decompressed.
    """

    codec: int | None
    level: int | None
    needs_keys: bool
    before_max_ms: int | None
    batch_bytes_max: int
    expanded_bytes_max: int

    @property
    def _looks_inside(self) -> bool:
        return self.needs_keys or self.before_max_ms is not None

    def is_light(self, batches: memoryview) -> bool:
        """Whether `apply` takes so little time that a loop may do it: a few KiB that are not compressed."""
        if len(batches) > _LIGHT_BYTES:
            return False
        return all(facts.codec == compression.NONE for facts in check_batches(batches, self.batch_bytes_max))

    def apply(self, batches: memoryview, now_ms: int) -> bytearray:
        """The batches as the topic wants them.

        Raises what check_batches and decompression do; InvalidRecord, InvalidTimestamp, with the records at fault.
        """
        out = bytearray()
        for facts in check_batches(batches, self.batch_bytes_max):
            out += self._applied(batches[facts.position : facts.position + facts.size_bytes], facts, now_ms)
        return out

    def _applied(self, batch: memoryview, facts: BatchFacts, now_ms: int) -> bytearray | memoryview:
        is_other = self.codec is not None and facts.codec != self.codec
        if not is_other and not self._looks_inside:
            return batch
        plain = uncompressed(batch, self.expanded_bytes_max) if facts.codec else batch
        if self._looks_inside:
            self._check_records(plain, facts, now_ms)
        if not is_other:
            return batch
        return recompress(bytearray(plain), self.codec or compression.NONE, self.level)

    def _check_records(self, plain: memoryview | bytearray, facts: BatchFacts, now_ms: int) -> None:
        records = decode_list(plain, max_bytes=len(plain) - HEADER_BYTES, check_crc=False)
        if len(records) != facts.record_count:
            raise InvalidRecord(f"a batch says {facts.record_count} records, {len(records)} are in it")
        if self.needs_keys:
            keyless = {
                n: "a compacted topic takes no record without a key" for n, r in enumerate(records) if r[3] is None
            }
            if keyless:
                raise InvalidRecord(f"{len(keyless)} records have no key, which a compacted topic needs", keyless)
        if self.before_max_ms is not None:
            earliest = now_ms - self.before_max_ms
            old = {
                n: f"timestamp {r[1]} is before {earliest}, the earliest by message.timestamp.before.max.ms"
                for n, r in enumerate(records)
                if _NO_TIMESTAMP != r[1] < earliest
            }
            if old:
                raise InvalidTimestamp(f"{len(old)} records are older than message.timestamp.before.max.ms", old)


def policy_of(config: LogConfig) -> RecordPolicy | None:
    """What these settings ask; None: nothing, so that batches need not be opened."""
    name = config.compression_type
    codec = None if name == "producer" else compression.codec_number("none" if name == "uncompressed" else name)
    needs_keys = "compact" in config.cleanup_policy
    has_age = config.timestamp_before_max_ms != _ANY_AGE and config.timestamp_type == "CreateTime"
    if codec is None and not needs_keys and not has_age:
        return None
    return RecordPolicy(
        codec,
        getattr(config, _LEVELS[codec]) if codec in _LEVELS else None,
        needs_keys,
        config.timestamp_before_max_ms if has_age else None,
        config.message_max_bytes,
        max(_EXPANDED_BYTES_MIN, _EXPANSION_MAX * config.message_max_bytes),
    )
