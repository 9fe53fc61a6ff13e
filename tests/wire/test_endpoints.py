"""What a client's `server` means, and paths too long for a unix socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbroker.errors import BrokerUnavailable, StartError
from kbroker.wire.endpoints import check_runtime_path, resolve_server


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


def test_a_runtime_path_that_is_too_long_is_named() -> None:
    check_runtime_path(Path("/run/kbroker"))
    with pytest.raises(StartError, match=r"too long.*runtime\.dir"):
        check_runtime_path(Path("/" + "x" * 100))
