"""Settings of the doors for Kafka clients."""

from __future__ import annotations

from dataclasses import dataclass

from kbroker.config.setting import INT32_MAX, INT64_MAX, setting


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
        "connections.max.idle.ms", 600_000,
        "A Kafka connection that asks nothing, or takes nothing of an answer, for this long is closed.",
        unit="ms", least=1_000, most=INT64_MAX,
    )  # fmt: skip
    stall_max_ms: int = setting(
        "kafka.stall.max.ms", 30_000, "A Kafka client that stops in the middle of a request for this long is hung up "
        "on, and so is one that takes nothing of an answer once half of kafka.queued.answer.max.bytes is queued; until "
        "then such a client has connections.max.idle.ms.", unit="ms", least=100, most=3_600_000,
    )  # fmt: skip
    request_bytes_max: int = setting(
        "socket.request.max.bytes", 100 << 20, "The largest request of a Kafka client (Produce).",
        unit="bytes", least=1024, most=INT32_MAX,
    )  # fmt: skip
    small_request_bytes_max: int = setting(
        "kafka.request.max.bytes", 4 << 20, "The largest request of a Kafka client other than Produce.",
        unit="bytes", least=1024, most=INT32_MAX,
    )  # fmt: skip
    request_elements_max: int = setting(
        "kafka.request.elements.max", 200_000,
        "The most topics, partitions, groups and whatever else a Kafka client's request lists, all together; a client "
        "that sends more is hung up on.",
        least=1000, most=1_000_000,
    )  # fmt: skip
    buffered_bytes_max: int = setting(
        "queued.max.request.bytes", 512 << 20,
        "Half-received requests of all Kafka connections of one process; above it who needs more memory is not read "
        "from until there is some again, and a request must end within kafka.stall.max.ms.",
        unit="bytes", least=1 << 20, most=INT64_MAX,
    )  # fmt: skip
    answer_bytes_max: int = setting(
        "kafka.queued.answer.max.bytes", 256 << 20,
        "Answers that wait in memory until Kafka clients take them, of all connections of one process; above it those "
        "who have most are hung up on.", unit="bytes", least=8 << 20, most=INT64_MAX,
    )  # fmt: skip
    requests_in_flight_max: int = setting(
        "kafka.requests.in.flight.max", 64, "A Kafka connection with so many unanswered requests is not read from.",
        least=1, most=65_536,
    )  # fmt: skip
    request_timeout_ms: int = setting(
        "request.timeout.ms", 30_000, "How long a worker waits for the coordinator's answer to a request that it has "
        "passed on; then the client is told to try again.", unit="ms", least=100, most=3_600_000,
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
