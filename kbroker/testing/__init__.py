"""A real broker for tests: own processes, own folder, free ports, up in under a second.

    from kbroker.testing import Broker

    with Broker(workers=2) as broker:
        producer = Producer(broker.server)

With pytest, the fixture `kbroker` gives one to a test.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from kbroker.errors import BrokerUnavailable, StartError
from kbroker.wire.endpoints import FRONT, ipc
from kbroker.wire.status import read_status

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0


class Broker:
    """A broker of its own processes; a context manager that starts it and leaves nothing behind.

    `workers`: worker processes. `tcp`: listen on a free port of 127.0.0.1 too. `data_dir`: keep the data there instead
    of in a temporary folder that goes with the broker. `settings`: any setting by its name, with `_` for `.`:
    `Broker(log_segment_bytes=1 << 20)`, or in `named` by Kafka's name. Raises StartError with what the broker said.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        tcp: bool = False,
        data_dir: Path | str | None = None,
        named: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._workers = workers
        self._tcp = tcp
        self._settings = {name.replace("_", "."): value for name, value in settings.items()} | (named or {})
        # A short path: unix sockets allow 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="kb-", dir="/tmp"))
        self.data_dir = Path(data_dir) if data_dir is not None else self._folder / "data"
        self.runtime_dir = self._folder / "run"
        self.log_path = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    # --- life ---

    def start(self) -> Broker:
        """Start the broker and wait until it serves. Raises StartError."""
        if self._process is not None:
            return self
        command = [
            sys.executable, "-m", "kbroker", "serve",
            "--data-dir", str(self.data_dir), "--runtime-dir", str(self.runtime_dir), "--workers", str(self._workers),
        ]  # fmt: skip
        if self._tcp:
            command += ["--native-listen", "127.0.0.1:0"]
        for name, value in self._settings.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["--set", f"{name}={text}"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notices:
            path = self._folder / "notify"
            path.unlink(missing_ok=True)
            notices.bind(str(path))
            environment = {**os.environ, "NOTIFY_SOCKET": str(path)}
            environment.pop("WATCHDOG_USEC", None)
            with self.log_path.open("ab") as output:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
                )
            try:
                self._await_ready(notices)
            except BaseException:
                self.kill()
                raise
        return self

    def _await_ready(self, notices: socket.socket) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        pidfd = os.pidfd_open(self._process.pid)
        try:
            while True:
                left = deadline - time.monotonic()
                ready = _wait_readable([notices.fileno(), pidfd], left)
                if notices.fileno() in ready:
                    if b"READY=1" in notices.recv(65_536).split(b"\n"):
                        return
                elif pidfd in ready:
                    raise StartError(f"the broker ended with code {self._process.wait()}:\n{self.log}")
                else:
                    raise StartError(f"the broker is not ready after {START_TIMEOUT_S:g} s:\n{self.log}")
        finally:
            os.close(pidfd)

    def stop(self) -> int:
        """End the broker as SIGTERM does, with everything written; its exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        return self._ended()

    def kill(self, name: str | None = None) -> int:
        """kill -9: of one process by its name (`worker-0`, `front`, `coordinator`), or of the whole broker.

        Returns the process id that is no more. Raises KeyError for an unknown name.
        """
        if name is None:
            if self._process is None:
                return 0
            pid = self._process.pid
            self._process.kill()
            self._ended()
            return pid
        pid = self.pids[name]
        handle = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            _wait_readable([handle], STOP_TIMEOUT_S)
        finally:
            os.close(handle)
        return pid

    def restart(self) -> Broker:
        """Stop (if it runs) and start again on the same data."""
        self.stop()
        return self.start()

    def _ended(self) -> int:
        assert self._process is not None
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise StartError(f"the broker did not stop within {STOP_TIMEOUT_S:g} s:\n{self.log}") from None
        finally:
            self._process = None
        return code

    def close(self) -> None:
        """Stop the broker and remove its folder."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Broker:
        try:
            return self.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- facts ---

    @property
    def server(self) -> str:
        """The front's ipc endpoint, for clients on this host."""
        return ipc(self.runtime_dir, FRONT)

    @property
    def tcp_server(self) -> str:
        """The front's tcp endpoint. Raises BrokerUnavailable without `tcp=True`."""
        where = self.status["listeners"].get("native")
        if not where:
            raise BrokerUnavailable("this broker was started without tcp=True")
        return f"tcp://{where}"

    @property
    def status(self) -> dict[str, Any]:
        """What the supervisor tells of itself and the processes. Raises BrokerUnavailable."""
        return read_status(self.runtime_dir)

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each process that runs now, by name; the supervisor's too."""
        found = {facts["name"]: int(facts["pid"]) for facts in self.status["processes"] if facts["pid"]}
        if self._process is not None:
            found["supervisor"] = self._process.pid
        return found

    @property
    def log(self) -> str:
        """What the broker wrote to stdout and stderr so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


def _wait_readable(fds: list[int], timeout_s: float) -> list[int]:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(max(0, timeout_s) * 1000)]
