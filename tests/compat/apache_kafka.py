"""Apache Kafka's own broker in one process, to compare answers with: `python -m tests.compat.apache_kafka`.

It listens on loopback, keeps its log in a temporary folder, and is gone with it at the end.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.compat.java_tools import JavaTools, ToolsMissing, find_tools

START_S: Final = 60
STOP_S: Final = 20
_CLUSTER_ID: Final = "a2Jyb2tlci10ZXN0cy0xMA"
_API_VERSIONS: Final = struct.pack(">ihhih", 10, 18, 0, 1, -1)  # size, API, version, correlation id, no client id


class ApacheKafka:
    """Use it as a context. `settings` are lines of its server.properties, by name."""

    def __init__(self, tools: JavaTools, settings: dict[str, str] | None = None) -> None:
        self._tools = tools
        self._folder = Path(tempfile.mkdtemp(prefix="apache-kafka-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.data_dir = self._folder / "data"
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            # It takes no port 0. Another program may take these before it does: then it does not start.
            self.port, controller = one.getsockname()[1], other.getsockname()[1]
        self._settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(self.data_dir),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
        } | (settings or {})

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        properties = self._folder / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in self._settings.items()))
        self._tools.run("kafka-storage", "format", "-t", _CLUSTER_ID, "-c", str(properties))
        with open(self._folder / "server.log", "wb") as log:
            self._process = subprocess.Popen(
                self._tools.command("kafka-server-start", str(properties)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while not self._answers(max(0.1, deadline - time.monotonic())):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise AssertionError(f"Apache Kafka did not start:\n{(self._folder / 'server.log').read_text()}")
            time.sleep(0.1)  # between two attempts to connect

    def _answers(self, timeout_s: float) -> bool:
        """Its port is open before it serves: only an answer tells that it does."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout_s) as connection:
                connection.sendall(_API_VERSIONS)
                return len(connection.recv(4)) == 4
        except OSError:
            return False

    def close(self) -> None:
        """Leave nothing: no process, no file."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)


def main() -> int:
    """Run one until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ApacheKafka(find_tools()) as kafka:
            print(kafka.bootstrap_servers, flush=True)
            signal.pause()
    except ToolsMissing as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
