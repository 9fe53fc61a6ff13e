"""Where a broker's settings come from: built-in defaults, then a file, then the environment, then flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kbroker.cli.outcome import TRACEBACK_VARIABLE
from kbroker.config import SETTINGS, Config, make_config, read_settings
from kbroker.errors import ConfigError
from kbroker.wire.endpoints import SERVER_VARIABLE, default_data_dir
from kbroker.wording import did_you_mean

CONFIG_VARIABLE = "KBROKER_CONFIG"
_PREFIX = "KBROKER_"
_NOT_SETTINGS = frozenset({SERVER_VARIABLE, CONFIG_VARIABLE, TRACEBACK_VARIABLE})


def variable_for(name: str) -> str:
    """The environment variable of a setting: KBROKER_LOG_SEGMENT_BYTES for log.segment.bytes."""
    return _PREFIX + name.upper().replace(".", "_")


_NAMES = {variable_for(name): name for name in SETTINGS}


def settings_in(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that environment variables give. Raises ConfigError for one that names no setting."""
    values: dict[str, str] = {}
    for variable, text in environment.items():
        if not variable.startswith(_PREFIX) or variable in _NOT_SETTINGS:
            continue
        if variable not in _NAMES:
            raise ConfigError(f"the environment variable {variable} names no setting{did_you_mean(variable, _NAMES)}")
        values[_NAMES[variable]] = text
    return values


@dataclass(frozen=True)
class Sources:
    """The layers of one broker's settings; `flags` is the last word."""

    file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)

    def layers(self) -> list[tuple[str, Mapping[str, str]]]:
        """Name and settings of each layer above the defaults, the strongest last. Reads the file anew."""
        state_dir = self.environment.get("STATE_DIRECTORY", "").split(":")[0]  # systemd's StateDirectory=
        found: list[tuple[str, Mapping[str, str]]] = [("place", {"log.dir": state_dir or str(default_data_dir())})]
        if self.file is not None:
            found.append((str(self.file), read_settings(self.file)))
        found.append(("environment", settings_in(self.environment)))
        found.append(("flag", self.flags))
        return found

    def config(self) -> Config:
        """The settings in force. Called again to reload. Raises ConfigError naming the layer at fault."""
        merged: dict[str, str] = {}
        for name, values in self.layers():
            try:
                make_config(values)
            except ConfigError as error:
                raise ConfigError(f"{error} ({name})") from None
            merged.update(values)
        return make_config(merged)

    def origin(self, setting: str) -> str:
        """The layer that a setting's value comes from: `default`, a file's path, `environment`, `flag`."""
        last = "default"
        for name, values in self.layers():
            if setting in values:
                last = "default" if name == "place" else name
        return last
