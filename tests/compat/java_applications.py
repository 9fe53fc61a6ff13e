"""Java applications as users have them: Kafka's clients, Streams and Connect from Maven, our sources compiled here.

The sources lie in `java/`. Where Java, its compiler, Maven or the registry is missing, `find_applications` says which.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.compat.java_tools import VERSION, ToolsMissing, find_jars, java_command

SOURCES: Final = Path(__file__).parent / "java"
COMPILE_S: Final = 120
STOP_S: Final = 30
_ARTIFACTS: Final = {"kafka-streams": "none", "connect-runtime": "none", "connect-file": "none"}


class Application:
    """A running program. What it writes to its standard output is read line by line."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self._errors = errors
        self._said: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for(self, wanted: Callable[[str], bool], timeout_s: float) -> str:
        """The next line like that. Raises AssertionError with all that it has said when there is none."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"not said within {timeout_s} s: {self.said}") from None
            if line is None:
                raise AssertionError(f"it ended without saying so: {self.said}")
            self._said.append(line)
            if wanted(line):
                return line

    @property
    def said(self) -> str:
        """All that was read so far, and what it complained about."""
        return "\n".join([*self._said, self._errors.read_text()])

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Close its standard input, wait for its end. The exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(STOP_S)


class JavaApplications:
    """Runs classes of ours and of Kafka's libraries."""

    def __init__(self, jars: Path, classes: Path) -> None:
        self._class_path = [classes, jars]

    def run(self, main_class: str, *arguments: str, timeout_s: float) -> str:
        """What a program prints. Raises AssertionError, with all it said, when it fails."""
        command = java_command(self._class_path, main_class, *arguments)
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{main_class} did not end within {timeout_s} s: {error.stdout!r}") from None
        assert done.returncode == 0, f"{main_class} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, folder: Path, main_class: str, *arguments: str) -> Iterator[Application]:
        """A program that goes on until it is ended; killed at the end of the context. Its log lies in `folder`."""
        errors = folder / f"{main_class.rpartition('.')[2]}-{os.urandom(4).hex()}.log"
        with open(errors, "w") as log:
            process = subprocess.Popen(
                java_command(self._class_path, main_class, *arguments),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        with process:
            try:
                yield Application(process, errors)
            finally:
                process.kill()


def find_applications(classes: Path) -> JavaApplications:
    """The applications, compiled into `classes`. Raises ToolsMissing saying why there are none."""
    if shutil.which("javac") is None:
        raise ToolsMissing("Java applications need javac, which is not installed")
    jars = find_jars(f"java-applications-{VERSION}", _ARTIFACTS)
    sources = [str(source) for source in sorted(SOURCES.glob("*.java"))]
    command = ["javac", "-d", str(classes), "-cp", f"{jars}/*", *sources]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=COMPILE_S)
    assert done.returncode == 0, done.stderr
    return JavaApplications(jars, classes)
