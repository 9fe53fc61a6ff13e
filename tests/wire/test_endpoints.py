"""What a client's `server` means, and paths too long for a unix socket."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kbroker.errors import BrokerUnavailable, StartError
from kbroker.wire.endpoints import check_runtime_path, resolve_server, speaks_kafka
from tests.cli.served import short_folder


@pytest.mark.parametrize(
    ("server", "endpoint"),
    [
        ("tcp://h:1", "tcp://h:1"),
        ("ipc:///run/x", "ipc:///run/x"),
        ("h:1", "tcp://h:1"),
        ("h", "tcp://h:7092"),
        ("[::1]:5", "tcp://[::1]:5"),
        ("/run/x/front.ipc", "ipc:///run/x/front.ipc"),
    ],
)
def test_a_server_names_an_endpoint(server: str, endpoint: str) -> None:
    assert resolve_server(server, {}) == endpoint


def test_the_environment_names_the_server_when_the_caller_does_not() -> None:
    assert resolve_server(None, {"KBROKER_SERVER": "h:1"}) == "tcp://h:1"
    assert resolve_server("i:2", {"KBROKER_SERVER": "h:1"}) == "tcp://i:2"


def test_a_folder_stands_for_the_front_in_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "front.ipc").touch()
    assert resolve_server(str(tmp_path), {}) == f"ipc://{tmp_path}/run/front.ipc"


def test_a_port_that_is_no_number_is_refused() -> None:
    with pytest.raises(BrokerUnavailable, match="HOST:PORT"):
        resolve_server("host:port", {})


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
@pytest.mark.parametrize("what", ["folder", "socket"])
def test_a_user_outside_the_group_is_told_how_to_get_in(what: str) -> None:
    daemon = grp.getgrnam("daemon").gr_gid
    with short_folder() as folder:
        folder.chmod(0o755)
        run = folder / "run"
        run.mkdir(0o750 if what == "folder" else 0o755)
        socket.socket(socket.AF_UNIX).bind(str(run / "front.ipc"))
        (run / "front.ipc").chmod(0o660)
        os.chown(run, 0, daemon)
        os.chown(run / "front.ipc", 0, daemon)
        place = run if what == "folder" else run / "front.ipc"
        expected = (
            f"user nobody may not connect to {run}/front.ipc: {place} belongs to root:daemon; "
            "`usermod -aG daemon nobody` as root, then log in anew"
        )
        for server in (f"{folder}", f"{run}", f"ipc://{run}/front.ipc"):
            assert _as_nobody(lambda server=server: resolve_server(server, {})) == expected  # type: ignore[misc]
        os.chmod(run, 0o755)
        (run / "front.ipc").chmod(0o600)
        assert "run as root, its owner" in _as_nobody(lambda: resolve_server(str(run), {}))


def _as_nobody(action: Callable[[], object]) -> str:
    """What it says to that user, who may not even read this tree."""
    ours, its = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "did not fail"
        try:
            nobody = pwd.getpwnam("nobody")
            os.setgroups([])
            os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
            os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)
            action()
        except BrokerUnavailable as error:
            text = str(error)
        except BaseException as error:
            text = repr(error)
        finally:
            os.write(its, text.encode())
            os._exit(0)
    os.close(its)
    os.waitpid(pid, 0)
    with os.fdopen(ours) as said:
        return said.read()


def test_kafkas_port_is_known_by_its_answer() -> None:
    """Not by its number: an answer that is no Kafka broker's, none, and nobody there."""
    answers = {b"\0\0\0\x0a" + bytes(10): True, b"HTTP/1.1 400 Bad Request\r\n": False, b"": False}
    for answer, expected in answers.items():
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]

            def serve(server: socket.socket = server, answer: bytes = answer) -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(64)
                    connection.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            assert speaks_kafka(f"tcp://127.0.0.1:{port}") is expected
            thread.join()
        assert not speaks_kafka(f"tcp://127.0.0.1:{port}")
    assert not speaks_kafka("ipc:///run/x")


def test_a_runtime_path_that_is_too_long_is_named() -> None:
    check_runtime_path(Path("/run/kbroker"))
    check_runtime_path(Path("/run/é"))
    with pytest.raises(StartError, match=r"not UTF-8: '/run/n.udcff'.*runtime\.dir"):
        check_runtime_path(Path("/run/n\udcff"))
    with pytest.raises(StartError, match=r"too long.*runtime\.dir"):
        check_runtime_path(Path("/" + "x" * 100))
