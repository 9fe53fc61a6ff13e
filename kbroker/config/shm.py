"""Settings of shared-memory reads."""

from __future__ import annotations

from dataclasses import dataclass

from kbroker.config.setting import setting


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
