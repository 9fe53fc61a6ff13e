"""What a topic may ask of its records besides sound batches: another compression, keys, timestamps not too old, or
that each of them is looked at.

Only such topics' batches are opened by the broker. Bytes in, bytes out, in slices; decompression is bounded.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from kbroker.config import LogConfig
from kbroker.errors import CorruptMessage, InvalidRecord, InvalidTimestamp, MessageTooLarge
from kbroker.records import compression
from kbroker.records.batch import MAX_TIMESTAMP_POSITION, BatchFacts, check_batches, write_crc
from kbroker.records.codec import recompress
from kbroker.records.expand import Budget, expanded
from kbroker.records.steps import TURN, Steps, finished
from kbroker.records.walk import Walked, walk

_LIGHT_BYTES: Final = 16 << 10
_LIGHT_RECORDS: Final = 200
_ANY_AGE: Final = 2**63 - 1
_LONG: Final = Struct(">q")
_LEVELS: Final = {
    compression.GZIP: "compression_gzip_level",
    compression.LZ4: "compression_lz4_level",
    compression.ZSTD: "compression_zstd_level",
}


class RecordPolicy(NamedTuple):
    """`codec` None: each batch stays as it was compressed. `before_max_ms` None: no timestamp is too old. `walks`: each
    record is looked at, whatever else is asked.

    `batch_bytes_max` bounds a batch, `batches_max` their number in a request, `expanded_bytes_max` what a request's
    records take when decompressed.
    """

    codec: int | None
    level: int | None
    needs_keys: bool
    before_max_ms: int | None
    batch_bytes_max: int
    expanded_bytes_max: int
    batches_max: int
    walks: bool

    def is_light(self, batches: memoryview) -> bool:
        """Whether `apply` takes so little time that a loop may do it: a few records that are not compressed.

        Raises what check_batches does.
        """
        if len(batches) > _LIGHT_BYTES:
            return False
        found = self._checked(batches)
        return sum(facts.record_count for facts in found) <= _LIGHT_RECORDS and not any(f.codec for f in found)

    def apply(self, batches: memoryview, now_ms: int) -> bytearray:
        """All `steps` at once."""
        return finished(self.steps(batches, now_ms))

    def steps(self, batches: memoryview, now_ms: int) -> Steps[bytearray]:
        """The batches as the topic wants them.

        Raises what check_batches and decompression do; InvalidRecord, InvalidTimestamp, with the records at fault.
        """
        out = bytearray()
        budget = Budget(self.expanded_bytes_max)
        for facts in self._checked(batches):
            batch = batches[facts.position : facts.position + facts.size_bytes]
            out += yield from self._applied(batch, facts, now_ms, budget)
            yield TURN
        return out

    def _checked(self, batches: memoryview) -> list[BatchFacts]:
        return check_batches(
            batches,
            self.batch_bytes_max,
            batches_max=self.batches_max,
            expanded_bytes_max=self.expanded_bytes_max,
        )

    def _applied(
        self, batch: memoryview, facts: BatchFacts, now_ms: int, budget: Budget
    ) -> Steps[bytearray | memoryview]:
        is_other = self.codec is not None and facts.codec != self.codec
        looks_inside = self.walks or self.needs_keys or self.before_max_ms is not None
        if not is_other and not looks_inside:
            return batch
        try:
            plain = (yield from expanded(batch, budget)) if facts.codec else batch
        except CorruptMessage as error:
            # Sent again it would be the same: no CORRUPT_MESSAGE, at which producers try again.
            raise InvalidRecord(str(error)) from None
        max_timestamp = facts.max_timestamp
        if looks_inside:
            earliest_ms = None if self.before_max_ms is None else now_ms - self.before_max_ms
            found = yield from walk(plain, needs_keys=self.needs_keys, earliest_ms=earliest_ms)
            _refuse(found)
            max_timestamp = found.max_timestamp
        made = batch
        if is_other:
            if not self.codec and len(plain) > self.batch_bytes_max:
                raise MessageTooLarge(
                    f"a batch takes {len(plain)} bytes without compression; message.max.bytes allows "
                    f"{self.batch_bytes_max}"
                )
            made = memoryview(recompress(plain, self.codec or compression.NONE, self.level))
        if plain is not batch:
            compression.free(plain)
        return made if max_timestamp == facts.max_timestamp else _with_max_timestamp(made, max_timestamp)


def _refuse(found: Walked) -> None:
    if found.keyless_count:
        raise InvalidRecord(f"{found.keyless_count} records have no key, which a compacted topic needs", found.keyless)
    if found.old_count:
        raise InvalidTimestamp(f"{found.old_count} records are older than message.timestamp.before.max.ms", found.old)


def _with_max_timestamp(batch: memoryview, max_timestamp: int) -> bytearray:
    """The batch with the largest timestamp that its records have, as Kafka writes it whatever the producer said."""
    made = bytearray(batch)
    _LONG.pack_into(made, MAX_TIMESTAMP_POSITION, max_timestamp)
    write_crc(made, 0, len(made))
    return made


def policy_of(config: LogConfig) -> RecordPolicy | None:
    """What these settings ask; None: nothing, so that batches need not be opened."""
    name = config.compression_type
    codec = None if name == "producer" else compression.codec_number("none" if name == "uncompressed" else name)
    needs_keys = "compact" in config.cleanup_policy
    has_age = config.timestamp_before_max_ms != _ANY_AGE and config.timestamp_type == "CreateTime"
    walks = config.record_validation == "records"
    if codec is None and not needs_keys and not has_age and not walks:
        return None
    return RecordPolicy(
        codec,
        getattr(config, _LEVELS[codec]) if codec in _LEVELS else None,
        needs_keys,
        config.timestamp_before_max_ms if has_age else None,
        config.message_max_bytes,
        config.decompressed_bytes_max,
        config.produce_batches_max,
        walks,
    )
