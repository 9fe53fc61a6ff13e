"""What a front, coordinator or worker sees of the supervisor: its ChildContext."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgpack
import zmq

from kbroker.config import Config, make_config
from kbroker.workers.channel import Channel, Message
from kbroker.workers.listeners import socket_umask
from kbroker.workers.loop import Loop

FACTS_BYTES_MAX = 16 << 10
REMEMBERED_TEXT_BYTES_MAX = 4 << 10


@dataclass(frozen=True, slots=True)
class Peer:
    """A process of this broker that runs now. One that died is not in the table until its successor is forked."""

    name: str
    incarnation: int
    pid: int
    ready: bool


def _nothing() -> None:
    pass


@dataclass
class ChildContext:
    """Given to a child's main function. Everything here is for the child's main thread only.

    `config`, `peers` and `remembered` are kept up to date once `attach` was called. The hooks are `on_peers` (the table
    changed), `on_drain` (finish what is in flight, close cleanly, end: call `drained` or let the main function return;
    without a hook the loop is stopped at once) and `on_reload` (gets the new configuration, already in `config`).
    """

    name: str
    worker_index: int | None
    incarnation: int
    config: Config
    cluster_id: str
    boot_id: str
    worker_count: int
    listeners: dict[str, socket.socket]
    remembered: dict[str, str]
    peers: dict[str, Peer]
    secret: bytes = field(repr=False)
    """What the processes of this start know each other by, 32 bytes. It exists in their memory only."""
    _channel: Channel
    kafka_ports: dict[int, int] = field(default_factory=dict)
    """Where each node serves Kafka clients; empty: it does not."""
    on_peers: Callable[[], None] = _nothing
    on_drain: Callable[[], None] | None = None
    on_reload: Callable[[Config], None] | None = None
    draining: bool = False
    _loop: Loop | None = None
    _facts: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The process's name for people: `worker 0`."""
        return self.name.replace("-", " ")

    def attach(self, loop: Loop) -> None:
        """Serve the supervisor on this loop: answers to its heartbeat, peers, drain, reload.

        Set the hooks first. The process exits at once when the supervisor is gone.
        """
        self._loop = loop
        self._channel.watch(loop, self.poll)
        if self.draining:
            loop.call_soon(self._drain)

    def poll(self) -> None:
        """Serve what the supervisor has sent, without blocking.

        For long work on the main thread while the loop does not run: call it every second or so, lest this process is
        taken to be hung.
        """
        for message in self._channel.receive():
            self._take(message)
        if self._channel.closed:
            # Nothing may be written any more: a successor may already wait for our locks.
            os._exit(1)

    def ready(self, text: str = "") -> None:
        """This process serves now. `text` goes to the log."""
        self._channel.send("ready", ["ready", text, self._facts])

    def refuse(self, text: str) -> None:
        """This process can never serve here (a data folder of a newer format, …): `text` says why and what to do.

        Before the broker was ready for the first time the supervisor then ends with that message; later it goes on
        restarting. A StartError that leaves the main function does the same.
        """
        self._channel.send("refused", ["refused", text])

    def report(self, **facts: Any) -> None:
        """Small facts for `kbroker status`: they replace those of the same name; sent with `ready` and each heartbeat
        answer.

        Raises ValueError when all facts together exceed FACTS_BYTES_MAX, or hold what msgpack does not know.
        """
        merged = {**self._facts, **facts}
        try:
            size_bytes = len(msgpack.packb(merged))
        except TypeError as error:
            raise ValueError(f"facts are numbers, text, lists and maps: {error}") from None
        if size_bytes > FACTS_BYTES_MAX:
            raise ValueError(f"facts of {size_bytes} bytes; at most {FACTS_BYTES_MAX} are kept")
        self._facts = merged

    def remember(self, key: str, text: str) -> None:
        """The supervisor keeps `text` for this process's successors. Raises ValueError when it is too long."""
        if len(key.encode()) + len(text.encode()) > REMEMBERED_TEXT_BYTES_MAX:
            raise ValueError(f"{key!r}: at most {REMEMBERED_TEXT_BYTES_MAX} bytes are remembered")
        self.remembered[key] = text
        self._channel.send(f"memory {key}", ["remember", key, text])

    def forget(self, key: str) -> None:
        """The supervisor need not keep it any longer."""
        self.remembered.pop(key, None)
        self._channel.send(f"memory {key}", ["forget", key])

    def drained(self) -> None:
        """All work is done: stops the attached loop, so that the main function closes what is open and returns."""
        if self._loop is not None:
            self._loop.stop()

    def bind(self, door: zmq.Socket[bytes], endpoint: str, listener: str = "") -> None:
        """Bind a ZeroMQ socket: to the inherited `listener`, or the one that lies at `endpoint`; else by itself.

        Inherited, its clients wait while this process restarts. A unix socket gets mode 0660. Raises zmq.ZMQError.
        """
        inherited = self.listeners.get(listener) if listener else self._listener_at(endpoint)
        if inherited is None:
            with socket_umask():
                door.bind(endpoint)
            return
        if inherited.family == socket.AF_INET6:
            door.setsockopt(zmq.IPV6, 1)
        # libzmq closes what it is given: it gets a descriptor of its own.
        door.setsockopt(zmq.USE_FD, os.dup(inherited.fileno()))
        try:
            door.bind(endpoint)
        finally:
            door.setsockopt(zmq.USE_FD, -1)

    def _listener_at(self, endpoint: str) -> socket.socket | None:
        path = endpoint.removeprefix("ipc://")
        unix = [sock for sock in self.listeners.values() if sock.family == socket.AF_UNIX]
        return next((sock for sock in unix if sock.getsockname() == path), None)

    def take_signals(self) -> None:
        """Signals as a child treats them: Ctrl-C and a closing terminal are the supervisor's business; SIGTERM drains
        this process alone, and since the supervisor did not ask for it, it is replaced: a clean restart by hand."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda _signal, _frame: self._drain_soon())

    def _drain_soon(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._drain)
        else:
            self.draining = True

    def _drain(self) -> None:
        hook, self.on_drain = self.on_drain, _nothing
        self.draining = True
        (hook or self.drained)()

    def _take(self, message: Message) -> None:
        match message:
            case ["ping", int(number)]:
                self._channel.send("pong", ["pong", number, self._facts])
            case ["peers", dict(table)]:
                self.peers = peers_from(table)
                self.on_peers()
            case ["drain"]:
                if self._loop is not None:
                    self._drain()
                else:
                    self.draining = True
            case ["reload", dict(changes)]:
                self.config = make_config(changes, self.config)
                if self.on_reload is not None:
                    self.on_reload(self.config)


def peers_from(table: dict[str, Any]) -> dict[str, Peer]:
    """The table as the supervisor sends it: `{name: [incarnation, pid, ready]}`."""
    return {name: Peer(name, incarnation, pid, ready) for name, (incarnation, pid, ready) in table.items()}
