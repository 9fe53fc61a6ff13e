"""Kafka's settings for what is not here."""

from __future__ import annotations

from dataclasses import dataclass

from kbroker.config.setting import INT32_MAX, INT64_MAX, setting

_REPLICA = r"\*|[0-9]+:[0-9]+"
_REPLICA_MEANS = "`*`, or PARTITION:NODE items"


@dataclass(frozen=True, slots=True)
class InertConfig:
    """Kafka's settings for what is not here. Checked, kept and shown, so that what was written for Kafka works."""

    min_insync_replicas: int = setting(
        "min.insync.replicas", 1, "Replicas that acks=all waits for. Each partition has one, which is always in sync.",
        least=1, most=INT32_MAX, topic="min.insync.replicas", reloadable=True,
    )  # fmt: skip
    unclean_leader_election: bool = setting(
        "unclean.leader.election.enable", False, "Whether a replica that is not in sync may lead: there is no other.",
        topic="unclean.leader.election.enable", reloadable=True,
    )  # fmt: skip
    preallocate: bool = setting(
        "log.preallocate", False, "Whether a new segment takes its space at once.", topic="preallocate", reloadable=True
    )
    segment_jitter_ms: int = setting(
        "log.roll.jitter.ms", 0, "Spreads the times at which the segments of many partitions roll.",
        unit="ms", least=0, most=INT64_MAX, topic="segment.jitter.ms", reloadable=True,
    )  # fmt: skip
    local_retention_ms: int = setting(
        "log.local.retention.ms", -2, "retention.ms of what lies here under tiered storage; -2: the same.",
        unit="ms", least=-2, most=INT64_MAX, topic="local.retention.ms", reloadable=True,
    )  # fmt: skip
    local_retention_bytes: int = setting(
        "log.local.retention.bytes", -2, "retention.bytes of what lies here under tiered storage; -2: the same.",
        unit="bytes", least=-2, most=INT64_MAX, topic="local.retention.bytes", reloadable=True,
    )  # fmt: skip
    remote_storage: bool = setting(
        "", False, "Tiered storage.", topic="remote.storage.enable",
        pattern="(?i:false)", pattern_means="false: there is no tiered storage",
    )  # fmt: skip
    remote_copy_disable: bool = setting(
        "", False, "Whether tiered storage takes nothing new.", topic="remote.log.copy.disable"
    )
    remote_delete_on_disable: bool = setting(
        "", False, "Whether tiered data goes when it is switched off.", topic="remote.log.delete.on.disable"
    )
    leader_throttled_replicas: tuple[str, ...] = setting(
        "", (), "Replicas whose copying is throttled at their leader.", topic="leader.replication.throttled.replicas",
        pattern=_REPLICA, pattern_means=_REPLICA_MEANS,
    )  # fmt: skip
    follower_throttled_replicas: tuple[str, ...] = setting(
        "", (), "Replicas whose copying is throttled where they are.", topic="follower.replication.throttled.replicas",
        pattern=_REPLICA, pattern_means=_REPLICA_MEANS,
    )  # fmt: skip
