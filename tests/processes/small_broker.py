"""A broker with small main functions, run by the tests as a program: small_broker.py CONFIG_FILE [KIND=MAIN]…"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from kbroker.config import Config, load_config
from kbroker.errors import KbrokerError, StartError
from kbroker.workers.child import ChildContext
from kbroker.workers.loop import Loop
from kbroker.workers.supervisor import Supervisor


def say(*words: object) -> None:
    """One line to the test, in one write."""
    os.write(1, (" ".join(str(word) for word in words) + "\n").encode())


def serve(context: ChildContext, before_ready: Callable[[ChildContext], None] = lambda _context: None) -> None:
    loop = Loop()

    def peers_changed() -> None:
        table = sorted(context.peers.values(), key=lambda peer: peer.name)
        say("PEERS", context.name, *(f"{p.name}:{p.pid}:{p.incarnation}:{int(p.ready)}" for p in table))

    def drain() -> None:
        say("DRAINED", context.name)
        context.drained()

    context.on_peers = peers_changed
    context.on_drain = drain
    context.on_reload = lambda config: say("RELOADED", context.name, config.log.retention_ms, config.server.io_threads)
    context.attach(loop)
    before_ready(context)
    if context.worker_index is not None:
        context.report(partitions=3)
    context.ready()
    loop.run()
    say("CLOSED", context.name)


def dies_early(context: ChildContext) -> None:
    """Dies four times before READY."""

    def die(context: ChildContext) -> None:
        deaths = int(context.remembered.get("deaths", "0"))
        if deaths < 4:
            context.remember("deaths", str(deaths + 1))
            os._exit(3)

    serve(context, die)


def stays(context: ChildContext) -> None:
    """Takes note of the drain and does not end."""
    loop = Loop()
    context.on_drain = lambda: say("DRAINING", context.name)
    context.attach(loop)
    context.ready()
    loop.run()


def grows(context: ChildContext) -> None:
    """The first one under its name grows past its limit after READY."""
    held: list[bytes] = []

    def grow(context: ChildContext) -> None:
        if "grown" not in context.remembered:
            context.remember("grown", "yes")
            server = context.config.server
            limit = server.front_memory_max_bytes if context.name == "front" else server.worker_memory_max_bytes
            held.append(b"x" * (limit + (16 << 20)))

    serve(context, grow)


def needs_much(context: ChildContext) -> None:
    """What it has to keep is above its limit, until it is told for the second time to do with less."""
    say("DEATHS", context.name, context.memory_deaths)
    held: list[bytes] = []

    def replay(context: ChildContext) -> None:
        if context.memory_deaths < 2:
            held.append(b"x" * (context.config.server.worker_memory_max_bytes + (16 << 20)))
            threading.Event().wait(20)

    serve(context, replay)


def refuses(_context: ChildContext) -> None:
    raise StartError("the catalog has a newer format: start a newer kbroker")


def fails(context: ChildContext) -> None:
    """The first one fails."""
    if "failed" not in context.remembered:
        context.remember("failed", "yes")
        raise RuntimeError("a mistake in the code")
    serve(context)


def waits_for_disk(context: ChildContext) -> None:
    """The first one enters a wait that the kernel calls D, as for a disk, until the test opens the fifo."""

    def wait(context: ChildContext) -> None:
        if context.incarnation == min(peer.incarnation for peer in context.peers.values()):
            fifo = str(context.config.data_dir / ".fifo")
            os.mkfifo(fifo)
            say("WAITS", fifo)
            # vfork: the parent waits until its child executes, and that one waits for the fifo.
            actions = [(os.POSIX_SPAWN_OPEN, 9, fifo, os.O_RDONLY, 0)]
            os.waitpid(os.posix_spawn("/bin/true", ["true"], {}, file_actions=actions), 0)

    serve(context, wait)


def recovers_long(context: ChildContext) -> None:
    """Works on the main thread for several heartbeat time-outs before READY, polling."""
    over = threading.Event()
    threading.Timer(1.5, over.set).start()
    while not over.wait(0.1):
        context.poll()
    serve(context)


def echoes(context: ChildContext) -> None:
    """A front that answers on the inherited listener with its pid, and dies when told to."""
    loop, zmq_context = Loop(), zmq.Context()
    door = zmq_context.socket(zmq.ROUTER)
    host, port = context.listeners["native"].getsockname()[:2]
    context.bind(door, f"tcp://{f'[{host}]' if ':' in host else host}:{port}", "native")
    context.bind(door, f"ipc://{context.config.runtime_dir}/front.ipc")

    class Port:
        socket = door
        was_used = True

        def drain(self) -> None:
            self.was_used = True
            peer, word = door.recv_multipart()
            door.send_multipart([peer, word + b" %d" % os.getpid()])

    context.attach(loop)
    loop.add_port(Port())
    context.ready()
    loop.run()
    zmq_context.destroy(linger=0)


def main() -> int:
    def settings() -> Config:
        return load_config(Path(sys.argv[1]), {})

    mains: dict[str, Callable[[ChildContext], None]] = {"front": serve, "coordinator": serve, "worker": serve}
    for argument in sys.argv[2:]:
        kind, _, name = argument.partition("=")
        mains[kind] = globals()[name]

    def ready(document: dict[str, Any]) -> None:
        say("READY", document["pid"], document["listeners"].get("native", ""))

    try:
        return Supervisor(settings(), settings, mains, ready).run()
    except KbrokerError as error:
        say("ERROR", error)
        return 2


if __name__ == "__main__":
    sys.exit(main())
