from __future__ import annotations

import gc
import logging
import os
import socket
import stat
from pathlib import Path

import pytest

from kbroker.config import Config, make_config
from kbroker.errors import ConfigError, StartError
from kbroker.workers.listeners import (
    Listener,
    TcpAddress,
    UnixAddress,
    bind_unix,
    host_port,
    inherited_listeners,
    make_internal_folder,
    open_listeners,
    parse_address,
    planned,
    remove_stale_sockets,
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7092", "127.0.0.1", 7092),
        ("[::1]:7092", "::1", 7092),
        ("localhost:0", "localhost", 0),
        ("*:1", "", 1),
        (":1", "", 1),
        ("[::]:65535", "::", 65535),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text, "native.listen") == TcpAddress(host, port, "native.listen")


@pytest.mark.parametrize("text", ["", "7092", "host", "host:", "host:port", "::1:7092", "h:65536", "h:-1", "h:٣"])
def test_wrong_addresses_name_the_setting(text: str) -> None:
    with pytest.raises(ConfigError, match=r"native\.listen="):
        parse_address(text, "native.listen")


def test_host_port() -> None:
    assert host_port("::1", 5) == "[::1]:5"
    assert host_port("127.0.0.1", 5) == "127.0.0.1:5"


def config_in(folder: Path, **values: str) -> Config:
    return make_config({"log.dir": str(folder), "runtime.dir": str(folder), "workers": "2", **values})


def test_what_is_planned(tmp_path: Path) -> None:
    names = [(listener.process, listener.name) for listener in planned(config_in(tmp_path))]
    workers = [(f"worker-{i}", name) for i in range(2) for name in ("door", "shm")]
    assert names == [("front", "door"), ("front", "backend"), ("coordinator", "control"), *workers]
    config = config_in(tmp_path, **{"native.listen": "[::1]:7092", "shm.enable": "false"})
    assert Listener("front", "native", TcpAddress("::1", 7092, "native.listen")) in planned(config)
    assert "shm" not in [listener.name for listener in planned(config)]


@pytest.mark.parametrize(
    ("address", "warnings"), [("127.0.0.1:0", 0), ("[::1]:0", 0), ("localhost:0", 0), ("*:0", 1), ("0.0.0.0:0", 1)]
)
def test_one_warning_for_all_open_addresses(
    address: str, warnings: int, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    tcp = parse_address(address, "native.listen")
    wanted = [Listener("front", "native", tcp), Listener("front", "second", tcp)]
    wanted.append(Listener("worker-0", "shm", UnixAddress(tmp_path / "worker-0.shm", socket.SOCK_SEQPACKET)))
    with caplog.at_level(logging.WARNING):
        opened = open_listeners(wanted, {})
    assert len(caplog.records) == warnings
    if warnings:
        assert caplog.records[0].getMessage().count(":") >= 3  # both addresses and the reason
    assert stat.S_IMODE((tmp_path / "worker-0.shm").stat().st_mode) == 0o660
    opened.close()
    assert not (tmp_path / "worker-0.shm").exists()


@pytest.mark.parametrize(("address", "is_unpaced"), [("127.0.0.1:0", True), ("[::1]:0", True), ("0.0.0.0:0", False)])
def test_only_loopback_is_told_not_to_pace(address: str, is_unpaced: bool) -> None:
    """The host's own choice holds for everybody else."""

    def congestion_control(sock: socket.socket) -> bytes:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")

    with socket.socket() as plain:
        usual = congestion_control(plain)
    opened = open_listeners([Listener("front", "native", parse_address(address, "native.listen"))], {})
    sock = opened.by_process["front"]["native"]
    with socket.create_connection(sock.getsockname()[:2], 10):
        accepted, _ = sock.accept()
        with accepted:
            assert congestion_control(accepted) == (b"reno" if is_unpaced else usual)
    opened.close()


def test_a_failure_closes_what_was_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = TcpAddress("127.0.0.1", other.getsockname()[1], "native.listen")
        path = tmp_path / "worker-0.shm"
        gc.collect()  # what an earlier test has left is not closed in the middle of this one
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(StartError, match=f"port {taken.port} is taken"):
            open_listeners(
                [
                    Listener("worker-0", "shm", UnixAddress(path, socket.SOCK_SEQPACKET)),
                    Listener("front", "native", taken),
                ],
                {},
            )
        assert not path.exists()
        assert len(os.listdir("/proc/self/fd")) == before


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(StartError, match="no interface of this host has that address"):
        open_listeners([Listener("front", "native", TcpAddress("192.0.2.1", 7092, "native.listen"))], {})


def test_a_name_that_is_not_known() -> None:
    with pytest.raises(StartError, match=r"native.listen: cannot find the address of 'no-such-host\.invalid'"):
        open_listeners([Listener("front", "native", TcpAddress("no-such-host.invalid", 1, "native.listen"))], {})


def test_variables_of_another_process_are_ignored() -> None:
    assert inherited_listeners({"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "native"}) == {}
    assert inherited_listeners({}) == {}


def test_only_our_stale_sockets_go(tmp_path: Path) -> None:
    stale = ["front.ipc", "backend.sock", "control.ipc", "supervisor.sock", "worker-7.sock", "worker-12.shm"]
    others = ["other.sock", "worker-x.sock", "worker-1.txt"]
    sockets = [socket.socket(socket.AF_UNIX) for _ in stale + others]
    for sock, name in zip(sockets, stale + others, strict=True):
        sock.bind(str(tmp_path / name))
    (tmp_path / "worker-0.sock").write_text("not a socket")
    remove_stale_sockets(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {*others, "worker-0.sock"}
    for sock in sockets:
        sock.close()


def test_the_internal_folder_is_ours_alone(tmp_path: Path) -> None:
    (tmp_path / "internal").mkdir(mode=0o777)
    make_internal_folder(tmp_path)
    assert (tmp_path / "internal").stat().st_mode & 0o777 == 0o700
    bind_unix(tmp_path / "internal" / "backend.sock", socket.SOCK_STREAM, is_internal=True).close()
    remove_stale_sockets(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_somebody_has_put_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "internal").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError, match=r"internal is not a folder of user"):
        make_internal_folder(tmp_path)
    (tmp_path / "internal").unlink()
    (tmp_path / "internal").write_text("a file")
    with pytest.raises(StartError, match=r"internal.*remove"):
        make_internal_folder(tmp_path)
