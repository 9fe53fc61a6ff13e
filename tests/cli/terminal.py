"""Commands on a terminal of their own, as a user types them."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.cli.served import KBROKER, Served, clean_environment

PATIENCE_S = 30


class Typed:
    """A command on a terminal: what it shows, and what is typed into it."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process = process
        self.shown = b""
        self._terminal = terminal

    def type(self, text: bytes) -> None:
        """What the user's keys send; b"\\x04" at the start of a line ends the input."""
        os.write(self._terminal, text)

    def until(self, wanted: bytes) -> bytes:
        """All that was shown, as soon as `wanted` is in it."""
        deadline = time.monotonic() + PATIENCE_S
        while wanted not in self.shown:
            assert self._read(deadline), self.shown
        return self.shown

    def end(self) -> tuple[int, bytes]:
        """The exit code, and all that was shown."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        return self.process.wait(PATIENCE_S), self.shown

    def _read(self, deadline: float) -> bool:
        assert select.select([self._terminal], (), (), max(0, deadline - time.monotonic()))[0], self.shown
        try:
            data = os.read(self._terminal, 1 << 16)
        except OSError:  # the last process has closed its end
            return False
        self.shown += data
        return bool(data)


@contextmanager
def typed(served: Served, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Typed]:
    """A `kbroker` command against this broker, with a terminal for all it reads and shows."""
    terminal, its_end = pty.openpty()
    with subprocess.Popen(
        [*KBROKER, *arguments],
        env=clean_environment()
        | {"KBROKER_SERVER": served.server, "TERM": "dumb", "COLUMNS": "200"}
        | dict(environment or {}),
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
    ) as process:
        os.close(its_end)
        try:
            yield Typed(process, terminal)
        finally:
            process.kill()
            os.close(terminal)


def shown(served: Served, *arguments: str, environment: Mapping[str, str] | None = None) -> bytes:
    """What a command that succeeds shows on a terminal, without the terminal's carriage returns."""
    with typed(served, *arguments, environment=environment) as command:
        code, text = command.end()
    assert code == 0, text
    return text.replace(b"\r\n", b"\n")
