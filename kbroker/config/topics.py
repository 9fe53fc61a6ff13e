"""Topics' own settings, over those of the broker."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kbroker.config.config import TOPIC_SETTINGS, Config
from kbroker.config.log import LogConfig
from kbroker.config.values import known_by, parse_value
from kbroker.errors import ConfigError


def check_topic_settings(settings: Mapping[str, str]) -> None:
    """Raises ConfigError for the first topic setting whose name or value is wrong."""
    for name, text in settings.items():
        parse_value(known_by(TOPIC_SETTINGS, name, "topic setting"), text, name)
    defaults = Config()
    least, most = (topic_value(defaults, settings, f"{end}.compaction.lag.ms") for end in ("min", "max"))
    if least > most:
        raise ConfigError(f"min.compaction.lag.ms={least} is more than max.compaction.lag.ms={most}")


def check_topic_setting_name(name: str) -> None:
    """Raises ConfigError, naming the nearest right one, unless a topic may have a setting of that name."""
    known_by(TOPIC_SETTINGS, name, "topic setting")


def topic_value(config: Config, settings: Mapping[str, str], name: str) -> Any:
    """The value in force of a topic's setting: the topic's own, else the broker's. Raises ConfigError."""
    known = known_by(TOPIC_SETTINGS, name, "topic setting")
    if name in settings:
        return parse_value(known, settings[name], name)
    return getattr(getattr(config, known.section), known.attribute)


def topic_log_config(base: LogConfig, settings: Mapping[str, str]) -> LogConfig:
    """The broker's log settings with a topic's own on top. Raises ConfigError."""
    changes = {}
    for name, text in settings.items():
        known = known_by(TOPIC_SETTINGS, name, "topic setting")
        if known.section == "log":
            changes[known.attribute] = parse_value(known, text, name)
    return dataclasses.replace(base, **changes)
