"""The supervisor: binds, forks, watches, restarts, tells. It holds no data, runs one thread and no ZeroMQ context."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from setproctitle import setproctitle

from kbroker import __version__
from kbroker.config import Config
from kbroker.errors import KbrokerError, StartError
from kbroker.kafka import codec
from kbroker.wording import counted
from kbroker.workers.channel import Channel, Message
from kbroker.workers.child import ChildContext, peers_from
from kbroker.workers.descriptors import descriptor_limit, fitted, raise_descriptor_limit, tell_fitted
from kbroker.workers.entry import Main, run_child
from kbroker.workers.health import (
    FRONT_MEMORY_INTERVAL_MS,
    HEARTBEAT_INTERVAL_MS,
    check_heartbeats,
    check_memory,
    heard_from,
)
from kbroker.workers.internal_door import SECRET_BYTES
from kbroker.workers.kafka_listeners import bootstrap_servers, kafka_listeners, node_ports, warn_in_container
from kbroker.workers.listeners import inherited_listeners, open_listeners, planned
from kbroker.workers.logs import start_logging
from kbroker.workers.loop import Loop
from kbroker.workers.notify import Notifier
from kbroker.workers.outages import Outage, outage_text, outages_of
from kbroker.workers.premises import claim
from kbroker.workers.process import ChildProcess, new_incarnation
from kbroker.workers.reload import reloaded
from kbroker.workers.signals import SignalSource
from kbroker.workers.status_socket import StatusSocket

log = logging.getLogger(__name__)

PREPARE_INTERVAL_MS = 20
KILL_WAIT_MS = 5_000
"""How long to wait for killed processes at the end: one that waits for a disk does not end."""


class Supervisor:
    """Runs a broker. `mains` gives the main function of each kind of child: front, coordinator, worker."""

    def __init__(
        self,
        config: Config,
        settings_source: Callable[[], Config],
        mains: Mapping[str, Main],
        on_ready: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """`settings_source` reads the configuration again for SIGHUP, raising ConfigError.

        `on_ready` gets the status document once, when all serve for the first time.
        """
        self._config = config
        self._settings_source = settings_source
        self._mains = mains
        self._on_ready = on_ready
        self._worker_count = config.worker_count
        self._processes = {process.name: process for process in _children(mains, self._worker_count)}
        self._state = "starting"
        self._exit_code = 0
        self._failure = ""
        self._was_ready = False
        self._peers_told = True
        self._started_at = time.time()
        self._last_beat_ms = 0
        self._lost_sockets: list[str] = []
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._last_watchdog_ms = 0
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; then drain. Returns the exit code: 0 when all ended cleanly.

        Raises StartError when the broker cannot start here. Call it in the main thread of a process that runs no other.
        """
        setproctitle("kbroker: supervisor")
        start_logging("supervisor")
        os.umask(0o027)
        with contextlib.ExitStack() as stack:
            self._open(stack)
            self._start()
            try:
                self._loop.run()
            finally:
                self._end_processes()
        if self._failure:
            raise StartError(self._failure)
        return self._exit_code

    # -- start

    def _open(self, stack: contextlib.ExitStack) -> None:
        raise_descriptor_limit()
        limit = descriptor_limit()
        given = self._config
        config = self._config = fitted(given, limit)
        tell_fitted(given, config, limit)
        self._premises = claim(config, stack)
        self._loop = Loop()
        stack.callback(self._loop.close)
        self._notifier = Notifier()
        stack.callback(self._notifier.close)
        signals = SignalSource((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), self._loop, self._on_signal)
        stack.callback(signals.close)
        wanted = [*planned(config), *kafka_listeners(config)]
        self._listeners = open_listeners(wanted, inherited_listeners(), self._premises.predecessor_died)
        stack.callback(self._listeners.close)
        self._kafka_ports = node_ports(config, self._listeners.addresses)
        self._bootstrap_servers = bootstrap_servers(config, self._listeners.addresses)
        warn_in_container(config)
        status_socket = StatusSocket(config.runtime_dir, self._loop, self.status)
        stack.callback(status_socket.close)

    def _start(self) -> None:
        # Children share the supervisor's pages as long as the garbage collector does not write into them.
        gc.collect()
        gc.freeze()
        self._tell_status()
        for process in self._processes.values():
            self._fork(process)
        beat_ms = min(HEARTBEAT_INTERVAL_MS, self._config.server.heartbeat_timeout_ms // 2)
        if self._notifier.watchdog_ms:
            beat_ms = max(10, min(beat_ms, self._notifier.watchdog_ms // 4))
        self._last_beat_ms = self._last_watchdog_ms = self._loop.now_ms()
        self._loop.call_every(beat_ms, lambda: self._beat(beat_ms))
        fronts = [process for process in self._processes.values() if process.kind == "front"]
        if fronts:
            self._loop.call_every(FRONT_MEMORY_INTERVAL_MS, lambda: check_memory(fronts, self._config))

    # -- children

    def _fork(self, process: ChildProcess) -> None:
        if self._state == "stopping" or process.pid is not None:
            return
        incarnation = new_incarnation(self._premises.data_lock.incarnation)
        self._premises.data_lock.remember_incarnation(incarnation)
        supervisor_pid = os.getpid()

        def enter(end: socket.socket) -> NoReturn:
            listeners = self._listeners.by_process.get(process.name, {})

            def make_context() -> ChildContext:
                own = {process.name: [incarnation, os.getpid(), False]}
                return ChildContext(
                    name=process.name, worker_index=process.worker_index, incarnation=incarnation, config=self._config,
                    cluster_id=self._premises.cluster_id, boot_id=self._boot_id, worker_count=self._worker_count,
                    listeners=listeners, remembered=dict(process.remembered),
                    peers=peers_from({**self._peer_table(), **own}), secret=self._secret, _channel=Channel(end),
                    kafka_ports=self._kafka_ports,
                )  # fmt: skip

            kept = [end.fileno(), self._premises.processes_lock.fd, *(sock.fileno() for sock in listeners.values())]
            run_child(self._mains[process.kind], make_context, kept, supervisor_pid)

        try:
            process.fork(self._loop, incarnation, enter, self._on_traffic, self._on_death)
        except OSError as error:
            process.early_deaths += 1
            delay_ms = max(50, process.backoff_ms)
            log.error("cannot fork %s: %s; next attempt in %d ms", process.title, error.strerror, delay_ms)
            self._loop.call_later(delay_ms, lambda: self._fork(process))
            return
        self._peers_changed()

    def _on_traffic(self, process: ChildProcess) -> None:
        self._take_messages(process, process.receive())

    def _take_messages(self, process: ChildProcess, messages: list[Message]) -> None:
        if messages:
            heard_from(process)
        for message in messages:
            match message:
                case ["pong", int(number), dict(facts)]:
                    process.pong(number, facts)
                case ["ready", str(text), dict(facts)]:
                    self._on_child_ready(process, text, facts)
                case ["refused", str(text)]:
                    process.refusal = text
                case ["remember", str(key), str(text)]:
                    process.remembered[key] = text
                case ["forget", str(key)]:
                    process.remembered.pop(key, None)
                case _:
                    log.error("%s (pid %s) sent an unknown message %.80r", process.title, process.pid, message)

    def _on_child_ready(self, process: ChildProcess, text: str, facts: dict[str, Any]) -> None:
        if process.ready:
            return
        process.ready = True
        process.facts = facts
        if process.restarts:
            took_ms = self._loop.now_ms() - process.forked_ms
            log.info(
                "%s (pid %s) serves again after %d ms%s",
                process.title,
                process.pid,
                took_ms,
                f": {text}" if text else "",
            )
        self._peers_changed()
        if self._state == "starting" and all(p.ready for p in self._processes.values()):
            self._state = "ready"
            self._was_ready = True
            log.info("ready: %s", self._status_text())
            self._notifier.ready()
            if self._on_ready is not None:
                self._on_ready(self.status())
            if self._kafka_ports:
                self._prepare_successors(codec.prepare())
        self._tell_status()

    def _prepare_successors(self, steps: Iterator[None]) -> None:
        """Make Kafka's usual readers and writers, a few milliseconds at a time: a child that is forked from here later
        has its clients back at once. The first children make theirs on first use, for start-up must not wait."""
        if self._state == "ready" and next(steps, steps) is None:
            self._loop.call_later(PREPARE_INTERVAL_MS, lambda: self._prepare_successors(steps))

    def _on_death(self, process: ChildProcess) -> None:
        # What it sent last may be what its successor must know.
        self._take_messages(process, process.receive_rest())
        pid, was_ready = process.pid, process.ready
        if not process.reap(self._loop):
            return
        self._peers_changed()
        when = "" if was_ready else " before it was ready"
        ended = f"{process.title} (pid {pid}) {process.last_exit}{when}"
        if self._state == "stopping":
            self._on_death_while_stopping(process, ended)
        elif process.refusal and not self._was_ready:
            log.error("%s; stopping", ended)
            self._failure = process.refusal
            self._stop()
        else:
            process.restarts += 1
            delay_ms = process.backoff_ms
            log.error("%s; %s", ended, f"next attempt in {delay_ms} ms" if delay_ms else "restarting it now")
            if delay_ms:
                self._loop.call_later(delay_ms, lambda: self._fork(process))
            else:
                self._fork(process)
        self._tell_status()

    def _peer_table(self) -> dict[str, list[Any]]:
        return {p.name: [p.incarnation, p.pid, p.ready] for p in self._processes.values() if p.pid is not None}

    def _peers_changed(self) -> None:
        if self._peers_told:
            self._peers_told = False
            self._loop.call_soon(self._tell_peers)

    def _tell_peers(self) -> None:
        self._peers_told = True
        table = self._peer_table()
        for process in self._processes.values():
            process.send("peers", ["peers", table])

    # -- time

    def _beat(self, interval_ms: int) -> None:
        now_ms = self._loop.now_ms()
        was_stopped = now_ms - self._last_beat_ms > 2 * interval_ms + 500
        self._last_beat_ms = now_ms
        if was_stopped:
            # We were stopped or starved ourselves: answers that came meanwhile have not been read yet.
            for process in self._processes.values():
                process.asked_ms = None if process.asked_ms is None else now_ms
        if self._state != "stopping":
            check_heartbeats(self._processes.values(), self._config, now_ms)
            check_memory(self._processes.values(), self._config)
            self._look_for_sockets()
        self._tell_status()
        self._feed_watchdog(now_ms)

    def _look_for_sockets(self) -> None:
        """Who has cleaned up the runtime folder under a running broker is told at once, not by the next client."""
        missing = self._listeners.missing()
        if missing and not self._lost_sockets:
            log.error(
                "%s of the sockets in %s were removed: clients that are connected are served on, others of this host "
                "cannot connect; restart the broker",
                len(missing), self._config.runtime_dir,
            )  # fmt: skip
        self._lost_sockets = missing

    def _feed_watchdog(self, now_ms: int) -> None:
        period_ms = self._notifier.watchdog_ms
        if not period_ms or now_ms - self._last_watchdog_ms < period_ms // 2:
            return
        running = [process for process in self._processes.values() if process.pid is not None]
        if self._state == "stopping" or all(process.answered for process in running):
            self._last_watchdog_ms = now_ms
            self._notifier.watchdog()
            for process in running:
                process.answered = False

    # -- signals

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif self._state != "stopping":
            log.info("%s: stopping", number.name)
            self._stop()
        else:
            self._kill_rest(f"{number.name} once more")

    def _reload(self) -> None:
        if self._state == "stopping":
            return
        self._notifier.reloading()
        try:
            reload = reloaded(self._config, fitted(self._settings_source(), descriptor_limit()))
        except (KbrokerError, OSError) as error:
            log.error("reload refused, nothing changes: %s", error)
        else:
            self._config = reload.config
            if reload.changes:
                for process in self._processes.values():
                    try:
                        process.send("reload", ["reload", reload.changes])
                    except ValueError as error:  # its successor has them
                        log.error("%s is not told of the changes: %s", process.title, error)
            changed = ", ".join(f"{name}={text}" for name, text in reload.changes.items())
            log.info("reloaded: %s", changed or "nothing that can follow has changed")
            if reload.needs_restart:
                log.warning("needs a restart: %s", ", ".join(reload.needs_restart))
        if self._was_ready:
            self._notifier.ready()

    # -- the end

    def _stop(self) -> None:
        """Drain front and workers, then the coordinator, all within shutdown.drain.timeout.ms."""
        self._state = "stopping"
        drain_ms = self._config.server.drain_timeout_ms
        self._notifier.stopping(drain_ms + KILL_WAIT_MS)
        self._tell_status()
        self._loop.call_later(drain_ms, lambda: self._kill_rest(f"not drained within {drain_ms} ms"))
        self._drain_next()

    def _drain_next(self) -> None:
        running = [process for process in self._processes.values() if process.pid is not None]
        if not running:
            self._loop.stop()
        # Workers may need the coordinator until their end.
        for process in [p for p in running if p.kind != "coordinator"] or running:
            process.send("drain", ["drain"])

    def _on_death_while_stopping(self, process: ChildProcess, ended: str) -> None:
        if not process.exited_clean:
            self._exit_code = 1
            if not process.killed_for and not self._failure:
                log.error("%s while it was stopping", ended)
        self._drain_next()

    def _kill_rest(self, why: str) -> None:
        rest = [process for process in self._processes.values() if process.pid is not None]
        if rest:
            log.error("%s: killing %s", why, ", ".join(f"{p.title} (pid {p.pid})" for p in rest))
            self._exit_code = 1
        for process in rest:
            process.kill("shutdown")
        self._loop.call_later(KILL_WAIT_MS, self._loop.stop)

    def _end_processes(self) -> None:
        """Whatever ended the loop, leave nothing running."""
        for process in self._processes.values():
            if process.pid is not None:
                log.error("%s (pid %d) is still there; it ends once the kernel lets it", process.title, process.pid)
                process.kill("shutdown")
        log.info("stopped")

    # -- what is told

    def _outages(self) -> tuple[list[Outage], int]:
        """What is out of service, as far as it is named, and how much there is in all: processes first."""
        if self._state != "ready":
            return [], 0
        processes = self._processes.values()
        named = [Outage(p.title, "disk stalled" if p.ready else "restarting") for p in processes if p.is_away]
        named += [Outage(path, "the socket was removed; restart the broker") for path in self._lost_sockets]
        in_all = len(named)
        for process in processes:
            of_process, count = outages_of(process.facts)
            named += of_process
            in_all += count
        return named, in_all

    def _state_text(self) -> str:
        return "degraded" if self._outages()[1] else self._state

    def _status_text(self) -> str:
        if self._state != "ready":
            return self._state
        workers = [p for p in self._processes.values() if p.kind == "worker"]
        text = counted(len(workers), "worker")
        for fact, singular, what in (("partitions", "partition", ""), ("opening", "partition", " being recovered")):
            counts = [p.facts[fact] for p in workers if isinstance(p.facts.get(fact), int)]
            if any(counts) or (counts and not what):
                text += f", {counted(sum(counts), singular)}{what}"
        return text

    def _tell_status(self) -> None:
        text = self._status_text()
        named, in_all = self._outages()
        self._notifier.status(f"degraded: {text}; {outage_text(named, in_all)}" if in_all else text)

    def status(self) -> dict[str, Any]:
        """The status document, as `supervisor.sock` hands it out."""
        now_ms = self._loop.now_ms()
        named, in_all = self._outages()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "cluster_id": self._premises.cluster_id,
            "boot_id": self._boot_id,
            "started_at": self._started_at,
            "state": self._state_text(),
            "status": self._status_text(),
            "outages": [outage._asdict() for outage in named],
            "outages_in_all": in_all,
            "data_dir": str(self._config.data_dir),
            "runtime_dir": str(self._config.runtime_dir),
            "worker_count": self._worker_count,
            "listeners": self._listeners.addresses,
            "bootstrap_servers": self._bootstrap_servers,
            "processes": [process.status(now_ms) for process in self._processes.values()],
        }


def _children(mains: Mapping[str, Main], worker_count: int) -> list[ChildProcess]:
    children = [ChildProcess(kind, kind, None) for kind in ("coordinator", "front") if kind in mains]
    if "worker" in mains:
        children += [ChildProcess(f"worker-{i}", "worker", i) for i in range(worker_count)]
    return children
