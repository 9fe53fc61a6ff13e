"""From the command line into the supervisor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kbroker.cli.output import say
from kbroker.config import Config
from kbroker.wire.endpoints import FRONT, SERVER_VARIABLE, ipc
from kbroker.wording import counted
from kbroker.workers import coordinator, front, worker
from kbroker.workers.supervisor import Supervisor

MAINS = {"front": front.main, "coordinator": coordinator.main, "worker": worker.main}


def ready_line(config: Config, status: dict[str, Any]) -> str:
    """How to reach a broker that serves now."""
    tcp = status["listeners"].get("native")
    reach = f"{SERVER_VARIABLE}={ipc(config.runtime_dir, FRONT)}" + (f" (or tcp://{tcp})" if tcp else "")
    if status["bootstrap_servers"]:
        reach += f"; bootstrap.servers={status['bootstrap_servers']}"
    workers = counted(status["worker_count"], "worker")
    return f"kbroker is ready: {reach}; {workers}, data in {config.data_dir}"


def run(config: Config, settings_source: Callable[[], Config]) -> int:
    """Serve until told to stop; the exit code. Raises StartError."""

    def on_ready(status: dict[str, Any]) -> None:
        say(ready_line(config, status))

    return Supervisor(config, settings_source, MAINS, on_ready).run()
