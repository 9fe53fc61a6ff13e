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
from kbroker.wire.endpoints import BACKEND, CONTROL, FRONT, INTERNAL, SUPERVISOR, worker_door, worker_shm

log = logging.getLogger(__name__)

BACKLOG = 1024
PREDECESSOR_PORT_WAIT_MS = 2_000
"""How long a port may stay taken after a broker was killed: its processes may still be dying."""
TWIN_ATTEMPTS = 16
"""How many free ports of 127.0.0.1 are tried until one is free at ::1 too."""
_ACTIVATION_FIRST_FD = 3
_FORMER = ("backend.sock", "control.ipc")
"""Where earlier versions had their internal doors: one that was killed has left them."""


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
    """A socket in the runtime folder. `kind` is socket.SOCK_SEQPACKET or SOCK_STREAM; `is_internal`: only processes of
    this broker may dial it."""

    path: Path
    kind: int
    is_internal: bool = False

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket: which process gets it, and under which name.

    `has_twin`: `localhost` is meant as clients understand it, so there is a second socket at the same port of ::1,
    where this host has that address. It is named as `twin_name` says.
    """

    process: str
    name: str
    address: TcpAddress | UnixAddress
    has_twin: bool = False


@dataclass
class OpenListeners:
    """The bound sockets: `by_process["worker-0"]["shm"]`."""

    by_process: dict[str, dict[str, socket.socket]] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    """Where clients connect: `{"native": "127.0.0.1:7092", "worker-0/shm": "/run/…"}`; ports as they were bound."""

    def missing(self) -> list[str]:
        """Paths of unix sockets that somebody has removed: nobody can connect there any more."""
        return [path for path in self.addresses.values() if path.startswith("/") and not os.path.lexists(path)]

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

    def unix(
        process: str, name: str, file_name: str, kind: int = socket.SOCK_STREAM, is_internal: bool = False
    ) -> Listener:
        return Listener(process, name, UnixAddress(config.runtime_dir / file_name, kind, is_internal))

    listeners = [
        unix("front", "door", FRONT),
        unix("front", "backend", BACKEND, is_internal=True),
        unix("coordinator", "control", CONTROL, is_internal=True),
    ]
    if config.native.tcp_listen:
        listeners.append(Listener("front", "native", parse_address(config.native.tcp_listen, "native.listen")))
    for i in range(config.worker_count):
        listeners.append(unix(f"worker-{i}", "door", worker_door(i)))
        if config.shm.enabled:
            listeners.append(unix(f"worker-{i}", "shm", worker_shm(i), socket.SOCK_SEQPACKET))
    return listeners


def twin_name(name: str) -> str:
    """Name of the second socket of a listener that has a twin."""
    return f"{name}/ipv6"


def open_listeners(
    listeners: list[Listener], inherited: Mapping[str, socket.socket], predecessor_died: bool = False
) -> OpenListeners:
    """Bind all, or take those that systemd passed under a listener's name. Logs one warning when others can reach us.

    `predecessor_died`: wait a moment for its ports. Raises StartError naming the port and what to do.
    """
    result = OpenListeners()
    exposed: list[str] = []
    wait_ms = PREDECESSOR_PORT_WAIT_MS if predecessor_died else 0
    try:
        for listener in listeners:
            own = result.by_process.setdefault(listener.process, {})
            if isinstance(listener.address, UnixAddress):
                own[listener.name] = bind_unix(
                    listener.address.path, listener.address.kind, is_internal=listener.address.is_internal
                )
                result.addresses[f"{listener.process}/{listener.name}"] = str(listener.address)
                continue
            for name, sock in _tcp_sockets(listener, listener.address, inherited, wait_ms).items():
                own[name] = sock
                result.addresses[name] = bound = _bound_address(sock)
                if not _is_loopback(sock):
                    exposed.append(bound)
                elif sock.family != socket.AF_UNIX:
                    _send_unpaced(sock)
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
    for entry in runtime_dir.iterdir() if runtime_dir.exists() else ():  # somebody may have removed it
        ours = entry.name in (FRONT, SUPERVISOR, *_FORMER) or _is_workers(entry.name)
        if ours and stat.S_ISSOCK(entry.lstat().st_mode):
            entry.unlink()
    for name in (BACKEND, CONTROL):
        with contextlib.suppress(OSError):  # whoever makes the folder anew says what is wrong with it
            if stat.S_ISSOCK((runtime_dir / name).lstat().st_mode):
                (runtime_dir / name).unlink()
    with contextlib.suppress(OSError):
        (runtime_dir / INTERNAL).rmdir()


def make_internal_folder(runtime_dir: Path) -> None:
    """The folder of the doors between the broker's own processes: mode 0700, ours. Raises StartError.

    Call it only under the runtime folder's lock.
    """
    folder = runtime_dir / INTERNAL
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise StartError(
                f"{folder} is not a folder of user {os.geteuid()}: the broker's own processes meet there, and nobody "
                "else may; remove it"
            )
        folder.chmod(0o700)
    except OSError as error:
        raise StartError(f"cannot make {folder}: {error.strerror}; remove what is there") from None


@contextlib.contextmanager
def socket_umask(*, is_internal: bool = False) -> Iterator[None]:
    """Unix sockets bound inside get mode 0660: their owner and the group may connect. 0600 when they are internal."""
    before = os.umask(0o177 if is_internal else 0o117)
    try:
        yield
    finally:
        os.umask(before)


def bind_unix(path: Path, kind: int, *, is_internal: bool = False) -> socket.socket:
    """A listening unix socket, mode 0660 (internal: 0600), non-blocking. Raises StartError."""
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        with socket_umask(is_internal=is_internal):
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


def _tcp_sockets(
    listener: Listener, address: TcpAddress, inherited: Mapping[str, socket.socket], wait_ms: int
) -> dict[str, socket.socket]:
    """A listener's socket, and its twin where it has one, by name: passed by systemd, or bound here."""
    twin = twin_name(listener.name)
    if listener.name in inherited:
        return {name: inherited[name] for name in (listener.name, twin) if name in inherited}
    if not listener.has_twin:
        return {listener.name: _bind(address, wait_ms)}
    for _ in range(1 if address.port else TWIN_ATTEMPTS):
        sock = _bind(TcpAddress("127.0.0.1", address.port, address.setting), wait_ms)
        try:
            twin_address = TcpAddress("::1", sock.getsockname()[1], address.setting)
            return {listener.name: sock, twin: _listen_tcp(socket.AF_INET6, (twin_address.host, twin_address.port))}
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return {listener.name: sock}  # no IPv6 here: no client comes by it
            sock.close()
            failure = StartError(_bind_failure(twin_address, error))
    raise failure


