"""`kbroker serve` and `kbroker status` as processes."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.served import KBROKER, Served, clean_environment, serve


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kbroker-") as path:
        yield Path(path)


def test_the_ready_line_says_how_to_reach_it(served: Served) -> None:
    bootstrap = served.ready_line.partition("bootstrap.servers=")[2].partition(";")[0]
    assert bootstrap.startswith("localhost:")
    assert served.ready_line == (
        f"kbroker is ready: KBROKER_SERVER=ipc://{served.data_dir}/run/front.ipc; bootstrap.servers={bootstrap}; "
        f"2 workers, data in {served.data_dir}"
    )
    assert (
        f"bootstrap.servers={bootstrap}\n" in served.must("status", "--runtime-dir", f"{served.data_dir}/run").decode()
    )


def test_a_free_tcp_port_is_printed_and_served(folder: Path) -> None:
    with serve(folder, "--native-listen", "127.0.0.1:0") as broker:
        tcp = broker.ready_line.partition("(or ")[2].partition(")")[0]
        assert tcp.startswith("tcp://127.0.0.1:")
        assert broker.must("topic", "list", "--server", tcp) == b""


def test_kafka_clients_are_told_the_advertised_host(folder: Path) -> None:
    kafka = pytest.importorskip("confluent_kafka.admin")
    with serve(folder, "--listen", "127.0.0.1:0", "--advertised-host", "localhost") as broker:
        bootstrap = broker.ready_line.partition("bootstrap.servers=")[2].partition(";")[0]
        listed = kafka.AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=20)
        assert {node.host for node in listed.brokers.values()} == {"localhost"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(folder: Path, number: signal.Signals) -> None:
    with serve(folder) as broker:
        broker.process.send_signal(number)
        assert broker.process.wait(30) == 0
    with serve(folder):
        pass


def test_a_folder_in_use_is_refused_by_name(served: Served) -> None:
    done = subprocess.run(
        [*KBROKER, "serve", "--data-dir", str(served.data_dir)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("kbroker: ")
    assert str(served.data_dir) in done.stderr
    assert "Traceback" not in done.stderr


def test_status_tells_the_processes(served: Served) -> None:
    status = json.loads(served.must("status", "--json"))
    assert [process["name"] for process in status["processes"]] == ["coordinator", "front", "worker-0", "worker-1"]
    assert all(process["ready"] for process in status["processes"])
    table = served.must("status", "--runtime-dir", f"{served.data_dir}/run").decode()
    assert "worker 1" in table
    assert str(status["processes"][3]["pid"]) in table


def supervisor_that_says(folder: Path, document: bytes) -> socket.socket:
    """A listening supervisor.sock with one answer ready for whoever connects."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "supervisor.sock"))
    listener.listen()

    def answer() -> None:
        with contextlib.suppress(OSError):  # closed by the test
            connection, _ = listener.accept()
            connection.sendall(document)
            connection.close()

    threading.Thread(target=answer, daemon=True).start()
    return listener


@pytest.mark.parametrize(("change", "code"), [({}, 0), ({"ready": False, "pid": 0}, 3)])
def test_status_ends_with_3_while_a_process_is_away(
    served: Served, folder: Path, change: dict[str, object], code: int
) -> None:
    status = json.loads(served.must("status", "--json"))
    status["processes"][2].update(change)
    with supervisor_that_says(folder, json.dumps(status).encode()):
        done = served.run("status", "--runtime-dir", str(folder))
    assert done.returncode == code
    assert (b"restarting" in done.stdout) == (code == 3)


def test_status_ends_with_4_when_the_supervisor_is_gone(served: Served, folder: Path) -> None:
    supervisor_that_says(folder, b"").close()
    assert served.run("status", "--runtime-dir", str(folder)).returncode == 4
    (folder / "supervisor.sock").unlink()
    with supervisor_that_says(folder, b'{"half'):
        done = served.run("status", "--runtime-dir", str(folder))
    assert done.returncode == 4
    assert b"hung up" in done.stderr
