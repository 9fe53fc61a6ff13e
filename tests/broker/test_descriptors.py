"""Descriptors of a process: all doors together leave enough to the log, and where none is left clients are told so."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator

import psutil
import pytest

from kbroker.testing import Broker
from kbroker.testing.broker import BrokerFailed

from .kafka_client import KafkaClient
from .kafka_raw import asks, port_of

LIMIT = 700
KAFKA_STORAGE_ERROR = 56
PREPARED_S = 4
"""By then a worker has made, in idle moments, all that writes refusals: it opens no file for one any more."""


class Limited(Broker):
    """With few descriptors for each of its processes."""

    def command(self) -> list[str]:
        return ["/bin/sh", "-c", 'ulimit -n "$0"; exec "$@"', str(LIMIT), *super().command()]


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Limited(workers=1, listeners="PLAINTEXT://127.0.0.1:0", log_segment_bytes=1 << 20) as running:
        yield running


def produced(client: KafkaClient, topic: str, count: int) -> list[int]:
    """Error codes; so many of these fill three segments of 1 MiB in 10."""
    return [int(client.produce(topic, 0, os.urandom(300_000)).error_code) for _ in range(count)]


@pytest.mark.slow
def test_the_log_goes_on_when_every_door_is_full(broker: Broker) -> None:
    assert f"{LIMIT} descriptors for each process" in broker.log
    assert "max.connections=" in broker.log
    worker = psutil.Process(broker.pid("worker-0"))
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(KafkaClient(broker, 1))
        client.create("t")
        for _ in range(LIMIT):
            with contextlib.suppress(OSError):  # refused
                stack.enter_context(socket.create_connection(("127.0.0.1", port_of(broker, 1)), 2))
        for kind, name in ((socket.SOCK_STREAM, "worker-0.sock"), (socket.SOCK_SEQPACKET, "worker-0.shm")):
            for _ in range(LIMIT):
                guest = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
                guest.settimeout(2)
                with contextlib.suppress(OSError):
                    guest.connect(str(broker.runtime_dir / name))
        broker.wait_until(lambda: broker.log.count("is reached") + broker.log.count("are connected") >= 2)
        assert worker.num_fds() < LIMIT - 128
        assert produced(client, "t", 10) == [0] * 10
        client.create("another", 3)
        assert produced(client, "another", 5) == [0] * 5
    broker.wait_until(lambda: asks(broker))
    assert "Too many open files" not in broker.log


def test_where_none_is_left_a_roll_is_refused_and_works_again(broker: Broker) -> None:
    pid = broker.pid("worker-0")
    with KafkaClient(broker, 1) as client:
        client.create("t")
        assert produced(client, "t", 1) == [0]
        broker.wait_until(lambda: time.time() - psutil.Process(pid).create_time() > PREPARED_S)
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (psutil.Process(pid).num_fds(), before[1]))
        codes = produced(client, "t", 6)
        assert codes[0] == 0
        assert codes[-1] == KAFKA_STORAGE_ERROR
        assert set(codes) == {0, KAFKA_STORAGE_ERROR}
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert produced(client, "t", 4) == [0] * 4
    assert broker.pid("worker-0") == pid


@pytest.mark.slow
def test_more_partitions_than_descriptors_leave_the_others_and_their_clients_alone(broker: Broker) -> None:
    pid = broker.pid("worker-0")
    with KafkaClient(broker, 1) as client:
        client.create("first")
        assert produced(client, "first", 1) == [0]
        with contextlib.suppress(AssertionError, OSError):
            client.create("many", LIMIT)
        broker.wait_until(lambda: broker.status()["outages_in_all"] > LIMIT // 2, 30)
        assert "raise LimitNOFILE" in broker.status()["outages"][0]["why"]
        assert produced(client, "first", 10) == [0] * 10, "segments are begun"
    broker.wait_until(lambda: asks(broker))
    assert broker.pid("worker-0") == pid
    # A start opens them by their names.
    broker.restart()
    with KafkaClient(broker, 1) as client:
        assert produced(client, "first", 10) == [0] * 10
        client.delete("many")
    broker.wait_until(lambda: broker.status()["state"] == "ready", 30)
    assert "Traceback" not in broker.log


def test_limits_set_by_hand_that_do_not_fit_are_refused_at_start() -> None:
    broker = Limited(workers=1, max_connections=650)
    try:
        with pytest.raises(BrokerFailed, match=r"max\.connections=650 ask for 650 descriptors in a worker, and of 700"):
            broker.start()
    finally:
        broker.close()
    assert "Traceback" not in broker.log
