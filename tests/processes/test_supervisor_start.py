"""What a broker needs to start, and what it says when it is not there."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest
import zmq

from .conftest import DEADLINE_S, StartBroker


def test_a_second_broker_on_the_same_folder_names_folder_and_pid(start_broker: StartBroker) -> None:
    first = start_broker().ready()
    second = start_broker()
    message = second.expect("^ERROR (.*)").group(1)
    assert str(first.folder / "data") in message
    assert f"process {first.pid}" in message
    assert second.wait() == 2
    assert first.status()["state"] == "ready"


def test_a_second_broker_on_the_same_runtime_folder(start_broker: StartBroker, tmp_path: Path) -> None:
    first = start_broker(settings={"runtime.dir": str(tmp_path / "run")}).ready()
    second = start_broker(settings={"log.dir": str(tmp_path / "other"), "runtime.dir": str(tmp_path / "run")})
    message = second.expect("^ERROR (.*)").group(1)
    assert f"runtime folder {tmp_path}/run" in message
    assert f"process {first.pid}" in message


def test_a_long_runtime_path_is_refused(start_broker: StartBroker, tmp_path: Path) -> None:
    broker = start_broker(settings={"runtime.dir": str(tmp_path / ("x" * 100))})
    broker.expect("^ERROR the runtime folder's path is too long")
    assert not (tmp_path / "data").exists()


def test_modes_of_folders_and_sockets(start_broker: StartBroker) -> None:
    broker = start_broker().ready()
    for folder in (broker.folder / "data", broker.runtime_dir):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    sockets = [entry for entry in broker.runtime_dir.iterdir() if entry.is_socket()]
    assert sorted(entry.name for entry in sockets) == [
        *("front.ipc", "supervisor.sock"),
        *(f"worker-{i}.{kind}" for i in range(2) for kind in ("shm", "sock")),
    ]
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in sockets} == {0o660}
    internal = broker.runtime_dir / "internal"
    assert stat.S_IMODE(internal.stat().st_mode) == 0o700
    assert sorted(entry.name for entry in internal.iterdir()) == ["backend.sock", "control.sock"]
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in internal.iterdir()} == {0o600}


def test_folders_that_are_open_to_all_are_told_once_a_start(start_broker: StartBroker, tmp_path: Path) -> None:
    data, runtime = tmp_path / "data", tmp_path / "run"
    for folder, mode in ((data, 0o777), (runtime, 0o751)):
        folder.mkdir()
        folder.chmod(mode)
    for _ in range(2):
        broker = start_broker(settings={"runtime.dir": str(runtime)})
        broker.expect(f"WARNING .* data folder {data} is open to all: .* may list and change and enter it .mode 0777")
        broker.expect(f"WARNING .* runtime folder {runtime} .* may enter it .mode 0751.* run: chmod o-rwx {runtime}")
        broker.ready().signal(signal.SIGTERM)
        assert broker.wait() == 0
        assert sum("is open to all" in line for line in broker.lines) == 2
    for folder in (data, runtime):
        folder.chmod(0o770)
    broker = start_broker(settings={"runtime.dir": str(runtime)}).ready()
    assert not any("is open to all" in line for line in broker.lines)


def test_a_folder_of_others_is_left_alone(start_broker: StartBroker, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("mine")
    broker = start_broker()
    broker.expect("^ERROR the data folder .* holds 'thesis.tex': it is not kbroker's")
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["thesis.tex"]


def test_a_port_in_use_is_named(start_broker: StartBroker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        broker = start_broker(settings={"native.listen": f"127.0.0.1:{port}"})
        broker.expect(rf"^ERROR port {port} is taken by another program \(native.listen=127.0.0.1:{port}\): stop it")
        assert broker.wait() == 2


def test_exactly_one_warning_for_an_open_address(start_broker: StartBroker) -> None:
    broker = start_broker(settings={"native.listen": "0.0.0.0:0"}).ready()
    os.kill(broker.child("front")["pid"], signal.SIGKILL)
    broker.expect("front .* serves again")
    broker.signal(signal.SIGTERM)
    assert broker.wait() == 0
    assert sum("there is no authentication yet" in line for line in broker.lines) == 1


def test_a_child_that_can_never_serve_ends_the_start(start_broker: StartBroker) -> None:
    broker = start_broker(coordinator="refuses")
    broker.expect("coordinator .* cannot serve .* stopping")
    broker.expect("^ERROR the catalog has a newer format: start a newer kbroker")
    assert broker.wait() == 2


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "ipc"])
def test_a_restarting_front_is_a_pause_for_its_clients(start_broker: StartBroker, address: str) -> None:
    tcp = "127.0.0.1:0" if address == "ipc" else address
    broker = start_broker(settings={"native.listen": tcp}, front="echoes").ready()
    where = "tcp://" + broker.status()["listeners"]["native"]
    if address == "ipc":
        where = f"ipc://{broker.runtime_dir}/front.ipc"
    pid = broker.child("front")["pid"]
    # Stopped, it accepts nothing: a new connection waits in the backlog and is served by the successor.
    os.kill(pid, signal.SIGSTOP)
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.setsockopt(zmq.IPV6, 1)
        client.setsockopt(zmq.LINGER, 0)
        client.connect(where)
        client.send(b"hello")
        os.kill(pid, signal.SIGKILL)
        broker.expect("front .* serves again")
        successor = broker.child("front")["pid"]
        assert client.poll(DEADLINE_S * 1000)
        assert client.recv() == b"hello %d" % successor


def test_a_listener_from_systemd(start_broker: StartBroker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # $LISTEN_PID must be the broker's own pid: the wrapper sets it and becomes the broker.
        wrapper = [
            sys.executable,
            "-c",
            f"import os, sys; os.dup2({listener.fileno()}, 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
            "os.execv(sys.argv[1], sys.argv[1:])",
        ]
        env = {**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "native"}
        settings = {"native.listen": "127.0.0.1:1"}
        broker = start_broker(settings, front="echoes", wrapper=wrapper, env=env, pass_fds=[listener.fileno()]).ready()
        assert broker.status()["listeners"]["native"] == f"127.0.0.1:{port}"
        with zmq.Context() as context, context.socket(zmq.DEALER) as client:
            client.connect(f"tcp://127.0.0.1:{port}")
            client.send(b"hello")
            assert client.poll(DEADLINE_S * 1000)
