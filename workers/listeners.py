"""Every listening socket of the broker, bound by the supervisor before it forks.

Children inherit them: while one restarts, its clients wait in the socket's backlog and are not refused. Sockets come
from systemd where it passes some ($LISTEN_FDS) under a name that we know.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kbroker.config import Config
from kbroker.errors import ConfigError, StartError
from kbroker.wire.endpoints import BACKEND, CONTROL, FRONT, SUPERVISOR, worker_door, worker_shm

log = logging.getLogger(__name__)

BACKLOG = 1024
PREDECESSOR_PORT_WAIT_MS = 2_000
"""How long a port may stay taken after a broker was killed: its processes may still be dying."""
_ACTIVATION_FIRST_FD = 3


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """HOST:PORT as a setting names it. An empty host or `*` means every address of this host."""

    host: str
    port: int
    setting: str

    def __str__(self) -> str:
        return host_port(self.host or "*", self.port)


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the runtime folder. `kind` is socket.SOCK_SEQPACKET or SOCK_STREAM."""

    path: Path
    kind: int

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket: which process gets it, and under which name."""

    process: str
    name: str
    address: TcpAddress | UnixAddress


@dataclass
class OpenListeners:
    """The bound sockets: `by_process["worker-0"]["shm"]`."""

    by_process: dict[str, dict[str, socket.socket]] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    """Where clients connect: `{"native": "127.0.0.1:7092", "worker-0/shm": "/run/…"}`; ports as they were bound."""

    @property
    def kafka_ports(self) -> dict[int, int]:
        """The port of each node that serves Kafka clients."""
        return {
            int(name.removeprefix("kafka-")): int(address.rpartition(":")[2])
            for name, address in self.addresses.items()
            if name.startswith("kafka-")
        }

    def close(self) -> None:
        """Close all; removes the unix ones from the file system."""
        for sockets in self.by_process.values():
            for sock in sockets.values():
                if sock.family == socket.AF_UNIX:
                    with contextlib.suppress(OSError):
                        os.unlink(sock.getsockname())
                sock.close()
        self.by_process.clear()


def host_port(host: str, port: int) -> str:
    """`127.0.0.1:7092`, `[::1]:7092`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str, setting: str) -> TcpAddress:
    """HOST:PORT, [IPV6]:PORT or *:PORT. Raises ConfigError naming the setting."""
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65_535 or (":" in host and not bracketed):
        raise ConfigError(f"{setting}={text!r} is not valid: it must be HOST:PORT, [IPV6]:PORT or *:PORT")
    host = host[1:-1] if bracketed else host
    return TcpAddress("" if host == "*" else host, int(port), setting)


def planned(config: Config) -> list[Listener]:
    """All the listeners that a configuration asks for."""

    def unix(process: str, name: str, file_name: str, kind: int = socket.SOCK_STREAM) -> Listener:
        return Listener(process, name, UnixAddress(config.runtime_dir / file_name, kind))

    listeners = [
        unix("front", "door", FRONT),
        unix("front", "backend", BACKEND),
        unix("coordinator", "control", CONTROL),
    ]
    if config.native.tcp_listen:
        listeners.append(Listener("front", "native", parse_address(config.native.tcp_listen, "native.listen")))
    for i in range(config.worker_count):
        listeners.append(unix(f"worker-{i}", "door", worker_door(i)))
        if config.shm.enabled:
            listeners.append(unix(f"worker-{i}", "shm", worker_shm(i), socket.SOCK_SEQPACKET))
    if config.kafka.listeners:
        listeners += _kafka(config)
    return listeners


def kafka_listener(node: int) -> str:
    """Name of the listener on which that node serves Kafka clients."""
    return f"kafka-{node}"


def _kafka(config: Config) -> list[Listener]:
    """One port for each node: the coordinator's, then the workers' in order."""
    address = parse_kafka_address(config.kafka.listeners)
    if address.port + config.worker_count > 65_535:
        raise ConfigError(
            f"listeners={config.kafka.listeners}: {config.worker_count} workers need a port each above it"
        )
    processes = ["coordinator", *(f"worker-{i}" for i in range(config.worker_count))]
    return [
        Listener(
            process,
            kafka_listener(node),
            TcpAddress(address.host, address.port + node if address.port else 0, address.setting),
        )
        for node, process in enumerate(processes)
    ]


def parse_kafka_address(text: str) -> TcpAddress:
    """The address in `PLAINTEXT://HOST:PORT` or `HOST:PORT`. Raises ConfigError: one listener, no other protocol."""
    scheme, separator, rest = text.strip().rpartition("://")
    if separator and scheme.upper() != "PLAINTEXT":
        raise ConfigError(f"listeners={text!r}: only PLAINTEXT://HOST:PORT is possible, there is no {scheme[:32]} yet")
    if "," in rest:
        raise ConfigError(f"listeners={text!r}: only one listener is possible")
    host, colon, port = rest.rpartition(":")
    # Kafka's own way to say "every address": nothing before the colon.
    return parse_address(f"*:{port}" if colon and not host else rest, "listeners")


