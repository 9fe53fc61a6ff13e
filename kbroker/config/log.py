"""Settings of logs, most of which a topic may override."""

from __future__ import annotations

from dataclasses import dataclass

from kbroker.config.setting import INT32_MAX, INT64_MAX, setting


@dataclass(frozen=True, slots=True)
class LogConfig:
    """How a partition's log is written, flushed and kept. A topic may override those with a topic name."""

    segment_bytes: int = setting(
        "log.segment.bytes", 1 << 30, "A segment is rolled before it grows past this.",
        unit="bytes", least=1 << 20, most=INT32_MAX, topic="segment.bytes", reloadable=True,
    )  # fmt: skip
    segment_ms: int = setting(
        "log.roll.ms", 7 * 86_400_000, "A segment is rolled when its first record is older than this.",
        unit="ms", least=1, most=INT64_MAX, topic="segment.ms", reloadable=True,
    )  # fmt: skip
    retention_ms: int = setting(
        "log.retention.ms", 7 * 86_400_000, "Closed segments whose newest record is older than this go; -1 keeps all.",
        unit="ms", least=-1, most=INT64_MAX, topic="retention.ms", reloadable=True,
    )  # fmt: skip
    retention_bytes: int = setting(
        "log.retention.bytes", -1, "The oldest segments go while the partition is larger than this; -1 keeps all.",
        unit="bytes", least=-1, most=INT64_MAX, topic="retention.bytes", reloadable=True,
    )  # fmt: skip
    retention_check_interval_ms: int = setting(
        "log.retention.check.interval.ms", 300_000,
        "How often retention and rolling by age are looked at; the first time 30 s after a start, if not sooner.",
        unit="ms", least=1, most=INT64_MAX, reloadable=True,
    )  # fmt: skip
    delete_delay_ms: int = setting(
        "log.segment.delete.delay.ms", 60_000, "A file taken out of the log is unlinked after this.",
        unit="ms", least=0, most=INT64_MAX, topic="file.delete.delay.ms", reloadable=True,
    )  # fmt: skip
    index_interval_bytes: int = setting(
        "log.index.interval.bytes", 4096, "About one index entry for this many bytes of log.",
        unit="bytes", least=0, most=INT32_MAX, topic="index.interval.bytes", reloadable=True,
    )  # fmt: skip
    index_size_max_bytes: int = setting(
        "log.index.size.max.bytes", 10 << 20, "A segment is rolled when one of its indexes reaches this.",
        unit="bytes", least=4, most=INT32_MAX, topic="segment.index.bytes", reloadable=True,
    )  # fmt: skip
    message_max_bytes: int = setting(
        "message.max.bytes", 1_048_588, "The largest record batch that is accepted, header included.",
        unit="bytes", least=0, most=INT32_MAX, topic="max.message.bytes", reloadable=True,
    )  # fmt: skip
    produce_batches_max: int = setting(
        "produce.batches.max", 256,
        "The most record batches in one produce request of a native client; a Kafka client's has one per partition.",
        least=1, most=1_000_000, reloadable=True,
    )  # fmt: skip
    record_validation: str = setting(
        "record.validation", "header",
        "`header`: of a batch the header, size and first record are checked. `records`: it is decompressed, and every "
        "record in it is checked, beside the loop.",
        choices=("header", "records"), topic="record.validation", reloadable=True,
    )  # fmt: skip
    decompressed_bytes_max: int = setting(
        "record.decompressed.bytes.max", 64 << 20,
        "What the broker decompresses at most of one request's records, where it looks inside: look-ups by time, "
        "compression.type, cleanup.policy=compact, record.validation=records.",
        unit="bytes", least=1 << 20, most=INT32_MAX, reloadable=True,
    )  # fmt: skip
    flush_interval_ms: int = setting(
        "log.flush.interval.ms", 1000, "What acks=1 wrote is on the disk after this at the latest.",
        unit="ms", least=0, most=INT64_MAX, topic="flush.ms", reloadable=True,
    )  # fmt: skip
    flush_messages: int = setting(
        "log.flush.interval.messages", INT64_MAX, "A flush begins when this many records are not on the disk yet.",
        least=1, most=INT64_MAX, topic="flush.messages", reloadable=True,
    )  # fmt: skip
    flush_acks_all: str = setting(
        "log.flush.acks.all", "fdatasync",
        "What acks=all waits for: `fdatasync` survives power loss, `page-cache` only the death of any process.",
        choices=("fdatasync", "page-cache"), topic="flush.acks.all", reloadable=True,
    )  # fmt: skip
    recovery_point_bytes: int = setting(
        "log.recovery.point.bytes", 64 << 20, "A new recovery point at least each time this much was written.",
        unit="bytes", least=1 << 20, most=INT32_MAX,
    )  # fmt: skip
    recovery_point_batches: int = setting(
        "log.recovery.point.batches", 50_000, "A new recovery point at least each time this many batches were written.",
        least=100, most=INT32_MAX,
    )  # fmt: skip
    scrub_bytes_per_second: int = setting(
        "log.scrub.bytes.per.second", 1 << 20,
        "Each worker reads all its segments again and again at this rate, to find what a disk has damaged before "
        "readers do; 0: it does not.",
        unit="bytes", least=0, most=INT32_MAX, reloadable=True,
    )  # fmt: skip
    producer_id_expiration_ms: int = setting(
        "producer.id.expiration.ms", 86_400_000, "An idempotent producer that is silent for this long is forgotten.",
        unit="ms", least=1, most=INT32_MAX,
    )  # fmt: skip
    cleanup_policy: tuple[str, ...] = setting(
        "log.cleanup.policy", ("delete",),
        "`delete`: old segments go by age and size. `compact`: every record needs a key, and without `delete` none "
        "goes by age or size; **all records stay**: compaction of users' topics comes later. Empty: all stay.",
        choices=("compact", "delete"), topic="cleanup.policy", reloadable=True,
    )  # fmt: skip
    compression_type: str = setting(
        "compression.type", "producer",
        "`producer`: batches are kept as they were compressed. Else those of another compression are compressed anew.",
        choices=("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"), topic="compression.type",
        reloadable=True,
    )  # fmt: skip
    compression_gzip_level: int = setting(
        "compression.gzip.level", -1, "The level when the broker compresses by gzip.", least=-1, most=9,
        topic="compression.gzip.level", reloadable=True, pattern="-1|[1-9]", pattern_means="1 … 9, or -1 (gzip's own)",
    )  # fmt: skip
    compression_lz4_level: int = setting(
        "compression.lz4.level", 9, "The level when the broker compresses by lz4; 9 is the fast one.", least=1, most=17,
        topic="compression.lz4.level", reloadable=True,
    )  # fmt: skip
    compression_zstd_level: int = setting(
        "compression.zstd.level", 3, "The level when the broker compresses by zstd.", least=-131_072, most=22,
        topic="compression.zstd.level", reloadable=True,
    )  # fmt: skip
    timestamp_type: str = setting(
        "log.message.timestamp.type", "CreateTime", "Whose clock stamps records: the producer's or the broker's.",
        choices=("CreateTime", "LogAppendTime"), topic="message.timestamp.type", reloadable=True,
    )  # fmt: skip
    timestamp_before_max_ms: int = setting(
        "log.message.timestamp.before.max.ms", INT64_MAX,
        "Records with a producer's timestamp that lies further in the past are refused.",
        unit="ms", least=0, most=INT64_MAX, topic="message.timestamp.before.max.ms", reloadable=True,
    )  # fmt: skip
    timestamp_after_max_ms: int = setting(
        "log.message.timestamp.after.max.ms", 3_600_000,
        "Records with a producer's timestamp that lies further in the future are refused.",
        unit="ms", least=0, most=INT64_MAX, topic="message.timestamp.after.max.ms", reloadable=True,
    )  # fmt: skip
