"""Asks a broker's supervisor for its status, over the unix socket in the runtime folder."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from kbroker.errors import BrokerUnavailable
from kbroker.wire.endpoints import SUPERVISOR, denied

_DOCUMENT_BYTES_MAX = 16 << 20


def read_status(runtime_dir: Path, timeout_ms: int = 2_000) -> dict[str, Any]:
    """The status document of the broker whose sockets lie in `runtime_dir`.

    Raises BrokerUnavailable when there is none, when it may not be asked, or when it does not answer in time.
    """
    path = runtime_dir / SUPERVISOR
    received = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_ms / 1000)
            connection.connect(str(path))
            while chunk := connection.recv(1 << 16):
                received += chunk
                if len(received) > _DOCUMENT_BYTES_MAX:
                    raise BrokerUnavailable(f"{path} sends more than a status; is it kbroker's?")
        document = json.loads(received)
    except (FileNotFoundError, ConnectionRefusedError):
        raise BrokerUnavailable(f"no broker runs on {runtime_dir}: start one with `kbroker serve`") from None
    except PermissionError:
        raise BrokerUnavailable(denied(path) or f"not allowed to connect to {path}") from None
    except TimeoutError:
        raise BrokerUnavailable(f"{path} did not answer within {timeout_ms} ms: is the broker stopped?") from None
    except OSError as error:
        raise BrokerUnavailable(f"cannot ask {path}: {error.strerror or error}") from None
    except ValueError:
        raise BrokerUnavailable(f"{path} hung up in the middle of its status; ask again") from None
    if not isinstance(document, dict):
        raise BrokerUnavailable(f"{path} sent no status; is it kbroker's?")
    return document
