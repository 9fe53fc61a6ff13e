"""Settings of consumer groups."""

from __future__ import annotations

from dataclasses import dataclass

from kbroker.config.setting import INT32_MAX, INT64_MAX, setting


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """Consumer groups, their limits, and the topic that keeps their offsets."""

    groups_max: int = setting("groups.max", 100_000, "More groups than this are refused.", least=1, most=10_000_000)
    memory_max_bytes: int = setting(
        "groups.memory.max.bytes", 0,
        "What all groups, their members and committed offsets may take in the coordinator's memory: more is refused, "
        "and at a start the largest groups of a log that holds more are left out. 0: a quarter of "
        "worker.memory.max.bytes, and never more than half of it.",
        unit="bytes", least=0, most=INT64_MAX,
    )  # fmt: skip
    max_size: int = setting(
        "group.max.size", INT32_MAX, "The most members of a classic group.", least=1, most=INT32_MAX
    )
    min_session_timeout_ms: int = setting(
        "group.min.session.timeout.ms", 6_000, "The shortest session timeout that a classic member may ask for.",
        unit="ms", least=1, most=INT32_MAX,
    )  # fmt: skip
    max_session_timeout_ms: int = setting(
        "group.max.session.timeout.ms", 1_800_000, "The longest session timeout that a classic member may ask for.",
        unit="ms", least=1, most=INT32_MAX,
    )  # fmt: skip
    initial_rebalance_delay_ms: int = setting(
        "group.initial.rebalance.delay.ms", 3_000,
        "How long an empty classic group waits for more members before its first rebalance.",
        unit="ms", least=0, most=INT32_MAX,
    )  # fmt: skip
    consumer_max_size: int = setting(
        "group.consumer.max.size", INT32_MAX, "The most members of a consumer group (KIP-848).",
        least=1, most=INT32_MAX,
    )  # fmt: skip
    consumer_session_timeout_ms: int = setting(
        "group.consumer.session.timeout.ms", 45_000, "A member of a consumer group that is silent for this is put out.",
        unit="ms", least=1, most=INT32_MAX,
    )  # fmt: skip
    consumer_heartbeat_interval_ms: int = setting(
        "group.consumer.heartbeat.interval.ms", 5_000, "How often members of consumer groups are told to be heard of.",
        unit="ms", least=1, most=INT32_MAX,
    )  # fmt: skip
    consumer_assignors: tuple[str, ...] = setting(
        "group.consumer.assignors", ("uniform", "range"),
        "Assignors of consumer groups; the first is taken when no member names one.",
        least=1, choices=("uniform", "range"),
    )  # fmt: skip
    consumer_assignment_interval_ms: int = setting(
        "group.consumer.assignment.interval.ms", 200,
        "While members come and go, a consumer group's partitions are assigned anew once in this time.",
        unit="ms", least=0, most=INT32_MAX,
    )  # fmt: skip
    consumer_migration_policy: str = setting(
        "group.consumer.migration.policy", "bidirectional",
        "Which way a group may move between the classic and the consumer protocol while it has members.",
        choices=("bidirectional", "upgrade", "downgrade", "disabled"),
    )  # fmt: skip
    consumer_regex_refresh_interval_ms: int = setting(
        "group.consumer.regex.refresh.interval.ms", 600_000,
        "Subscribed patterns of consumer groups are matched anew after this, whatever happens.",
        unit="ms", least=10_000, most=INT32_MAX,
    )  # fmt: skip
    offsets_retention_minutes: int = setting(
        "offsets.retention.minutes", 10_080, "Offsets of a group without members are kept for this long.",
        unit="minutes", least=1, most=INT32_MAX,
    )  # fmt: skip
    offsets_retention_check_interval_ms: int = setting(
        "offsets.retention.check.interval.ms", 600_000, "How often a group is looked at for offsets that have expired.",
        unit="ms", least=1, most=INT64_MAX,
    )  # fmt: skip
    offset_metadata_max_bytes: int = setting(
        "offset.metadata.max.bytes", 4096, "The longest text that may be committed with an offset.",
        unit="bytes", least=0, most=32_767,
    )  # fmt: skip
    offsets_segment_bytes: int = setting(
        "offsets.topic.segment.bytes", 16 << 20,
        "Segment size of `__consumer_offsets`: small ones are compacted early, which keeps the start short.",
        unit="bytes", least=1 << 16, most=INT32_MAX,
    )  # fmt: skip
