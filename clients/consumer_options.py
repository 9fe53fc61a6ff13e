"""The consumer's options: names and meanings as in kafka-python, each checked, each error naming its argument."""

from __future__ import annotations

from dataclasses import dataclass

from kbroker.clients.producer_options import check_callable, whole_number
from kbroker.clients.record_batch import Deserializer
from kbroker.errors import ConfigError


@dataclass(slots=True)
class ConsumerOptions:
    """What `Consumer(…)` was given; see there."""

    client_id: str = "kbroker-consumer"
    auto_offset_reset: str = "latest"
    fetch_max_bytes: int = 8 << 20
    max_partition_fetch_bytes: int = 1 << 20
    fetch_min_bytes: int = 1
    fetch_max_wait_ms: int = 500
    max_poll_records: int = 500
    key_deserializer: Deserializer | None = None
    value_deserializer: Deserializer | None = None
    consumer_timeout_ms: int | None = None
    transport: str = "auto"
    isolation_level: str = "read_uncommitted"
    check_crcs: bool = True
    metadata_max_age_ms: int = 300_000
    request_timeout_ms: int = 30_000
    retry_backoff_ms: int = 20
    api_timeout_ms: int = 10_000
    group: str | None = None
    group_instance_id: str | None = None
    partition_assignor: str | None = None
    enable_auto_commit: bool = True
    auto_commit_interval_ms: int = 5_000
    max_poll_interval_ms: int = 300_000
    on_deserialization_error: str = "raise"
    on_corrupt: str = "raise"

    def check(self) -> None:
        """Raises ConfigError naming the argument at fault."""
        for name, choices in (
            ("auto_offset_reset", ("latest", "earliest", "none")),
            ("transport", ("auto", "shm", "zmq")),
            ("isolation_level", ("read_uncommitted", "read_committed")),
            ("on_deserialization_error", ("raise", "skip")),
            ("on_corrupt", ("raise", "skip")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is not valid: it must be one of {', '.join(choices)}"
                )
        for name, least in (
            ("fetch_max_bytes", 1024),
            ("max_partition_fetch_bytes", 1024),
            ("fetch_min_bytes", 0),
            ("fetch_max_wait_ms", 0),
            ("max_poll_records", 1),
            ("metadata_max_age_ms", 1),
            ("request_timeout_ms", 1),
            ("retry_backoff_ms", 1),
            ("api_timeout_ms", 1),
            ("auto_commit_interval_ms", 1),
            ("max_poll_interval_ms", 1),
        ):
            whole_number(name, getattr(self, name), least)
        if self.consumer_timeout_ms is not None:
            whole_number("consumer_timeout_ms", self.consumer_timeout_ms, 0)
        for name in ("group", "group_instance_id", "partition_assignor"):
            text = getattr(self, name)
            if text is not None and (not isinstance(text, str) or not text):
                raise ConfigError(f"{name}={text!r} is not valid: it must be a text that is not empty")
        if self.group is None and (self.group_instance_id is not None or self.partition_assignor is not None):
            raise ConfigError("group_instance_id and partition_assignor mean nothing without group")
        check_callable("key_deserializer", self.key_deserializer)
        check_callable("value_deserializer", self.value_deserializer)
