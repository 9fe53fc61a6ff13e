"""A broker as users run it, `kbroker serve`, and commands run against it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
KBROKER = (sys.executable, "-m", "kbroker")
STOP_S = 30


def clean_environment() -> dict[str, str]:
    """This process's environment without settings for another broker; our tree first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KBROKER_")}
    return kept | {"PYTHONPATH": str(ROOT)}


class Served:
    """A running `kbroker serve`. `server` is what its ready line says."""

    def __init__(self, process: subprocess.Popen[str], ready_line: str, data_dir: Path) -> None:
        self.process = process
        self.ready_line = ready_line
        self.data_dir = data_dir
        self.server = ready_line.partition("KBROKER_SERVER=")[2].split()[0].rstrip(";")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A `kbroker` command against this broker, with pipes; in a session of its own."""
        return subprocess.Popen(
            [*KBROKER, *arguments],
            env=clean_environment() | {"KBROKER_SERVER": self.server},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a `kbroker` command against this broker to its end."""
        with self.start(*arguments) as process:
            out, err = process.communicate(given, timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def must(self, *arguments: str, given: bytes = b"") -> bytes:
        """As `run`, and it must succeed; what it printed."""
        done = self.run(*arguments, given=given)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path: unix sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="kbroker-") as folder:
        yield Path(folder)


@contextmanager
def serve(data_dir: Path, *arguments: str) -> Iterator[Served]:
    """`kbroker serve` from its ready line until the context ends; Kafka clients at free ports unless it is said."""
    with subprocess.Popen(
        [*KBROKER, "serve", "--data-dir", str(data_dir), "--workers", "2", "--listen", "localhost:0", *arguments],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            ready_line = process.stdout.readline()
            assert "KBROKER_SERVER=" in ready_line, ready_line
            yield Served(process, ready_line.strip(), data_dir)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
