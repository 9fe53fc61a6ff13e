"""Where each socket of a broker lies. One place knows the names.

In the runtime folder: `front.ipc` (the door for native clients), and for each worker `worker-N.sock` (its own door for
clients on this host) and `worker-N.shm` (descriptors for shared-memory readers); `supervisor.sock` tells the status.
`front.ipc` is ZeroMQ's, the others are plain unix sockets.

In its folder `internal`, which nobody but the broker's own user may enter: `backend.sock` (workers and coordinator dial
in to the front) and `control.sock` (front and workers dial in to the coordinator).
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
from collections.abc import Mapping
from pathlib import Path

from kbroker.errors import BrokerUnavailable, StartError

UNIX_PATH_BYTES_MAX = 107
"""sun_path holds 108 bytes, the last a zero."""

SERVER_VARIABLE = "KBROKER_SERVER"
NATIVE_PORT = 7092

UNIX = "unix://"
"""Begins the endpoint of a plain unix stream; ipc:// and tcp:// are ZeroMQ's."""

FRONT = "front.ipc"
SUPERVISOR = "supervisor.sock"
INTERNAL = "internal"
"""The folder of the doors between the broker's own processes, mode 0700."""
BACKEND = f"{INTERNAL}/backend.sock"
CONTROL = f"{INTERNAL}/control.sock"
_LONGEST = BACKEND


def worker_door(worker_index: int) -> str:
    """File name of a worker's own door for clients on this host."""
    return f"worker-{worker_index}.sock"


def worker_shm(worker_index: int) -> str:
    """File name of a worker's descriptor socket."""
    return f"worker-{worker_index}.shm"


def ipc(folder: Path, name: str) -> str:
    """ZeroMQ endpoint of a socket in the runtime folder."""
    return f"ipc://{folder / name}"


def unix(path: Path) -> str:
    """Endpoint of a unix stream that carries the native protocol."""
    return f"{UNIX}{path}"


def check_runtime_path(folder: Path) -> None:
    """Raises StartError when the folder's path is too long for a unix socket in it, or no UTF-8, as ZeroMQ wants it."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise StartError(
            f"the runtime folder's path is not UTF-8: {str(folder)!r}; set runtime.dir (--runtime-dir) to one that is"
        ) from None
    longest = len(os.fsencode(folder / _LONGEST))
    if longest > UNIX_PATH_BYTES_MAX:
        raise StartError(
            f"the runtime folder's path is too long for a unix socket: {folder} makes paths of {longest} bytes, at "
            f"most {UNIX_PATH_BYTES_MAX} are possible; set runtime.dir (--runtime-dir) to a shorter one"
        )


def default_data_dir() -> Path:
    """Where `kbroker serve` puts its data when not told: /var/lib/kbroker for root, else in the home folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/kbroker")
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "kbroker"


def usual_runtime_dirs() -> list[Path]:
    """Where a broker of this host has its sockets when nobody said otherwise."""
    usual = [Path("/run/kbroker"), Path("/var/lib/kbroker/run"), default_data_dir() / "run"]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        usual.insert(0, Path(runtime) / "kbroker")
    return list(dict.fromkeys(usual))


def _listens(port: int) -> bool:
    """Whether somebody listens on that port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def denied(path: Path) -> str:
    """What keeps this process's user from connecting to the unix socket at `path`, and what to do; "" when nothing
    does, or when there is none."""
    folder = next((parent for parent in reversed(path.parents) if not os.access(parent, os.X_OK)), None)
    place = folder or path
    try:
        facts = os.stat(place)
    except OSError:
        return ""
    if folder is None and os.access(path, os.W_OK):
        return ""
    user, group = _name_of_user(os.geteuid()), _name_of_group(facts.st_gid)
    may = facts.st_mode & (0o010 if folder is not None else 0o020)
    advice = (
        f"`usermod -aG {group} {user}` as root, then log in anew"
        if may and facts.st_gid != 0
        else f"run as {_name_of_user(facts.st_uid)}, its owner"
    )
    return f"user {user} may not connect to {path}: {place} belongs to {_name_of_user(facts.st_uid)}:{group}; {advice}"


def _name_of_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _name_of_group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def is_there(path: Path) -> bool:
    """Also when we may not look: then `denied` says so."""
    try:
        return path.exists()
    except PermissionError:
        return True


def _ipc_at(path: Path) -> str:
    """The endpoint of the front's socket at `path`. Raises BrokerUnavailable where its permissions keep us out."""
    if reason := denied(path):
        raise BrokerUnavailable(reason)
    return f"ipc://{path}"


_API_VERSIONS = bytes.fromhex("0000000a 0012 0000 00000000 ffff")
"""Kafka's ApiVersions, version 0, correlation id 0, no client id: any broker answers it."""


def speaks_kafka(endpoint: str, timeout_s: float = 0.5) -> bool:
    """Whether somebody at this tcp://HOST:PORT answers as a Kafka broker. Takes two timeouts at most."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not endpoint.startswith("tcp://") or not port.isdigit():
        return False
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(_API_VERSIONS)
            answer = connection.recv(64)
    except (OSError, OverflowError):
        return False
    # A size, the correlation id, an error code 0.
    return len(answer) >= 10 and answer[:2] == b"\0\0" and answer[4:10] == bytes(6)


def resolve_server(server: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The ZeroMQ endpoint that a client's `server` means.

    `tcp://HOST:PORT`, `HOST:PORT`, `ipc://PATH`, the path of a front's socket, or of the folder it lies in. None: what
    KBROKER_SERVER says, else the first broker found in the usual places, else tcp://127.0.0.1:7092. Raises
    BrokerUnavailable when there is none.
    """
    server = server or environment.get(SERVER_VARIABLE)
    if not server:
        usual = usual_runtime_dirs()
        barred = []
        for folder in usual:
            if is_there(folder / FRONT):
                if reason := denied(folder / FRONT):
                    barred.append(reason)
                else:
                    return ipc(folder, FRONT)
        if _listens(NATIVE_PORT):
            return f"tcp://127.0.0.1:{NATIVE_PORT}"
        if barred:
            raise BrokerUnavailable(barred[0])
        raise BrokerUnavailable(
            f"no broker found in {', '.join(map(str, usual))} or at tcp://127.0.0.1:{NATIVE_PORT}: start one "
            f"with `kbroker serve`, or name it by server=… or {SERVER_VARIABLE}=…"
        )
    if server.startswith("tcp://"):
        return server
    if server.startswith("ipc://"):
        return _ipc_at(Path(server.removeprefix("ipc://")))
    if server.startswith(("/", ".", "~")):
        path = Path(server).expanduser().absolute()
        for place in (path / FRONT, path / "run" / FRONT):
            if is_there(place):
                return _ipc_at(place)
        return _ipc_at(path)
    host, colon, port = server.rpartition(":")
    if not colon:
        return f"tcp://{server}:{NATIVE_PORT}"
    if not port.isdigit():
        raise BrokerUnavailable(f"server={server!r} is not HOST:PORT, tcp://HOST:PORT, ipc://PATH or a folder")
    return f"tcp://{host}:{port}"
