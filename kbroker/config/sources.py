"""A broker's configuration from files, the environment and flags, and what an admin may alter later."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kbroker.config.config import SETTINGS, Config
from kbroker.config.values import known_by, parse_value, value_text
from kbroker.errors import ConfigError


def make_config(values: Mapping[str, str], base: Config | None = None) -> Config:
    """`base` (or the defaults) with the named settings replaced. Raises ConfigError."""
    config = base or Config()
    sections: dict[str, dict[str, Any]] = {}
    for name, text in values.items():
        known = known_by(SETTINGS, name, "setting")
        sections.setdefault(known.section, {})[known.attribute] = parse_value(known, text, name)
    replaced = {s: dataclasses.replace(getattr(config, s), **changes) for s, changes in sections.items()}
    return dataclasses.replace(config, **replaced, set_by_hand=config.set_by_hand | values.keys())


def check_alterable(settings: Mapping[str, str]) -> None:
    """Raises ConfigError unless an admin may set all these broker settings, to these values, while it runs."""
    for name, text in settings.items():
        known = known_by(SETTINGS, name, "setting")
        if not known.alterable:
            raise ConfigError(f"{name} cannot be altered while the broker runs; it is set in its file or by a flag")
        parse_value(known, text, name)


def check_setting_name(name: str) -> None:
    """Raises ConfigError, naming the nearest right one, unless the broker has a setting of that name."""
    known_by(SETTINGS, name, "setting")


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
