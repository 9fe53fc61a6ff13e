"""What the state machines of groups may be told. The broker fills it from its configuration (`kbroker/config/`)."""

from __future__ import annotations

from dataclasses import dataclass

from kbroker.groups.limits import COMMIT_BYTES_MAX, GROUP_BYTES_MAX


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """Defaults are Kafka's; the setting's name stands beside each."""

    groups_max: int = 100_000
    """groups.max (ours): above it new groups are refused."""
    memory_max_bytes: int = 512 << 20
    """groups.memory.max.bytes (ours): what all groups, their members and committed offsets may take in memory."""
    offsets_retention_ms: int = 10_080 * 60_000
    """offsets.retention.minutes: how long the offsets of a group without members are kept."""
    offsets_retention_check_interval_ms: int = 600_000
    """offsets.retention.check.interval.ms: how often a group is looked at for offsets that have expired."""
    offset_metadata_max_bytes: int = 4096
    """offset.metadata.max.bytes: the longest text that may be committed with an offset, as UTF-8."""

    # classic groups
    max_size: int = 2**31 - 1
    """group.max.size: the most members of a classic group."""
    min_session_timeout_ms: int = 6_000
    """group.min.session.timeout.ms"""
    max_session_timeout_ms: int = 1_800_000
    """group.max.session.timeout.ms"""
    initial_rebalance_delay_ms: int = 3_000
    """group.initial.rebalance.delay.ms: how long an empty group waits for more members before its first rebalance."""

    # consumer groups (KIP-848)
    consumer_max_size: int = 2**31 - 1
    """group.consumer.max.size: the most members of a consumer group."""
    consumer_session_timeout_ms: int = 45_000
    """group.consumer.session.timeout.ms: a member that is silent for this long is put out."""
    consumer_heartbeat_interval_ms: int = 5_000
    """group.consumer.heartbeat.interval.ms: how often members are told to send a heartbeat."""
    consumer_assignors: tuple[str, ...] = ("uniform", "range")
    """group.consumer.assignors: the first is taken when no member names one."""
    consumer_assignment_interval_ms: int = 200
    """group.consumer.assignment.interval.ms: in a burst of changes assignments are computed once per this time."""
    consumer_migration_policy: str = "bidirectional"
    """group.consumer.migration.policy: `bidirectional`, `upgrade`, `downgrade` or `disabled`."""
    consumer_regex_refresh_interval_ms: int = 600_000
    """group.consumer.regex.refresh.interval.ms: patterns are matched anew after this, whatever happens."""

    @property
    def group_bytes_max(self) -> int:
        """What all members of one group may say about themselves: an answer and a record hold it once more each."""
        return min(GROUP_BYTES_MAX, self.memory_max_bytes // 4)

    @property
    def commit_bytes_max(self) -> int:
        """The records of one commit."""
        return min(COMMIT_BYTES_MAX, self.memory_max_bytes // 4)
