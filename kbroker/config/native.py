"""Settings of the door for native clients."""

from __future__ import annotations

from dataclasses import dataclass

from kbroker.config.setting import INT32_MAX, INT64_MAX, setting


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
        unit="bytes", least=1 << 20, most=INT64_MAX,
    )  # fmt: skip
    answer_bytes_max: int = setting(
        "native.queued.answer.max.bytes", 256 << 20,
        "Answers that wait in a worker until native clients of this host take them; above it fetches are refused until "
        "they have.", unit="bytes", least=8 << 20, most=INT64_MAX,
    )  # fmt: skip
    clients_max: int = setting("native.clients.max", 4096, "More clients than this are refused.", least=1, most=1 << 20)
    fetch_bytes_max: int = setting(
        "fetch.max.bytes", 8 << 20, "The most bytes in the answer to one fetch, but for a single larger batch.",
        unit="bytes", least=1024, most=INT32_MAX,
    )  # fmt: skip
