"""Every setting once: its name, type, unit, default, bounds and a line of doc.

`--help`, the reference (`kbroker config`), the error for a wrong value and the topic settings of `kbroker topic` all
come from the fields below. Names and meanings are Kafka's where Kafka has them.

A configuration file is TOML with the same names: `log.segment.bytes = 1048576`, or tables that say the same.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kbroker.errors import ConfigError


@dataclass(frozen=True)
class Setting:
    """What is known of one setting besides its value.

    `topic_name` is the name under which a topic may override it, if it may; `name` is empty where only topics have it.
    `least` of a list is of its items; `choices` are a text's, or those of each item of a list. `pattern` is what a
    value's text, or each item of a list, must match, and `pattern_means` says so to people. `reloadable` settings
    follow SIGHUP.
    """

    name: str
    doc: str
    unit: str = ""
    least: int | None = None
    most: int | None = None
    choices: tuple[str, ...] = ()
    topic_name: str | None = None
    reloadable: bool = False
    pattern: str = ""
    pattern_means: str = ""


def setting(
    name: str,
    default: Any,
    doc: str,
    *,
    unit: str = "",
    least: int | None = None,
    most: int | None = None,
    choices: tuple[str, ...] = (),
    topic: str | None = None,
    reloadable: bool = False,
    pattern: str = "",
    pattern_means: str = "",
) -> Any:
    """A dataclass field that carries its Setting."""
    facts = Setting(name, doc, unit, least, most, choices, topic, reloadable, pattern, pattern_means)
    return field(default=default, metadata={"setting": facts})


INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_REPLICA = r"\*|[0-9]+:[0-9]+"
_REPLICA_MEANS = "`*`, or PARTITION:NODE items"


@dataclass(frozen=True, slots=True)
class LogConfig:
    """How a partition's log is written, flushed and kept. A topic may override those with a topic name."""

    segment_bytes: int = setting(
        "log.segment.bytes", 1 << 30, "A segment is rolled before it grows past this.",
        unit="bytes", least=1 << 20, most=INT32_MAX, topic="segment.bytes", reloadable=True,
    )  # fmt: skip
    segment_ms: int = setting(
        "log.roll.ms", 7 * 86_400_000, "A segment is rolled when its first record is older than this.",
        unit="ms", least=1, most=_INT64_MAX, topic="segment.ms", reloadable=True,
    )  # fmt: skip
    retention_ms: int = setting(
        "log.retention.ms", 7 * 86_400_000, "Closed segments whose newest record is older than this go; -1 keeps all.",
        unit="ms", least=-1, most=_INT64_MAX, topic="retention.ms", reloadable=True,
    )  # fmt: skip
    retention_bytes: int = setting(
        "log.retention.bytes", -1, "The oldest segments go while the partition is larger than this; -1 keeps all.",
        unit="bytes", least=-1, most=_INT64_MAX, topic="retention.bytes", reloadable=True,
    )  # fmt: skip
    retention_check_interval_ms: int = setting(
        "log.retention.check.interval.ms", 300_000,
        "How often retention and rolling by age are looked at; the first time 30 s after a start, if not sooner.",
        unit="ms", least=1, most=_INT64_MAX, reloadable=True,
    )  # fmt: skip
    delete_delay_ms: int = setting(
        "log.segment.delete.delay.ms", 60_000, "A file taken out of the log is unlinked after this.",
        unit="ms", least=0, most=_INT64_MAX, topic="file.delete.delay.ms", reloadable=True,
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
    flush_interval_ms: int = setting(
        "log.flush.interval.ms", 1000, "What acks=1 wrote is on the disk after this at the latest.",
        unit="ms", least=0, most=_INT64_MAX, topic="flush.ms", reloadable=True,
    )  # fmt: skip
    flush_messages: int = setting(
        "log.flush.interval.messages", _INT64_MAX, "A flush begins when this many records are not on the disk yet.",
        least=1, most=_INT64_MAX, topic="flush.messages", reloadable=True,
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
    producer_id_expiration_ms: int = setting(
        "producer.id.expiration.ms", 86_400_000, "An idempotent producer that is silent for this long is forgotten.",
        unit="ms", least=1, most=INT32_MAX,
    )  # fmt: skip
    cleanup_policy: tuple[str, ...] = setting(
        "log.cleanup.policy", ("delete",),
        "`delete`: old segments go by age and size. `compact`: every record needs a key, and without `delete` none "
        "goes by age or size; dropping all but the newest record of a key comes with a later release. Empty: all stay.",
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
        "log.message.timestamp.before.max.ms", _INT64_MAX,
        "Records with a producer's timestamp that lies further in the past are refused.",
        unit="ms", least=0, most=_INT64_MAX, topic="message.timestamp.before.max.ms", reloadable=True,
    )  # fmt: skip
    timestamp_after_max_ms: int = setting(
        "log.message.timestamp.after.max.ms", 3_600_000,
        "Records with a producer's timestamp that lies further in the future are refused.",
        unit="ms", least=0, most=_INT64_MAX, topic="message.timestamp.after.max.ms", reloadable=True,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where things are and how many processes run."""

    data_dir: str = setting("log.dir", "/var/lib/kbroker", "Folder of the partitions and the catalog.")
    runtime_dir: str = setting(
        "runtime.dir", "", "Folder of the sockets; empty: $RUNTIME_DIRECTORY, else `run` in the data folder."
    )
    workers: int = setting("workers", 0, "Worker processes; 0: one for each core, at most 8.", least=0, most=64)
    num_partitions: int = setting(
        "num.partitions", 1, "Partitions of a topic that is created without a number.",
        least=1, most=10_000, reloadable=True,
    )  # fmt: skip
    auto_create_topics: bool = setting(
        "auto.create.topics.enable", True, "A producer's first record to an unknown topic creates it.", reloadable=True
    )
    topics_max: int = setting("topics.max", 10_000, "More topics than this are refused.", least=1, most=1_000_000)
    partitions_max: int = setting(
        "partitions.max", 20_000, "More partitions than this in all are refused.", least=1, most=1_000_000
    )
    heartbeat_timeout_ms: int = setting(
        "process.heartbeat.timeout.ms", 5_000, "A process that has not answered for this long is killed and replaced.",
        unit="ms", least=500, most=600_000, reloadable=True,
    )  # fmt: skip
    drain_timeout_ms: int = setting(
        "shutdown.drain.timeout.ms", 10_000, "How long SIGTERM waits for work in flight and a clean close.",
        unit="ms", least=0, most=600_000, reloadable=True,
    )  # fmt: skip
    io_threads: int = setting(
        "num.io.threads", 4, "Threads in each worker for what may block: flushes and cold reads.", least=1, most=64
    )
    front_memory_max_bytes: int = setting(
        "front.memory.max.bytes", 512 << 20, "A front whose own memory grows past this is replaced.",
        unit="bytes", least=64 << 20, most=_INT64_MAX, reloadable=True,
    )  # fmt: skip
    worker_memory_max_bytes: int = setting(
        "worker.memory.max.bytes", 2 << 30,
        "A worker or coordinator whose own memory (not the page cache) grows past this is replaced.",
        unit="bytes", least=128 << 20, most=_INT64_MAX, reloadable=True,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class NativeConfig:
    """The ZeroMQ door for native clients, and its limits. Each is checked before our code allocates anything."""

    tcp_listen: str = setting(
        "native.listen",
        "",
        "HOST:PORT for native clients over tcp (7092 is usual; port 0: any free one). Empty: ipc only.",
    )
    frame_bytes_max: int = setting(
        "native.frame.bytes.max", 32 << 20,
        "The largest frame that is taken from a client, and the most in all frames of a produce.",
        unit="bytes", least=1 << 16, most=INT32_MAX,
    )  # fmt: skip
    frames_max: int = setting(
        "native.frames.max", 256, "The most payload frames in one request.", least=1, most=100_000
    )
    header_bytes_max: int = setting(
        "native.header.bytes.max", 1 << 20, "The largest header of a request.", unit="bytes", least=1024, most=1 << 26
    )
    requests_in_flight_max: int = setting(
        "native.requests.in.flight.max",
        256,
        "More unanswered requests of one client are refused.",
        least=1,
        most=65_536,
    )
    bytes_in_flight_max: int = setting(
        "native.bytes.in.flight.max", 64 << 20,
        "Answers to one client that it has not yet taken; above it, fetches are refused until it has.",
        unit="bytes", least=1 << 20, most=_INT64_MAX,
    )  # fmt: skip
    clients_max: int = setting("native.clients.max", 4096, "More clients than this are refused.", least=1, most=1 << 20)
    fetch_bytes_max: int = setting(
        "fetch.max.bytes", 8 << 20, "The most bytes in the answer to one fetch, but for a single larger batch.",
        unit="bytes", least=1024, most=INT32_MAX,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ShmConfig:
    """Shared-memory reads by consumers on this host."""

    enabled: bool = setting("shm.enable", True, "Hand descriptors to consumers on this host.")
    allowed_users: str = setting(
        "shm.allowed.users", "",
        "Users (names or ids, comma-separated) that may read through shared memory, besides root and the broker's own.",
    )  # fmt: skip
    allowed_group: str = setting(
        "shm.allowed.group", "", "Members of this group (name or id) may read through shared memory."
    )
    connections_max: int = setting(
        "shm.connections.max", 1024, "Readers connected to one worker; more are refused.", least=1, most=65_536
    )
    handover_timeout_ms: int = setting(
        "shm.handover.timeout.ms", 5_000, "A reader that does not take a descriptor for this long is hung up on.",
        unit="ms", least=100, most=600_000,
    )  # fmt: skip
    open_max: int = setting("shm.open.max", 4096, "Partitions one reader may hold open.", least=1, most=1_000_000)


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """The doors for Kafka clients, and their limits. Each is checked before our code allocates anything."""

    listeners: str = setting(
        "listeners", "PLAINTEXT://localhost:9092",
        "PLAINTEXT://HOST:PORT for Kafka clients, or HOST:PORT. The coordinator takes PORT, worker i PORT+1+i; "
        "port 0: free ones. `localhost` is 127.0.0.1 and ::1, `*` every address. Empty: no Kafka clients.",
    )  # fmt: skip
    advertised_host: str = setting(
        "advertised.host", "",
        "The host that Kafka clients are told, where it is not the address they dialled (behind NAT or port mapping).",
    )  # fmt: skip
    advertised_ports: str = setting(
        "advertised.ports", "",
        "The ports that Kafka clients are told, where they are not the listeners' own: the coordinator's (worker i "
        "follows at PORT+1+i), or a list of one for each node.",
    )  # fmt: skip
    connections_max: int = setting(
        "max.connections", 20_000, "Kafka clients connected to one process; more are refused.", least=1, most=1 << 20
    )
    connections_per_address_max: int = setting(
        "max.connections.per.ip", 20_000, "Kafka connections from one address to one process; more are refused.",
        least=1, most=1 << 20,
    )  # fmt: skip
    idle_max_ms: int = setting(
        "connections.max.idle.ms", 600_000, "A Kafka connection that asks nothing for this long is closed.",
        unit="ms", least=1_000, most=_INT64_MAX,
    )  # fmt: skip
    stall_max_ms: int = setting(
        "kafka.stall.max.ms", 30_000, "A Kafka client that stops in the middle of a request, or takes nothing of an "
        "answer for this long, is hung up on.", unit="ms", least=100, most=3_600_000,
    )  # fmt: skip
    request_bytes_max: int = setting(
        "socket.request.max.bytes", 100 << 20, "The largest request of a Kafka client (Produce).",
        unit="bytes", least=1024, most=INT32_MAX,
    )  # fmt: skip
    small_request_bytes_max: int = setting(
        "kafka.request.max.bytes", 4 << 20, "The largest request of a Kafka client other than Produce.",
        unit="bytes", least=1024, most=INT32_MAX,
    )  # fmt: skip
    buffered_bytes_max: int = setting(
        "queued.max.request.bytes", 512 << 20,
        "Half-received requests of all Kafka connections of one process; above it connections are closed.",
        unit="bytes", least=1 << 20, most=_INT64_MAX,
    )  # fmt: skip
    answer_bytes_max: int = setting(
        "kafka.queued.answer.max.bytes", 256 << 20,
        "Answers that wait in memory until Kafka clients take them, of all connections of one process; above it those "
        "who have most are hung up on.", unit="bytes", least=8 << 20, most=_INT64_MAX,
    )  # fmt: skip
    requests_in_flight_max: int = setting(
        "kafka.requests.in.flight.max", 64, "A Kafka connection with so many unanswered requests is not read from.",
        least=1, most=65_536,
    )  # fmt: skip
    fetch_sessions_max: int = setting(
        "max.incremental.fetch.session.cache.slots", 1000,
        "Fetch sessions that each process remembers; above it the smallest and the unused give way.",
        least=0, most=1_000_000,
    )  # fmt: skip
    fetch_bytes_max: int = setting(
        "kafka.fetch.max.bytes", 55 << 20, "The most bytes in the answer to one fetch of a Kafka client, but for "
        "a single larger batch.", unit="bytes", least=1024, most=INT32_MAX,
    )  # fmt: skip


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
        unit="ms", least=0, most=_INT64_MAX, topic="segment.jitter.ms", reloadable=True,
    )  # fmt: skip
    min_cleanable_ratio: float = setting(
        "log.cleaner.min.cleanable.ratio", 0.5, "The part of a log that must be new before it is compacted.",
        least=0, most=1, topic="min.cleanable.dirty.ratio", reloadable=True,
    )  # fmt: skip
    tombstone_retention_ms: int = setting(
        "log.cleaner.delete.retention.ms", 86_400_000, "How long compaction keeps a record without a value.",
        unit="ms", least=0, most=_INT64_MAX, topic="delete.retention.ms", reloadable=True,
    )  # fmt: skip
    min_compaction_lag_ms: int = setting(
        "log.cleaner.min.compaction.lag.ms", 0, "A record is not compacted away before it is this old.",
        unit="ms", least=0, most=_INT64_MAX, topic="min.compaction.lag.ms", reloadable=True,
    )  # fmt: skip
    max_compaction_lag_ms: int = setting(
        "log.cleaner.max.compaction.lag.ms", _INT64_MAX, "A record is looked at by compaction when it is this old.",
        unit="ms", least=1, most=_INT64_MAX, topic="max.compaction.lag.ms", reloadable=True,
    )  # fmt: skip
    local_retention_ms: int = setting(
        "log.local.retention.ms", -2, "retention.ms of what lies here under tiered storage; -2: the same.",
        unit="ms", least=-2, most=_INT64_MAX, topic="local.retention.ms", reloadable=True,
    )  # fmt: skip
    local_retention_bytes: int = setting(
        "log.local.retention.bytes", -2, "retention.bytes of what lies here under tiered storage; -2: the same.",
        unit="bytes", least=-2, most=_INT64_MAX, topic="local.retention.bytes", reloadable=True,
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


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """Consumer groups, their limits, and the topic that keeps their offsets."""

    groups_max: int = setting("groups.max", 100_000, "More groups than this are refused.", least=1, most=10_000_000)
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
        unit="ms", least=1, most=_INT64_MAX,
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


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a broker, each in the section that uses it."""

    server: ServerConfig = field(default_factory=ServerConfig)
    log: LogConfig = field(default_factory=LogConfig)
    native: NativeConfig = field(default_factory=NativeConfig)
    shm: ShmConfig = field(default_factory=ShmConfig)
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    inert: InertConfig = field(default_factory=InertConfig)
    groups: GroupConfig = field(default_factory=GroupConfig)

    @property
    def data_dir(self) -> Path:
        """The data folder, absolute."""
        return Path(self.server.data_dir).absolute()

    @property
    def runtime_dir(self) -> Path:
        """The folder of the sockets, absolute."""
        chosen = self.server.runtime_dir or os.environ.get("RUNTIME_DIRECTORY", "")
        return Path(chosen).absolute() if chosen else self.data_dir / "run"

    @property
    def worker_count(self) -> int:
        """How many workers run: `workers`, or one for each core this process may use, at most 8."""
        return self.server.workers or min(8, len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Known:
    """A setting with where it lives: section and field name, type and default."""

    setting: Setting
    section: str
    attribute: str
    kind: type
    default: Any

    @property
    def alterable(self) -> bool:
        """Whether an admin may alter it while the broker runs: what topics fall back to."""
        return self.setting.reloadable and self.section in ("log", "inert")


def _walk() -> Iterator[Known]:
    defaults = Config()
    for section in fields(Config):
        part = getattr(defaults, section.name)
        for item in fields(part):
            default = getattr(part, item.name)
            yield Known(item.metadata["setting"], section.name, item.name, type(default), default)


ALL_SETTINGS: tuple[Known, ...] = tuple(_walk())
SETTINGS: dict[str, Known] = {known.setting.name: known for known in ALL_SETTINGS if known.setting.name}
TOPIC_SETTINGS: dict[str, Known] = {k.setting.topic_name: k for k in ALL_SETTINGS if k.setting.topic_name}


def allowed(known: Known) -> str:
    """What a value may be, for people: `1 … 10 ms`, `one of a, b`, `true or false`."""
    facts = known.setting
    if facts.pattern_means:
        return facts.pattern_means
    if facts.choices:
        some = ("one or more of " if facts.least else "any of ") if known.kind is tuple else "one of "
        return some + ", ".join(facts.choices)
    if known.kind is bool:
        return "true or false"
    if known.kind in (int, float):
        unit = f" {facts.unit}" if facts.unit else ""
        return f"a {'whole ' if known.kind is int else ''}number, {facts.least} … {facts.most}{unit}"
    return "items with commas between them" if known.kind is tuple else "text"


def parse_value(known: Known, text: str, name: str) -> Any:
    """The value that `text` stands for. Raises ConfigError naming the setting, the value and what is allowed."""
    facts = known.setting
    text = text.strip()
    value: Any = text
    try:
        if known.kind is tuple:
            value = list_items(text)
            if len(value) < (facts.least or 0):
                raise ValueError
        for item in value if known.kind is tuple else (text,):
            if facts.choices and item not in facts.choices:
                raise ValueError
            if facts.pattern and not re.fullmatch(facts.pattern, item):
                raise ValueError
        if known.kind is bool:
            value = {"true": True, "false": False}[text.lower()]
        elif known.kind in (int, float):
            value = _number(known.kind, text)
            if not (facts.least or 0) <= value <= (_INT64_MAX if facts.most is None else facts.most):
                raise ValueError
    except (KeyError, ValueError):
        raise ConfigError(f"{name}={text!r:.200} is not valid: it must be {allowed(known)}") from None
    return value


def _number(kind: type, text: str) -> int | float:
    if not _NUMBER.fullmatch(text):  # Python also takes 1_000, nan and other scripts' digits
        raise ValueError
    number: int | float = kind(text)
    return number


def list_items(text: str) -> tuple[str, ...]:
    """The items of a list as it is written, `a, b`: each once, in their order."""
    return tuple(dict.fromkeys(item for part in text.split(",") if (item := part.strip())))


def _known(names: Mapping[str, Known], name: str, what: str) -> Known:
    found = names.get(name)
    if found is None:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"unknown {what} {name!r}{hint}")
    return found


def make_config(values: Mapping[str, str], base: Config | None = None) -> Config:
    """`base` (or the defaults) with the named settings replaced. Raises ConfigError."""
    config = base or Config()
    sections: dict[str, dict[str, Any]] = {}
    for name, text in values.items():
        known = _known(SETTINGS, name, "setting")
        sections.setdefault(known.section, {})[known.attribute] = parse_value(known, text, name)
    replaced = {s: dataclasses.replace(getattr(config, s), **changes) for s, changes in sections.items()}
    return dataclasses.replace(config, **replaced)


def check_alterable(settings: Mapping[str, str]) -> None:
    """Raises ConfigError unless an admin may set all these broker settings, to these values, while it runs."""
    for name, text in settings.items():
        known = _known(SETTINGS, name, "setting")
        if not known.alterable:
            raise ConfigError(f"{name} cannot be altered while the broker runs; it is set in its file or by a flag")
        parse_value(known, text, name)


def check_setting_name(name: str) -> None:
    """Raises ConfigError, naming the nearest right one, unless the broker has a setting of that name."""
    _known(SETTINGS, name, "setting")


def parse_toml(text: str, source: str) -> dict[str, str]:
    """The settings of a TOML file, tables joined by dots; `source` names the file in errors. Raises ConfigError."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from None
    values: dict[str, str] = {}

    def flatten(prefix: str, entries: Mapping[str, Any]) -> None:
        for key, value in entries.items():
            name = f"{prefix}{key}"
            if isinstance(value, dict):
                flatten(f"{name}.", value)
            elif isinstance(value, (str, int, float, bool)):
                values[name] = value_text(value)
            elif isinstance(value, list) and all(isinstance(item, str) for item in value):
                values[name] = value_text(tuple(value))
            else:
                raise ConfigError(f"{source}: {name} must be text, a number, true, false or a list, not {value!r:.200}")

    flatten("", table)
    return values


def read_settings(path: Path) -> dict[str, str]:
    """The settings in a configuration file, each checked. Raises ConfigError naming the file and what is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the configuration file {path}: it is not UTF-8 ({error})") from None
    values = parse_toml(text, str(path))
    for name, value in values.items():
        try:
            make_config({name: value})
        except ConfigError as error:
            raise ConfigError(f"{path}{_line_of(name, text)}: {error}") from None
    return values


def _line_of(name: str, text: str) -> str:
    """`, line N` of a setting in a TOML text, written out or as the last key in a table; empty when not found."""
    for key in (name, name.rpartition(".")[2]):
        for number, line in enumerate(text.splitlines(), 1):
            if line.partition("=")[0].strip().replace('"', "") == key:
                return f", line {number}"
    return ""


def load_config(path: Path | None, overrides: Mapping[str, str]) -> Config:
    """The defaults, then the file, then `overrides`. Raises ConfigError naming the file or setting at fault."""
    values = read_settings(path) if path is not None else {}
    return make_config({**values, **overrides})


def check_topic_settings(settings: Mapping[str, str]) -> None:
    """Raises ConfigError for the first topic setting whose name or value is wrong."""
    for name, text in settings.items():
        parse_value(_known(TOPIC_SETTINGS, name, "topic setting"), text, name)
    defaults = Config()
    least, most = (topic_value(defaults, settings, f"{end}.compaction.lag.ms") for end in ("min", "max"))
    if least > most:
        raise ConfigError(f"min.compaction.lag.ms={least} is more than max.compaction.lag.ms={most}")


def check_topic_setting_name(name: str) -> None:
    """Raises ConfigError, naming the nearest right one, unless a topic may have a setting of that name."""
    _known(TOPIC_SETTINGS, name, "topic setting")


def topic_value(config: Config, settings: Mapping[str, str], name: str) -> Any:
    """The value in force of a topic's setting: the topic's own, else the broker's. Raises ConfigError."""
    known = _known(TOPIC_SETTINGS, name, "topic setting")
    if name in settings:
        return parse_value(known, settings[name], name)
    return getattr(getattr(config, known.section), known.attribute)


def topic_log_config(base: LogConfig, settings: Mapping[str, str]) -> LogConfig:
    """The broker's log settings with a topic's own on top. Raises ConfigError."""
    changes = {}
    for name, text in settings.items():
        known = _known(TOPIC_SETTINGS, name, "topic setting")
        if known.section == "log":
            changes[known.attribute] = parse_value(known, text, name)
    return dataclasses.replace(base, **changes)


def value_text(value: Any) -> str:
    """A value as it is written in a configuration file."""
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