def _bind(address: TcpAddress, wait_ms: int) -> socket.socket:
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
            f"shows which one), or choose another port with {_remedy(address.setting)}"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"not allowed to listen on {address}: choose a port from 1024 up with {address.setting}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {address}: no interface of this host has that address; change {address.setting}"
    return f"cannot listen on {address} ({address.setting}): {error.strerror}"


def _remedy(setting: str) -> str:
    if setting == "listeners":
        return "--listen HOST:PORT (each worker takes one more above it; port 0: free ones; '': no Kafka clients)"
    return setting


def _bound_address(sock: socket.socket) -> str:
    name = sock.getsockname()
    return name if isinstance(name, str) else host_port(name[0], name[1])


def _is_loopback(sock: socket.socket) -> bool:
    if sock.family == socket.AF_UNIX:
        return True
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def _send_unpaced(sock: socket.socket) -> None:
    """Have nobody who connects on loopback wait for timers between the packets of an answer.

    BBR, the default of some hosts, paces what it sends. Where nothing can be congested that is for nothing, and dear:
    1 MB by sendfile costs 0.38 ms with it and 0.15 without. It must be said here: a connection that began with BBR goes
    on pacing, whatever it is told.
    """
    with contextlib.suppress(OSError):  # a sandbox may not know it, and then sending only costs more
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
