"""What a changed configuration means for a running broker."""

from __future__ import annotations

from typing import NamedTuple

from kbroker.config import SETTINGS, Config, Known, make_config, value_text


class Reload(NamedTuple):
    """`config` is the running one with `changes` (setting name → value as text) applied."""

    config: Config
    changes: dict[str, str]
    needs_restart: list[str]
    """Settings that changed and cannot follow while the broker runs."""


def reloaded(running: Config, wanted: Config) -> Reload:
    """Compare the running configuration with what was read."""
    changes: dict[str, str] = {}
    needs_restart: list[str] = []
    for name, known in SETTINGS.items():
        new = _value(wanted, known)
        if new != _value(running, known):
            if known.setting.reloadable:
                changes[name] = value_text(new)
            else:
                needs_restart.append(name)
    return Reload(make_config(changes, running), changes, needs_restart)


def _value(config: Config, known: Known) -> object:
    return getattr(getattr(config, known.section), known.attribute)
