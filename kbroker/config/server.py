"""Settings of the broker as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from kbroker.config.setting import INT64_MAX, setting


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
    producer_ids_max: int = setting(
        "producer.ids.max", 0,
        "Idempotent producers that the partitions of a worker remember in all, each once in each partition: above it "
        "the partitions with most forget those that wrote longest ago. 0: what takes an eighth of "
        "worker.memory.max.bytes.",
        least=0, most=100_000_000,
    )  # fmt: skip
    io_threads: int = setting(
        "num.io.threads", 4, "Threads in each worker for what may block: flushes and cold reads.", least=1, most=64
    )
    front_memory_max_bytes: int = setting(
        "front.memory.max.bytes", 512 << 20, "A front whose own memory grows past this is replaced.",
        unit="bytes", least=64 << 20, most=INT64_MAX, reloadable=True,
    )  # fmt: skip
    worker_memory_max_bytes: int = setting(
        "worker.memory.max.bytes", 2 << 30,
        "A worker or coordinator whose own memory (not the page cache) grows past this is replaced.",
        unit="bytes", least=128 << 20, most=INT64_MAX, reloadable=True,
    )  # fmt: skip
