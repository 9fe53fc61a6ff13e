"""Settings of compaction."""

from __future__ import annotations

from dataclasses import dataclass

from kbroker.config.setting import INT64_MAX, setting


@dataclass(frozen=True, slots=True)
class CleanerConfig:
    """Compaction of `__consumer_offsets`. What users' topics say of it is kept and shown: they are not compacted."""

    min_cleanable_ratio: float = setting(
        "log.cleaner.min.cleanable.ratio", 0.5,
        "`__consumer_offsets` is compacted when more than this part of its closed segments, by size, never was.",
        least=0, most=1, topic="min.cleanable.dirty.ratio", reloadable=True,
    )  # fmt: skip
    tombstone_retention_ms: int = setting(
        "log.cleaner.delete.retention.ms", 86_400_000, "How long compaction keeps a record without a value.",
        unit="ms", least=0, most=INT64_MAX, topic="delete.retention.ms", reloadable=True,
    )  # fmt: skip
    min_compaction_lag_ms: int = setting(
        "log.cleaner.min.compaction.lag.ms", 0, "A record is not compacted away before it is this old.",
        unit="ms", least=0, most=INT64_MAX, topic="min.compaction.lag.ms", reloadable=True,
    )  # fmt: skip
    max_compaction_lag_ms: int = setting(
        "log.cleaner.max.compaction.lag.ms", INT64_MAX,
        "A closed segment that was made so long ago is compacted, whatever the ratio.",
        unit="ms", least=1, most=INT64_MAX, topic="max.compaction.lag.ms", reloadable=True,
    )  # fmt: skip
