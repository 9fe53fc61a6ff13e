"""What the supervisor tells: supervisor.sock, systemd."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.errors import BrokerUnavailable
from kbroker.wire.status import read_status

from .conftest import DEADLINE_S, RunningBroker, StartBroker


def test_the_document(start_broker: StartBroker) -> None:
    broker = start_broker(settings={"native.listen": "127.0.0.1:0"}).ready()
    document = broker.status()
    assert document["pid"] == broker.pid
    assert document["state"] == "ready"
    assert document["worker_count"] == 2
    assert document["data_dir"] == str(broker.folder / "data")
    assert document["listeners"]["native"].startswith("127.0.0.1:")
    assert [p["title"] for p in document["processes"]] == ["coordinator", "front", "worker 0", "worker 1"]
    for process in document["processes"]:
        assert process["rss_bytes"] >= process["rss_anon_bytes"] > 0
        command = Path(f"/proc/{process['pid']}/cmdline").read_bytes().rstrip(b"\0").decode()
        assert command == f"kbroker: {process['title']}"
    assert Path(f"/proc/{broker.pid}/cmdline").read_bytes().startswith(b"kbroker: supervisor")


def test_no_broker(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match="no broker runs on"):
        read_status(tmp_path)


def test_readers_that_do_not_read_hold_nothing_up(start_broker: StartBroker) -> None:
    broker = start_broker().ready()
    readers = []
    for _ in range(100):
        reader = socket.socket(socket.AF_UNIX)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        reader.connect(str(broker.runtime_dir / "supervisor.sock"))
        readers.append(reader)
    assert broker.status()["state"] == "ready"
    for reader in readers:
        reader.close()
    assert broker.status()["state"] == "ready"


class NotifySocket:
    """systemd's end of sd_notify."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(DEADLINE_S)
        self.told: list[str] = []

    def expect(self, *wanted: str) -> str:
        """The next message that starts with one of `wanted`."""
        while True:
            self.told.append(self.socket.recv(4096).decode())
            if self.told[-1].startswith(wanted):
                return self.told[-1]


@pytest.fixture(params=["path", "abstract"])
def notify(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[NotifySocket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@kbroker-test-{os.getpid()}"
    end = NotifySocket(name.replace("@", "\0", 1))
    yield end, name
    end.socket.close()


def start_notifying(start_broker: StartBroker, name: str, **more: str) -> RunningBroker:
    env = {**os.environ, "NOTIFY_SOCKET": name, "WATCHDOG_USEC": "400000"}
    return start_broker(env=env, settings={"process.heartbeat.timeout.ms": "1000"}, **more)


def test_systemd_hears_of_everything(start_broker: StartBroker, notify: tuple[NotifySocket, str]) -> None:
    systemd, name = notify
    broker = start_notifying(start_broker, name)
    assert systemd.expect("STATUS=") == "STATUS=starting"
    systemd.expect("READY=1")
    assert "WATCHDOG=1" not in systemd.told
    systemd.expect("STATUS=2 workers, 6 partitions")
    for _ in range(3):
        systemd.expect("WATCHDOG=1")
    broker.ready()
    os.kill(broker.child("worker-0")["pid"], signal.SIGKILL)
    systemd.expect("STATUS=degraded: 2 workers, 3 partitions; out of service: worker 0 (restarting)")
    assert systemd.expect("STATUS=2 workers") == "STATUS=2 workers, 6 partitions"
    broker.signal(signal.SIGHUP)
    assert "\nMONOTONIC_USEC=" in systemd.expect("RELOADING=1")
    systemd.expect("READY=1")
    broker.signal(signal.SIGTERM)
    systemd.expect("STOPPING=1")
    assert broker.wait() == 0


@pytest.mark.slow
def test_watchdog_is_withheld_while_a_child_does_not_answer(
    start_broker: StartBroker, notify: tuple[NotifySocket, str]
) -> None:
    systemd, name = notify
    broker = start_notifying(start_broker, name).ready()
    systemd.expect("WATCHDOG=1")
    os.kill(broker.child("front")["pid"], signal.SIGSTOP)
    broker.expect("front .* is hung")
    broker.expect("front .* serves again")
    # From the stop to the successor at most one: the one that the last answers before the stop had earned.
    told: list[str] = []
    while not told or "out of service: front (restarting)" not in told[-1]:
        told.append(systemd.socket.recv(4096).decode())
    assert told.count("WATCHDOG=1") <= 2
    systemd.expect("WATCHDOG=1")


def test_a_notify_socket_that_is_full_blocks_nothing(start_broker: StartBroker, tmp_path: Path) -> None:
    systemd = NotifySocket(str(tmp_path / "notify"))
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            filler.sendto(b"x", str(tmp_path / "notify"))
    broker = start_broker(env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}).ready()
    broker.signal(signal.SIGTERM)
    assert broker.wait() == 0
    filler.close()
    systemd.socket.close()
