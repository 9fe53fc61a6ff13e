"""Starting a whole broker where it cannot serve: one clear message, nothing touched; what it does to its folders."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from kbroker.testing import Broker, BrokerFailed
from kbroker.wire import messages as m

from .disks import memory_disk
from .raw_client import RawClient, batch

pytestmark = pytest.mark.slow


def refused(words: str, data_dir: Path | None = None, settings: dict[str, str] | None = None) -> None:
    """The broker does not start, says why in one line, and ends with a code that says so."""
    broker = Broker(settings, data_dir=data_dir)
    try:
        with pytest.raises(BrokerFailed, match=words):
            broker.start()
        assert "Traceback" not in broker.log
    finally:
        broker.close()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    before = content(tmp_path)
    refused("has no meta.properties but holds 'photos': it is not kbroker's; choose an empty folder", tmp_path)
    assert content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_kafkas_own_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "meta.properties").write_text("version=1\ncluster.id=abcdefghijklmnopqrstuv\nnode.id=1\n")
    refused("was not written by kbroker", tmp_path)


def test_a_data_folder_of_a_newer_format(tmp_path: Path) -> None:
    with Broker(data_dir=tmp_path / "data") as broker:
        broker.stop()
    path = tmp_path / "data" / "meta.properties"
    path.write_text(path.read_text().replace("kbroker.format=1", "kbroker.format=2"))
    refused("has format 2, this version of kbroker knows 1 at most: start a newer kbroker", tmp_path / "data")


def test_a_data_folder_that_is_served_already(tmp_path: Path) -> None:
    with Broker(data_dir=tmp_path / "data") as broker, RawClient(broker.server) as client:
        refused(rf"is in use by another broker \(process {broker.pid('supervisor')}\)", tmp_path / "data")
        client.create("t")
        assert client.produce("t", batch(1)).base_offset == 0


def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    refused("data folder", tmp_path / "data")


@pytest.mark.root
def test_a_read_only_data_folder(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", 16) as disk:
        disk.remount("ro")
        refused("Read-only file system", disk.data_dir)


@pytest.mark.root
def test_no_space_for_a_new_data_folder(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", 1) as disk:
        disk.fill()
        refused("No space left on device|database or disk is full", disk.data_dir)


def test_ports_that_are_taken_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(address, settings={"native.listen": address})


def test_a_runtime_path_that_no_unix_socket_takes(tmp_path: Path) -> None:
    broker = Broker()
    broker.runtime_dir = tmp_path / ("r" * 100)
    try:
        with pytest.raises(BrokerFailed, match=r"is too long|too long for a unix socket"):
            broker.start()
    finally:
        broker.close()


def test_wrong_settings_are_named() -> None:
    refused("did you mean log.segment.bytes", settings={"log.segment.byte": "5"})
    refused(r"log.segment.bytes='-5' is not valid", settings={"log.segment.bytes": "-5"})


def test_modes_of_all_that_a_broker_makes() -> None:
    with Broker(workers=2, tcp=True) as broker:
        with RawClient(broker.server) as client:
            client.create("t")
            client.produce("t", batch(1))
        for folder in (broker.data_dir, broker.runtime_dir, broker.data_dir / "t-0"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o750, folder
        sockets = [path for path in broker.runtime_dir.iterdir() if path.is_socket()]
        assert len(sockets) >= 6
        for path in sockets:
            assert stat.S_IMODE(path.stat().st_mode) == 0o660, path
        for path in (broker.data_dir / "t-0").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0, path
        for path in broker.data_dir.glob("meta.db*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0, path


@pytest.mark.parametrize(("address", "warnings"), [("0.0.0.0:0", 1), ("127.0.0.1:0", 0)])
def test_an_open_address_is_warned_of_once(address: str, warnings: int) -> None:
    with Broker({"native.listen": address}, workers=2) as broker:
        with RawClient(broker.server) as client:
            assert client.ask(m.HelloAnswer, m.Hello()).version == 1
        assert broker.log.count("WARNING") == warnings
        assert broker.log.count("authentication") == warnings


def test_nothing_is_left_in_the_runtime_folder() -> None:
    with Broker(workers=2) as broker:
        broker.stop()
        assert not [path for path in broker.runtime_dir.rglob("*") if path.is_socket()]
        broker.start()
        broker.kill_all()
        broker.start()
        assert os.access(broker.runtime_dir, os.W_OK)
