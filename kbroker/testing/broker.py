"""Runs `kbroker serve` for a test, and takes it down again whatever happens."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kbroker.config import value_text
from kbroker.errors import BrokerUnavailable
from kbroker.wire import endpoints
from kbroker.wire.status import read_status

START_S = 30
STOP_S = 20
_ROOT = Path(__file__).resolve().parent.parent.parent


class BrokerFailed(AssertionError):
    """The broker did not do what the test needs; the message has the end of its log."""


class Broker:
    """A broker in a folder of its own. Use it as a context, or call `start` and `stop`.

    `settings` are broker settings by Kafka's names, `named` the same with `_` for `.`: `Broker(log_segment_bytes=1 <<
    20)`. `workers` processes own the partitions; with `tcp` native clients may also come by `tcp_server`. Kafka clients
    come by `bootstrap_servers`, at free ports of localhost unless `listeners` says otherwise. `data_dir` None: a
    temporary folder, removed at the end; a given one stays. `config` is a configuration file.
    """

    def __init__(
        self,
        settings: Mapping[str, object] | None = None,
        *,
        workers: int = 1,
        tcp: bool = False,
        data_dir: Path | None = None,
        config: Path | None = None,
        **named: object,
    ) -> None:
        # Short: the path of a unix socket has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="kb-", dir="/tmp"))
        self.data_dir = data_dir or self.folder / "data"
        self.runtime_dir = self.folder / "run"
        self.log_path = self.folder / "broker.log"
        self.settings: dict[str, object] = {"listeners": "localhost:0"}
        self.settings |= {name.replace("_", "."): value for name, value in named.items()} | dict(settings or {})
        self.workers = workers
        self.tcp = tcp
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("KBROKER_")}
        paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- start and end ---

    def command(self) -> list[str]:
        """The command line that `start` runs."""
        command = [sys.executable, "-m", "kbroker", "serve", "--workers", str(self.workers)]
        command += ["--data-dir", str(self.data_dir), "--runtime-dir", str(self.runtime_dir)]
        if self.config is not None:
            command += ["--config", str(self.config)]
        if self.tcp:
            command += ["--native-listen", "127.0.0.1:0"]
        for name, value in self.settings.items():
            command += ["--set", f"{name}={value_text(value)}"]
        return command

    def start(self, timeout_s: float = START_S) -> Self:
        """Run the broker and wait until it says that it serves. Raises BrokerFailed."""
        # Before the broker: whenever this process is killed, somebody knows of it.
        self._guard = _guard(self.folder)
        with open(self.log_path, "ab") as log_file:
            # A session of its own: Ctrl-C reaches the test only, which then ends the broker in order.
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env=self.environment,
                start_new_session=True,
            )
        _watch(self._guard, self.process.pid)
        if not self._said_ready(timeout_s):
            self.kill_all()
            raise BrokerFailed(f"the broker did not start within {timeout_s} s:\n{self.log}")
        return self

    def _said_ready(self, timeout_s: float) -> bool:
        assert self.process is not None
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                more = os.read(self.process.stdout.fileno(), 4096)
                said += more
                if b"KBROKER_SERVER=" in said:
                    return True
                if not more:
                    break
        return False

    def stop(self, timeout_s: float = STOP_S) -> int:
        """SIGTERM, and wait for the end. Returns the exit code. Raises BrokerFailed when it does not end."""
        assert self.process is not None
        self.process.terminate()
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise BrokerFailed(f"the broker did not stop within {timeout_s} s:\n{self.log}") from None
        self._forget()
        return code

    def kill_all(self) -> None:
        """SIGKILL for every process at once, as the out-of-memory killer or a power cut would; waits for their end."""
        if self.process is None:
            return
        watched = _pidfds(self.process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its session is its own
        for pidfd in watched:
            # A killed process holds its files until its last thread is gone: then its pidfd becomes readable.
            select.select([pidfd], [], [], STOP_S)
            os.close(pidfd)
        self.process.wait()
        self._forget()

    def _forget(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard = None

    def restart(self) -> Self:
        """Stop in order and start again on the same data."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """Leave nothing: no process, no file."""
        try:
            if self.process is not None and self.process.poll() is None:
                with contextlib.suppress(BrokerFailed):
                    self.stop()
            self.kill_all()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- where it is ---

    @property
    def server(self) -> str:
        """Endpoint of the front for clients on this host."""
        return endpoints.ipc(self.runtime_dir, endpoints.FRONT)

    @property
    def tcp_server(self) -> str:
        """Endpoint of the front by tcp; needs `tcp=True`."""
        listeners: dict[str, str] = self.status()["listeners"]
        return "tcp://" + listeners["native"].removeprefix("tcp://")

    @property
    def bootstrap_servers(self) -> str:
        """Where Kafka clients connect."""
        return str(self.status()["bootstrap_servers"])

    def status(self) -> dict[str, Any]:
        """What `kbroker status --json` tells. Raises BrokerUnavailable."""
        return read_status(self.runtime_dir)

    def processes(self) -> dict[str, dict[str, Any]]:
        """Each process's part of the status, by name: `front`, `worker-0` …; `supervisor` has its pid only."""
        status = self.status()
        found = {process["name"]: process for process in status["processes"]}
        found.setdefault("supervisor", {"name": "supervisor", "pid": status["pid"], "ready": True})
        return found

    def pid(self, name: str) -> int:
        """Process id of `front`, `coordinator`, `worker-0` …, `supervisor`."""
        return int(self.processes()[name]["pid"])

    @property
    def log(self) -> str:
        """What the broker has logged so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # --- what tests do to it ---

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to one process; after SIGKILL wait until it is gone. Returns its pid."""
        pid = self.pid(name)
        handle = os.pidfd_open(pid)
        try:
            os.kill(pid, number)
            if number == signal.SIGKILL:
                select.select([handle], [], [], STOP_S)
        finally:
            os.close(handle)
        return pid

    def kill_and_wait(self, name: str, timeout_s: float = 10) -> None:
        """SIGKILL for one process, and wait until its successor serves."""
        before = self.processes()[name]["incarnation"]
        self.kill(name)
        self.wait_until(lambda: self.is_ready(name) and self.processes()[name]["incarnation"] != before, timeout_s)

    def is_ready(self, name: str) -> bool:
        """Whether that process serves now."""
        return bool(self.processes()[name]["ready"])

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 10) -> None:
        """Look again and again until `condition()` holds. Raises BrokerFailed after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(BrokerUnavailable, KeyError):
                if condition():
                    return
            if time.monotonic() > deadline:
                raise BrokerFailed(f"what the test waits for did not come within {timeout_s} s:\n{self.log}")
            time.sleep(0.01)  # between two looks at the status; no test relies on its length


def _guard(folder: Path) -> subprocess.Popen[bytes]:
    """A shell that ends the broker and removes its folder when this process dies: its input ends then."""
    end = 'read -r session; read -r _; [ -z "$session" ] || kill -9 -"$session"; sleep 0.2; rm -rf "$1"'
    return subprocess.Popen(
        ["/bin/sh", "-c", end, "guard", str(folder)],
        stdin=subprocess.PIPE,
        env={"PATH": os.defpath},
        start_new_session=True,
    )


def _watch(guard: subprocess.Popen[bytes], session: int) -> None:
    """Tell the guard which session it is to end."""
    assert guard.stdin is not None
    guard.stdin.write(b"%d\n" % session)
    guard.stdin.flush()


def _pidfds(session: int) -> list[int]:
    """A pidfd for each process of that session."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                # pid (name) state parent group session …; the name may hold blanks and brackets.
                fields = (place / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session:
                    found.append(os.pidfd_open(int(place.name)))
    return found
