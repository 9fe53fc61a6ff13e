"""All settings of a broker, section by section, and each of them by its name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from kbroker.config.cleaner import CleanerConfig
from kbroker.config.groups import GroupConfig
from kbroker.config.inert import InertConfig
from kbroker.config.kafka import KafkaConfig
from kbroker.config.log import LogConfig
from kbroker.config.native import NativeConfig
from kbroker.config.server import ServerConfig
from kbroker.config.setting import Setting
from kbroker.config.shm import ShmConfig


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a broker, each in the section that uses it."""

    server: ServerConfig = field(default_factory=ServerConfig)
    log: LogConfig = field(default_factory=LogConfig)
    native: NativeConfig = field(default_factory=NativeConfig)
    shm: ShmConfig = field(default_factory=ShmConfig)
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    cleaner: CleanerConfig = field(default_factory=CleanerConfig)
    inert: InertConfig = field(default_factory=InertConfig)
    groups: GroupConfig = field(default_factory=GroupConfig)
    set_by_hand: frozenset[str] = field(default=frozenset(), compare=False)
    """Names of the settings that somebody has given a value; it may be the default."""

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
        return self.setting.reloadable and self.section in ("log", "cleaner", "inert")


def _walk() -> Iterator[Known]:
    defaults = Config()
    for section in fields(Config):
        part = getattr(defaults, section.name)
        for item in fields(part) if is_dataclass(part) else ():
            default = getattr(part, item.name)
            yield Known(item.metadata["setting"], section.name, item.name, type(default), default)


ALL_SETTINGS: tuple[Known, ...] = tuple(_walk())
SETTINGS: dict[str, Known] = {known.setting.name: known for known in ALL_SETTINGS if known.setting.name}
TOPIC_SETTINGS: dict[str, Known] = {k.setting.topic_name: k for k in ALL_SETTINGS if k.setting.topic_name}