def open_listeners(
    listeners: list[Listener], inherited: Mapping[str, socket.socket], predecessor_died: bool = False
) -> OpenListeners:
    """Bind all, or take those that systemd passed under a listener's name. Logs one warning when others can reach us.

    `predecessor_died`: wait a moment for its ports. Raises StartError naming the port and what to do.
    """
    result = OpenListeners()
    exposed: list[str] = []
    try:
        for listener in listeners:
            sock = inherited.get(listener.name) if isinstance(listener.address, TcpAddress) else None
            if sock is None:
                sock = _bind(listener.address, PREDECESSOR_PORT_WAIT_MS if predecessor_died else 0)
            result.by_process.setdefault(listener.process, {})[listener.name] = sock
            if isinstance(listener.address, UnixAddress):
                result.addresses[f"{listener.process}/{listener.name}"] = str(listener.address)
            else:
                bound = _bound_address(sock)
                result.addresses[listener.name] = bound
                if not _is_loopback(sock):
                    exposed.append(bound)
    except BaseException:
        result.close()
        raise
    if exposed:
        log.warning(
            "listening on %s: there is no authentication yet, whoever can reach it can read and write everything",
            ", ".join(exposed),
        )
    return result


def inherited_listeners(environment: Mapping[str, str] = os.environ) -> dict[str, socket.socket]:
    """The sockets that systemd passed, by name ($LISTEN_FDNAMES). Variables meant for another process are ignored.

    Raises StartError when one is not a socket.
    """
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
        return {}
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    sockets = {}
    for i in range(int(count)):
        try:
            sock = socket.socket(fileno=_ACTIVATION_FIRST_FD + i)
        except OSError as error:
            raise StartError(f"descriptor {_ACTIVATION_FIRST_FD + i} from systemd is no socket: {error}") from None
        sock.set_inheritable(False)
        sock.setblocking(False)
        sockets[names[i] if i < len(names) else ""] = sock
    return sockets


def remove_stale_sockets(runtime_dir: Path) -> None:
    """Unlink what a dead predecessor left. Call it only under the runtime folder's lock."""
    for entry in runtime_dir.iterdir():
        ours = entry.name in (FRONT, BACKEND, CONTROL, SUPERVISOR) or _is_workers(entry.name)
        if ours and stat.S_ISSOCK(entry.lstat().st_mode):
            entry.unlink()


@contextlib.contextmanager
def socket_umask() -> Iterator[None]:
    """Unix sockets bound inside get mode 0660: their owner and the group may connect."""
    before = os.umask(0o117)
    try:
        yield
    finally:
        os.umask(before)


def bind_unix(path: Path, kind: int) -> socket.socket:
    """A listening unix socket, mode 0660, non-blocking. Raises StartError."""
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        with socket_umask():
            sock.bind(str(path))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise StartError(f"cannot listen on {path}: {error.strerror}") from None
    return sock


def _is_workers(name: str) -> bool:
    index = name.removeprefix("worker-").partition(".")[0]
    return index.isdigit() and name in (worker_door(int(index)), worker_shm(int(index)))


def _bind(address: TcpAddress | UnixAddress, wait_ms: int) -> socket.socket:
    if isinstance(address, UnixAddress):
        return bind_unix(address.path, address.kind)
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"{address.setting}: cannot find the address of {address.host!r}: {error.strerror}") from None
    # IPv6 first where every address is meant: that socket takes IPv4 as well.
    found.sort(key=lambda info: info[0] != socket.AF_INET6 if not address.host else info[0] == socket.AF_INET6)
    family, _, _, _, where = found[0]
    deadline = time.monotonic() + wait_ms / 1000
    while True:
        try:
            return _listen_tcp(family, where)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            raise StartError(_bind_failure(address, error)) from None


def _listen_tcp(family: int, where: object) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(where)  # type: ignore[arg-type]  # as getaddrinfo gave it
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_failure(address: TcpAddress, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {address.port} is taken by another program ({address.setting}={address}): stop it (`ss -ltnp` "
            f"shows which one), or choose another port with {address.setting}"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"not allowed to listen on {address}: choose a port from 1024 up with {address.setting}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {address}: no interface of this host has that address; change {address.setting}"
    return f"cannot listen on {address} ({address.setting}): {error.strerror}"


def _bound_address(sock: socket.socket) -> str:
    name = sock.getsockname()
    return name if isinstance(name, str) else host_port(name[0], name[1])


def _is_loopback(sock: socket.socket) -> bool:
    if sock.family == socket.AF_UNIX:
        return True
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback
