"""What every client checks of its arguments before it connects."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Mapping

from kbroker.errors import ConfigError
from kbroker.wire.endpoints import NATIVE_PORT

_MEANT = {"bootstrap_servers": "server", "bootstrap_server": "server", "servers": "server"}
"""Other names that people come with, from other clients."""


_SERVER = (
    "one address of the broker's native endpoint is expected: ipc://PATH, a folder, HOST:PORT or tcp://HOST:PORT (port "
    f"{NATIVE_PORT}, not Kafka's)"
)


def one_server(server: object) -> str | None:
    """`server` as given, if it is one address. Raises ConfigError."""
    if server is None or isinstance(server, str):
        return server
    if isinstance(server, os.PathLike):
        return os.fsdecode(server)
    raise ConfigError(f"server={server!r} is not valid: {_SERVER}")


def check_unknown(client: type, unknown: Mapping[str, object]) -> None:
    """Raises ConfigError if there is any. `client` is the class whose constructor was called."""
    for name, value in unknown.items():
        known = [p for p in inspect.signature(client).parameters if p != "unknown"]
        meant = _MEANT.get(name) or next(iter(difflib.get_close_matches(name, known, 1)), None)
        hint = f"did you mean {meant}?" if meant else f"see help({client.__name__})"
        if meant == "server":
            hint = f"did you mean server? For it, {_SERVER}"
        raise ConfigError(f"{client.__name__} has no argument {name} (={value!r}); {hint}")
