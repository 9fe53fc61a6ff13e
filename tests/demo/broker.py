"""The demo's broker: `kbroker serve` in a folder of its own, and gone again when the demo is, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

ROOT = Path(__file__).parent.parent.parent
STOP_S = 20
WORKERS = 2


class DemoFailed(Exception):
    """Something is off; the message says what."""


class DemoBroker:
    """A context: inside it a broker serves at `server`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kbroker-demo-"))
        self.log_path = self.folder / "broker.log"
        self.server = ""
        self._process: subprocess.Popen[str] | None = None
        # None of this shell's own broker settings; our tree first.
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("KBROKER_")}
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        command = [sys.executable, "-m", "kbroker", "serve", "--workers", str(WORKERS)]
        command += ["--data-dir", str(self.data_dir), "--runtime-dir", str(self.folder / "run")]
        command += ["--native-listen", "127.0.0.1:0"]
        with open(self.log_path, "w") as log:
            # A session of its own: Ctrl-C reaches the demo only, which then ends the broker in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.environment,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "KBROKER_SERVER=" in line:
                self.server = line.partition("KBROKER_SERVER=")[2].split()[0]
                return
        raise DemoFailed(f"the broker did not start: {self.log_text()}")

    @property
    def data_dir(self) -> Path:
        """Where the partitions lie."""
        return self.folder / "data"

    def log_text(self) -> str:
        """The end of what the broker has said."""
        return self.log_path.read_text(errors="replace")[-2000:]

    def kbroker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `kbroker` command against this broker."""
        return subprocess.run(
            [sys.executable, "-m", "kbroker", *arguments],
            env={**self.environment, "KBROKER_SERVER": self.server},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def must(self, *arguments: str) -> str:
        """As `kbroker`, and it must succeed; what it printed."""
        done = self.kbroker(*arguments)
        if done.returncode:
            raise DemoFailed(f"`kbroker {' '.join(arguments)}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def worker_pid(self, index: int) -> int:
        """Process id of a worker, as `kbroker status` tells it."""
        facts: dict[str, Any] = json.loads(self.must("status", "--json", "--runtime-dir", str(self.folder / "run")))
        for process in facts["processes"]:
            if process["name"] in (f"worker {index}", f"worker-{index}"):
                return int(process["pid"])
        raise DemoFailed(f"`kbroker status` knows no worker {index}: {facts}")

    def drain(self) -> None:
        """Stop the broker in order; it must end with 0."""
        assert self._process is not None
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"the broker did not stop within {STOP_S} s of SIGTERM: {self.log_text()}") from None
        if code:
            raise DemoFailed(f"the broker ended with {code}: {self.log_text()}")
        _, alive = psutil.wait_procs(children, timeout=2)
        if alive:
            raise DemoFailed(f"the broker left processes behind: {alive}")

    def stop(self) -> None:
        """Leave nothing: no process, no file."""
        process = self._process
        if process is not None:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its session is its own
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)
